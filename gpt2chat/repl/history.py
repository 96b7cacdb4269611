"""The lines typed in earlier chats."""

import contextlib
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from gpt2chat.core.errors import StorageError
from gpt2chat.core.files import write_text

MOST_BYTES = 1_000_000
"""A history file that has grown beyond this keeps its latest lines, as many as take half of it."""
LONGEST = 100_000
"""Signs of a text that is kept: no window has room for a longer one."""
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
    """Where there is too much, drop the older lines and what is longer than any message."""
    if path.stat().st_size <= MOST_BYTES:
        return
    _, *entries = path.read_text(encoding="utf-8", errors="replace").split(ENTRY)
    kept: list[str] = []
    room = MOST_BYTES // 2
    for entry in reversed(entries):
        if len(entry) > LONGEST:
            continue
        room -= len(entry.encode())
        if room < 0:
            break
        kept.append(ENTRY + entry)
    write_text(path.resolve(), "".join(reversed(kept)), private=True)


class LastingHistory(FileHistory):
    """A history file that, when its disk is full, does not end the chat."""

    def store_string(self, string: str) -> None:
        if len(string) > LONGEST:
            return
        with contextlib.suppress(OSError):
            super().store_string(string)
