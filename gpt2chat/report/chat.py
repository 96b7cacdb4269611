"""Print the replies and tables of a chat."""

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gpt2chat.core.errors import StorageError
from gpt2chat.core.text.wording import plural
from gpt2chat.report.console import err, note
from gpt2chat.report.screen import WordWrap, screen_size

if TYPE_CHECKING:
    from gpt2chat.core.generation.generate import Reply


ENDS = {
    "stop": "",
    "length": "cut at the limit of max_new_tokens",
    "window": "cut at the end of the window",
    "loop": "stopped because it repeated itself",
    "cancelled": "stopped by Ctrl-C",
}
"""Explanation of each `finish_reason`; none for a reply that the model ended."""
NARROW = 40
"""Width in columns below which names and meanings are printed below each other."""


def show_reply(pieces: Iterable[str]) -> None:
    """Write a reply to stdout as it comes, and a line break after it, also after Ctrl-C.

    On a terminal, lines break between words. Each piece gets the terminal's present width, since
    the user may resize it.
    """
    encoding = sys.stdout.encoding or "utf-8"
    wrap = WordWrap()
    try:
        for text in visible(pieces):
            # In a locale that is not UTF-8, what it cannot show becomes a question mark.
            piece = text.encode(encoding, "replace").decode(encoding)
            size = screen_size()
            _write(wrap.add(piece, size.columns) if size else piece)
    finally:  # a reply that was stopped keeps its last word, and its line ends
        size = screen_size()
        _write((wrap.rest(size.columns) if size else "") + "\n")


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # the reader, such as `head`, has closed the pipe, and the program ends silently
    except OSError as error:
        # Python would try to write the rest at exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise StorageError(f"Standard output cannot be written: {error.strerror}.") from error


def visible(pieces: Iterable[str]) -> Iterator[str]:
    """Yield a text without white space at its ends and without control characters.

    A model can write escape sequences; they must not act on the terminal.
    """
    begun, space = False, ""
    for piece in pieces:
        chars = (char for char in piece if char in "\n\t" or unicodedata.category(char) != "Cc")
        text = space + "".join(chars)
        text = text if begun else text.lstrip()
        shown = text.rstrip()
        space = text[len(shown) :]  # written only if a word follows it
        if shown:
            begun = True
            yield shown


def show_speed(reply: "Reply") -> None:
    """Print the length of a reply, its speed, and why it ended if the model did not end it."""
    parts = [plural(len(reply.ids), "token")]
    if ENDS[reply.finish_reason]:
        parts.append(ENDS[reply.finish_reason])
    if reply.tokens_per_second:
        parts.append(f"{reply.tokens_per_second:,.0f} tokens/s")
    note(", ".join(parts))


def show_json_line(value: dict[str, Any]) -> None:
    """Print a line of JSON Lines on stdout."""
    _write(json.dumps(value, ensure_ascii=False) + "\n")


def show_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Print names with their meanings or values."""
    texts = [(Text(name), Text("".join(visible([value])), style="dim")) for name, value in rows]
    if err.width < NARROW:  # two columns would leave each meaning a word a row
        for name, meaning in texts:
            err.print(name, Padding.indent(meaning, 2), sep="\n")
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, meaning in texts:
        table.add_row(name, meaning)
    err.print(table)


def show_heading(text: str, end: str = "\n") -> None:
    """Print the heading of one of several replies, or, with an `end` of "", a question."""
    err.print(Text(text, style="bold"), end=end)
