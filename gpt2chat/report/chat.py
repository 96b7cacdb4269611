"""Print replies, notes and tables of a chat."""

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
"""What to say of a reply that ended for this reason."""
NARROW = 40
"""Columns; on fewer, a name and its meaning do not fit next to each other."""


def show_reply(pieces: Iterable[str]) -> None:
    """Write a reply to stdout as it comes, and a line break after it, also after Ctrl-C.

    On a terminal, lines break between words. The width is asked for again at each piece: the user
    may change it meanwhile.
    """
    encoding = sys.stdout.encoding or "utf-8"
    wrap = WordWrap()
    try:
        for text in visible(pieces):
            piece = text.encode(encoding, "replace").decode(encoding)
            size = screen_size()
            _write(wrap.add(piece, size.columns) if size else piece)
    finally:
        size = screen_size()
        _write((wrap.rest(size.columns) if size else "") + "\n")


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # whoever reads has read enough, and the program ends without a word
    except OSError as error:
        # Python would try to write the rest at exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise StorageError(f"Standard output cannot be written: {error.strerror}.") from error


def visible(pieces: Iterable[str]) -> Iterator[str]:
    """Yield a text without white space at its ends and without control characters.

    A model can write escape sequences; they must not act on the terminal.
    """
    begun, held = False, ""
    for piece in pieces:
        kept = (char for char in piece if char in "\n\t" or unicodedata.category(char) != "Cc")
        text = held + "".join(kept)
        text = text if begun else text.lstrip()
        shown = text.rstrip()
        held = text[len(shown) :]
        if shown:
            begun = True
            yield shown


def show_speed(reply: "Reply") -> None:
    """Print how long a reply is, why it ended if not by itself, and how fast it came."""
    parts = [plural(len(reply.ids), "token")]
    if ENDS[reply.finish_reason]:
        parts.append(ENDS[reply.finish_reason])
    if reply.tokens_per_second:
        parts.append(f"{reply.tokens_per_second:,.0f} tokens/s")
    note(", ".join(parts))


def show_json_line(value: dict[str, Any]) -> None:
    """Print an object of a result in JSON Lines, for other programs to read."""
    _write(json.dumps(value, ensure_ascii=False) + "\n")


def show_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and their meanings: commands, settings."""
    texts = [(Text(name), Text("".join(visible([value])), style="dim")) for name, value in rows]
    if err.width < NARROW:
        for name, meaning in texts:
            err.print(name, Padding.indent(meaning, 2), sep="\n")
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, meaning in texts:
        table.add_row(name, meaning)
    err.print(table)


def show_label(label: str) -> None:
    """Print the heading of one of several replies."""
    err.print(Text(label, style="bold"))


def show_question(question: str) -> None:
    """Print a question if there is no prompt on a screen."""
    err.print(question, end="", style="bold")
