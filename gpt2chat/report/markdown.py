"""A reply that holds Markdown, in its looks."""

import re
from typing import TYPE_CHECKING

from gpt2chat.report.console import out

if TYPE_CHECKING:
    from markdown_it.token import Token
    from rich.segment import Segment

SIGNS = re.compile(r"[*_`#>|~\[]|^\s*([-+]|\d+[.)])\s", re.MULTILINE)
"""Without one of these a text is surely no Markdown."""
PLAIN = {"paragraph_open", "paragraph_close", "inline", "text", "softbreak", "hardbreak"}
LEFT_OUT = [
    *("html_block", "html_inline", "image", "reference", "entity", "escape"),
    *("code", "lheading"),
]
"""Rules that would hide a part of the text; and two that plain prose runs into."""


def holds_markdown(text: str) -> bool:
    """Return whether a text has any of Markdown's looks: a list, a heading, code, bold …"""
    if SIGNS.search(text) is None or out.options.ascii_only:
        return False
    return any(kind not in PLAIN for kind in _kinds(_parsed(text)))


def show_markdown(text: str) -> None:
    """Print a text in Markdown's looks, on stdout. Its lines stay lines."""
    from rich.markdown import Markdown
    from rich.segment import Segment, Segments
    from rich.theme import Theme

    # No backgrounds, and the colours of the terminal's own palette: they suit dark and light ones.
    out.push_theme(Theme({"markdown.code": "bold cyan", "markdown.code_block": "cyan"}))
    shown = Markdown(text, code_theme="ansi_dark", hyperlinks=False)
    shown.parsed = _with_lines(_parsed(text))
    lines = [_without_end(line) for line in out.render_lines(shown, pad=False)]
    while lines and not lines[0]:
        del lines[0]
    for line in lines:
        out.print(Segments([*line, Segment.line()]), end="")
    out.pop_theme()


def _without_end(line: "list[Segment]") -> "list[Segment]":
    """Return a line without the space that fills it, which a terminal would copy."""
    kept = list(line)
    while kept and not kept[-1].text.strip():
        kept.pop()
    if kept:
        kept[-1] = kept[-1]._replace(text=kept[-1].text.rstrip())
    return kept


def _parsed(text: str) -> "list[Token]":
    from markdown_it import MarkdownIt

    parser = MarkdownIt().enable(["strikethrough", "table"]).disable(LEFT_OUT)
    return parser.parse(text)


def _with_lines(tokens: "list[Token]") -> "list[Token]":
    for token in tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
    return tokens


def _kinds(tokens: "list[Token]") -> list[str]:
    return [
        kind
        for token in tokens
        for kind in (token.type, *(child.type for child in token.children or ()))
    ]
