"""Save typed lines for later chats."""

import contextlib
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from gpt2chat.core.errors import StorageError
from gpt2chat.core.files import write_text

MOST_BYTES = 1_000_000
"""A larger history file is cut to its latest lines, half as large."""
LONGEST_ENTRY = 100_000
"""Longest text that is saved, in characters: no window has room for a longer one."""
ENTRY = "\n# "
"""Beginning of each entry in prompt_toolkit's file; the entry's time follows it."""


def open_history(path: Path | None) -> History:
    """Return the lines typed in earlier chats, from a file that only the user can read.

    Without a file, or if it cannot be written, lines last for this chat only.
    """
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("a+b"):
            pass  # it can be read and written
        if path.stat().st_size > MOST_BYTES:
            _, *entries = path.read_text(encoding="utf-8", errors="replace").split(ENTRY)
            latest: list[str] = []
            room = MOST_BYTES // 2
            for entry in reversed(entries):
                if len(entry) > LONGEST_ENTRY:
                    continue
                room -= len(entry.encode())
                if room < 0:
                    break
                latest.append(ENTRY + entry)
            with contextlib.suppress(StorageError):  # a long file is better than none
                write_text(path.resolve(), "".join(reversed(latest)), private=True)
        return SavedHistory(str(path))
    except OSError:
        return InMemoryHistory()


class SavedHistory(FileHistory):
    """A history file. A full disk does not end the chat."""

    def store_string(self, string: str) -> None:
        if len(string) > LONGEST_ENTRY:
            return
        with contextlib.suppress(OSError):
            super().store_string(string)
