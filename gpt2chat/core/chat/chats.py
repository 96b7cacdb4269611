"""Chats in files: saved by name, and kept by themselves so that they can be gone on with."""

import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

from gpt2chat.core.errors import DataError, RowError
from gpt2chat.core.files import storage, write_text
from gpt2chat.core.text.conversations import Conversation, Message, parse_messages

MOST_KEPT = 50
"""Chats that are kept; the oldest makes room for another."""
ELSEWHERE = "Set XDG_DATA_HOME to a folder of your own, or give --no-history."


class KeptChat(NamedTuple):
    """A chat that was kept, and what is needed to go on with it."""

    path: Path
    conversation: Conversation
    models: tuple[str, ...]
    """Those that were loaded, the one that answers first; none where the file does not say."""
    when: datetime
    """When its latest turn was."""
    unread: tuple[str, ...] = ()
    """Why later ones cannot be gone on with; each text names its file."""


def data_folder() -> Path | None:
    """Return where chats and typed lines are kept; None where there is no home folder.

    It is `gpt2chat` in `XDG_DATA_HOME` or in ~/.local/share.
    """
    try:
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    except RuntimeError:
        return None
    return Path(data, "gpt2chat")


def history_file() -> Path | None:
    """Return the file of typed lines; None where none are to be kept.

    `GPT2CHAT_HISTORY` names another than that of the data folder, or is `off`.
    """
    given = os.environ.get("GPT2CHAT_HISTORY")
    if given == "off":
        return None
    folder = data_folder()
    return Path(given) if given else folder and folder / "history"


def chats_folder() -> Path | None:
    """Return the folder of the kept chats; None where none are to be kept."""
    folder = data_folder()
    return None if os.environ.get("GPT2CHAT_HISTORY") == "off" else folder and folder / "chats"


def read_chat(path: Path) -> Conversation:
    """Return a saved or kept chat, or a plain JSON list of messages.

    Raises:
        DataError: The file cannot be read, or is neither.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[Conversation, dict[str, Any]]:
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8-sig"))
        fields = cast(dict[str, Any], value) if isinstance(value, dict) else {"messages": value}
        return parse_messages(fields.get("messages")), fields
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RowError, RecursionError) as error:
        raise DataError(f"{path} is no saved chat: {error}.") from error


def save_chat(path: Path, messages: Sequence[Message]) -> None:
    """Write a chat as one line of JSON, which `gpt2chat prepare --chat` reads too.

    Raises:
        DataError: The file is there and is no saved chat.
        StorageError: The file cannot be written.
    """
    if path.exists():
        try:
            read_chat(path)
        except DataError:
            raise DataError(f"{path} is no saved chat. Give another name.") from None
    write_text(path, _line(messages), elsewhere="Give another name.")


def _line(messages: Sequence[Message], **fields: Any) -> str:
    shown = [{"role": message.role, "content": message.content} for message in messages]
    return json.dumps({"messages": shown, **fields}, ensure_ascii=False) + "\n"


class Autosave:
    """Keeps one chat after another, each in a file of its own, so that none is lost."""

    def __init__(self, folder: Path, going_on: KeptChat | None = None):
        """Write to `folder`; a chat that is gone on with keeps its file."""
        self.folder = folder
        self._path = going_on.path if going_on else None
        self._written = _changed(self._path)

    def write(self, messages: Sequence[Message], models: Sequence[str]) -> None:
        """Keep the chat as it is; one without a message is kept no more.

        Raises:
            StorageError: The file cannot be written.
        """
        if self._path is not None and _changed(self._path) != self._written:
            self._path = None  # another program goes on with the same chat: each has its own file
        if not any(message.role == "user" for message in messages):
            self._forget()
            return
        if self._path is None:
            self._path = self.folder / f"{datetime.now():%Y-%m-%d-%H%M%S-%f}-{os.getpid()}.json"
        with storage(self.folder, ELSEWHERE):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        line = _line(messages, models=[_lasting(name) for name in models])
        write_text(self._path, line, elsewhere=ELSEWHERE, private=True)
        self._written = _changed(self._path)
        for old in _newest_first(self.folder)[MOST_KEPT:]:
            old.unlink(missing_ok=True)

    def begin_another(self) -> None:
        """Leave the chat's file as it is: what comes is another chat."""
        self._path = None

    def _forget(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None


def latest_chat(folder: Path | None) -> KeptChat:
    """Return the chat that was talked in last of those kept in a folder and can be read.

    Raises:
        DataError: None is kept, or none can be read.
    """
    unread: list[str] = []
    for path in _newest_first(folder) if folder else ():
        try:
            conversation, fields = _read(path)
        except DataError as error:
            unread.append(str(error))
            continue
        when = datetime.fromtimestamp((_changed(path) or 0) / 1e9)
        named: Any = fields.get("models")
        models = map(str, cast(list[Any], named)) if isinstance(named, list) else ()
        return KeptChat(path, conversation, tuple(map(_here, models)), when, tuple(unread))
    if unread:
        raise DataError(unread[0])
    raise DataError("There is no chat to go on with. Begin one with gpt2chat chat.")


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"), key=lambda path: _changed(path) or 0, reverse=True)


def _changed(path: Path | None) -> int | None:
    """Return when a file was written, in nanoseconds; None where there is none."""
    try:
        return path.stat().st_mtime_ns if path else None
    except OSError:
        return None


def _lasting(model: str) -> str:
    """Return a model's name as it is understood in any folder."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _here(model: str) -> str:
    """Return a model's name as it is typed in this folder."""
    here = Path.cwd()
    return str(Path(model).relative_to(here)) if Path(model).is_relative_to(here) else model
