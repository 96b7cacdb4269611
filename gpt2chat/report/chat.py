"""What `chat` prints."""

import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from gpt2chat.report.console import err, note

if TYPE_CHECKING:
    from gpt2chat.core.generate import Reply


def show_reply(pieces: Iterable[str]) -> None:
    """Write a reply to stdout as it comes, and a line break after it, also after Ctrl-C."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        for text in visible(pieces):
            sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()


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


def show_speed(reply: "Reply", *, interrupted: bool = False) -> None:
    """Print how long a reply is, why it ended if not by itself, and how fast it came."""
    parts = [f"{len(reply.ids):,} tokens"]
    if interrupted:
        parts.append("stopped by Ctrl-C")
    elif not reply.stopped:
        parts.append("cut at the limit")
    if reply.tokens_per_second:
        parts.append(f"{reply.tokens_per_second:,.0f} tokens/s")
    note(", ".join(parts))


def show_commands(rows: Sequence[tuple[str, str]]) -> None:
    """Print what can be typed in a chat and what it does."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for usage, meaning in rows:
        table.add_row(Text(usage), Text(meaning, style="dim"))
    err.print(table)


def show_text(text: str) -> None:
    """Print a text as it is, but for control characters, on stderr."""
    err.print(Text("".join(visible([text])), style="dim"), soft_wrap=True)


def show_prompt() -> None:
    """Ask for a message where stdout is no terminal."""
    err.print("> ", end="", style="bold")
