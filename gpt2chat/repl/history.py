"""The lines typed in earlier chats."""

import contextlib
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from gpt2chat.core.errors import StorageError
from gpt2chat.core.files import write_text

MOST_BYTES = 1_000_000
"""A history file that has grown beyond this loses its older half."""
ENTRY = "\n# "
"""What each entry of prompt_toolkit's file begins with, before its time."""


def lines_kept(path: Path | None) -> History:
    """Return the lines typed in earlier chats, in a file that only the user can read.

    Where there is no file, or it cannot be written, lines are kept for this chat only.
    """
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("a+b"):
            with contextlib.suppress(StorageError):  # a disk that is full has room to read
                shorten(path)
            return LastingHistory(str(path))
    except OSError:
        return InMemoryHistory()


def shorten(path: Path) -> None:
    """Drop the older half of the lines where there are too many of them."""
    if path.stat().st_size <= MOST_BYTES:
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    at = text.find(ENTRY, len(text) // 2)
    write_text(path.resolve(), text[at:] if at >= 0 else "", private=True)


class LastingHistory(FileHistory):
    """A history file that, when its disk is full, does not end the chat."""

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string)
