"""Keep typed lines for later chats."""

import contextlib
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from gpt2chat.core.errors import StorageError
from gpt2chat.core.files import write_text

MOST_BYTES = 1_000_000
"""A history file larger than this is shortened to its latest lines, half as large."""
LONGEST = 100_000
"""Longest text that is kept, in characters: no window has room for a longer one."""
ENTRY = "\n# "
"""Beginning of each entry in prompt_toolkit's file, before its time."""


def lines_kept(path: Path | None) -> History:
    """Return the lines typed in earlier chats, in a file that only the user can read.

    Without a file, or if it cannot be written, lines are kept for this chat only.
    """
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("a+b"):
            with contextlib.suppress(StorageError):  # a full disk can still be read
                shorten(path)
            return LastingHistory(str(path))
    except OSError:
        return InMemoryHistory()


def shorten(path: Path) -> None:
    """If the file is too large, drop the older lines and those longer than any message."""
    if path.stat().st_size <= MOST_BYTES:
        return
    _, *entries = path.read_text(encoding="utf-8", errors="replace").split(ENTRY)
    entries_to_keep: list[str] = []
    room = MOST_BYTES // 2
    for entry in reversed(entries):
        if len(entry) > LONGEST:
            continue
        room -= len(entry.encode())
        if room < 0:
            break
        entries_to_keep.append(ENTRY + entry)
    write_text(path.resolve(), "".join(reversed(entries_to_keep)), private=True)


class LastingHistory(FileHistory):
    """A history file; a full disk does not end the chat."""

    def store_string(self, string: str) -> None:
        if len(string) > LONGEST:
            return
        with contextlib.suppress(OSError):
            super().store_string(string)
