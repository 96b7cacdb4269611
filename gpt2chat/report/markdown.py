"""A reply that holds Markdown, in its looks: shown where nothing of it is lost by that."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gpt2chat.report.console import out

if TYPE_CHECKING:
    from markdown_it.token import Token
    from rich.segment import Segment

SIGNS = re.compile(r"[*_`#>|~\[]|^\s*([-+]|\d+[.)])\s", re.MULTILINE)
"""Without one of these a text is surely no Markdown."""
PLAIN = {"paragraph_open", "paragraph_close", "inline", "text", "softbreak", "hardbreak"}
LEFT_OUT = [
    *("html_block", "html_inline", "image", "reference", "entity", "escape", "autolink"),
    "lheading",
]
"""Rules that would hide a part of the text; and one that plain prose runs into."""
WORD = re.compile(r"\w+|\)\(")
"""Letters and digits that stand together, and brackets: two `)*(` would lose their stars."""
INDENTED = re.compile(r"\n\s")


def markdown_lines(text: str) -> "list[list[Segment]]":
    """Return a text in Markdown's looks, as wide as stdout. Its lines stay lines.

    Nothing comes back where it has no such looks, or where a letter, a digit or an indentation
    would be lost by them: in code that stands in no fence, or in a table that is too wide.
    """
    if SIGNS.search(text) is None or out.options.ascii_only:
        return []
    tokens = _parsed(text)
    if PLAIN.issuperset(_kinds(tokens)) or _is_indented(text, tokens):
        return []
    lines = _rendered(text, tokens, out.width)
    # In a narrow table words of one cell stand between those of another: the order is seen where
    # lines are as long as they like.
    unbroken = _words(_rendered(text, tokens, 3 * len(text) + 100))
    wanted = _found(_without_languages(text, tokens))
    return lines if unbroken == wanted and _letters(_words(lines)) == _letters(wanted) else []


def show_lines(lines: "list[list[Segment]]") -> None:
    """Print what `markdown_lines` returned, on stdout."""
    from rich.segment import Segment, Segments

    for line in lines:
        out.print(Segments([*line, Segment.line()]), end="")


def _parsed(text: str) -> "list[Token]":
    from markdown_it import MarkdownIt

    parser = MarkdownIt().enable(["strikethrough", "table"]).disable(LEFT_OUT)
    tokens = parser.parse(text)
    for child in (child for token in tokens for child in token.children or ()):
        if child.type == "softbreak":
            child.type = "hardbreak"
        elif child.markup.startswith("_"):  # more often a part of a name than a sign
            child.type, child.content = "text", child.markup
    return tokens


def _kinds(tokens: "list[Token]") -> Iterator[str]:
    for token in tokens:
        yield token.type
        yield from (child.type for child in token.children or ())


def _is_indented(text: str, tokens: "list[Token]") -> bool:
    """Return whether a line begins with space that no list or fence takes: it would be lost."""
    lines = text.split("\n")
    return any(
        token.type == "code_block"
        or (token.type == "inline" and INDENTED.search(token.content))
        or (
            token.type == "paragraph_open" and token.level == 0 and lines[_row(token)][:1].isspace()
        )
        for token in tokens
    )


def _row(token: "Token") -> int:
    """Return the line of the text that a block begins on."""
    return token.map[0] if token.map else 0


def _rendered(text: str, tokens: "list[Token]", width: int) -> "list[list[Segment]]":
    from rich.theme import Theme

    from gpt2chat.report.numbered import NumberedMarkdown

    # No backgrounds, and the colours of the terminal's own palette: they suit dark and light ones.
    theme = Theme({"markdown.code": "bold cyan", "markdown.code_block": "cyan"})
    shown = NumberedMarkdown(text, code_theme="ansi_dark", hyperlinks=False)
    shown.parsed = tokens
    with out.use_theme(theme):
        lines = out.render_lines(shown, out.options.update(width=width), pad=False)
    lines = [_without_end(line) for line in lines]
    while lines and not lines[0]:
        del lines[0]
    return lines


def _without_end(line: "list[Segment]") -> "list[Segment]":
    """Return a line without the space that fills it, which a terminal would copy."""
    kept = list(line)
    while kept and not kept[-1].text.strip():
        kept.pop()
    if kept:
        kept[-1] = kept[-1]._replace(text=kept[-1].text.rstrip())
    return kept


def _words(lines: "list[list[Segment]]") -> list[list[str]]:
    return _found("\n".join("".join(segment.text for segment in line) for line in lines))


def _found(text: str) -> list[list[str]]:
    """Return the words of each line that has any."""
    return [words for line in text.split("\n") if (words := WORD.findall(line))]


def _letters(words: list[list[str]]) -> Counter[str]:
    return Counter("".join("".join(line) for line in words))


def _without_languages(text: str, tokens: "list[Token]") -> str:
    """Return a text without the names of languages that its fences open with."""
    from rich.syntax import Syntax

    lines = text.split("\n")
    for token in tokens:
        if token.type == "fence" and Syntax("", token.info.strip()).lexer:
            lines[_row(token)] = lines[_row(token)].removesuffix(token.info)
    return "\n".join(lines)
