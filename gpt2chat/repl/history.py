"""The lines typed in earlier chats."""

import contextlib
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory


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
            return LastingHistory(str(path))
    except OSError:
        return InMemoryHistory()


class LastingHistory(FileHistory):
    """A history file that, when its disk is full, does not end the chat."""

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string)
