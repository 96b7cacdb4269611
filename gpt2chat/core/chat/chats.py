"""Save chats under a name, and automatically after each turn, so that they can be resumed."""

import contextlib
import json
import os
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

from gpt2chat.core.errors import DataError, RowError
from gpt2chat.core.files import storage, write_text
from gpt2chat.core.text.conversations import Conversation, Message, parse_messages

MOST_CHATS = 50
"""Most chats that are saved automatically; the oldest is removed."""
ELSEWHERE = "Set XDG_DATA_HOME to a folder of your own, or set `history=False`."


class SavedChat(NamedTuple):
    """The content of a saved chat."""

    conversation: Conversation
    cut: frozenset[int] = frozenset()
    """Positions among the messages of the replies that the model did not end itself."""


class KeptChat(NamedTuple):
    """A chat that was saved automatically, with what is needed to resume it."""

    path: Path
    conversation: Conversation
    models: tuple[str, ...]
    """Names of its models; the first answers. Empty if the file names none."""
    when: datetime
    """Time of its latest turn."""
    unread: tuple[str, ...] = ()
    """Errors of later chats, which cannot be read; each names its file."""
    cut: frozenset[int] = frozenset()
    """As in `SavedChat`."""


def data_folder() -> Path | None:
    """Return the folder of saved chats and typed lines; None without a home folder.

    It is `gpt2chat` in `XDG_DATA_HOME` or in ~/.local/share.
    """
    try:
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    except RuntimeError:  # what Path.home raises for a user without a home folder
        return None
    return Path(data, "gpt2chat")


def history_file() -> Path | None:
    """Return the file of typed lines; None if they are not saved.

    `GPT2CHAT_HISTORY` names another file than that of the data folder, or is `off`.
    """
    name = os.environ.get("GPT2CHAT_HISTORY")
    if name == "off":
        return None
    folder = data_folder()
    return Path(name) if name else folder and folder / "history"


def chats_folder() -> Path | None:
    """Return the folder of automatically saved chats; None if they are not saved."""
    folder = data_folder()
    return None if os.environ.get("GPT2CHAT_HISTORY") == "off" else folder and folder / "chats"


def read_chat(path: Path) -> SavedChat:
    """Return a saved chat; the file may also be a plain JSON list of messages.

    Raises:
        DataError: The file cannot be read, or is not a chat.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[SavedChat, dict[str, Any]]:
    try:
        # Some editors begin a file with a byte order mark, which utf-8-sig drops.
        value: Any = json.loads(path.read_text(encoding="utf-8-sig"))
        fields = cast(dict[str, Any], value) if isinstance(value, dict) else {"messages": value}
        messages: Any = fields.get("messages")
        conversation = parse_messages(messages)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, RowError, RecursionError) as error:
        raise DataError(f"{path} is not a saved chat: {error}.") from error
    cut = frozenset(at for at, message in enumerate(messages) if message.get("cut") is True)
    return SavedChat(conversation, cut), fields


def save_chat(path: Path, messages: Sequence[Message], cut: Collection[int] = ()) -> None:
    """Write a chat as one line of JSON, which `prepare(chat=FILE)` reads too.

    Args:
        cut: Positions of the replies that the model did not end itself.

    Raises:
        DataError: The file exists and is not a saved chat.
        StorageError: The file cannot be written.
    """
    # A mistyped name must not replace another file, such as a data set.
    if path.exists():
        try:
            read_chat(path)
        except DataError:
            raise DataError(f"{path} is not a saved chat. Give another name.") from None
    write_text(path, _line(messages, cut), elsewhere="Give another name.")


def _line(messages: Sequence[Message], cut: Collection[int], **fields: Any) -> str:
    entries = [
        {"role": message.role, "content": message.content, **({"cut": True} if at in cut else {})}
        for at, message in enumerate(messages)
    ]
    return json.dumps({"messages": entries, **fields}, ensure_ascii=False) + "\n"


class Autosave:
    """Saves one chat after another, each in a file of its own."""

    def __init__(self, folder: Path, resumed: KeptChat | None = None):
        """Save to `folder`; a resumed chat keeps its file."""
        self.folder = folder
        self._path = resumed.path if resumed else None
        self._written = _changed(self._path)

    def write(
        self, messages: Sequence[Message], models: Sequence[str], cut: Collection[int] = ()
    ) -> None:
        """Save the chat, or remove its file if it no longer has a user message.

        Raises:
            StorageError: The file cannot be written.
        """
        if self._path is not None and _changed(self._path) != self._written:
            self._path = None  # another program resumed the same chat: each gets its own file
        if not any(message.role == "user" for message in messages):
            if self._path is not None:
                self._path.unlink(missing_ok=True)
                self._path = None
            return
        if self._path is None:
            # Two programs may begin a chat at the same time, so the name has the process too.
            self._path = self.folder / f"{datetime.now():%Y-%m-%d-%H%M%S-%f}-{os.getpid()}.json"
        with storage(self.folder, ELSEWHERE):
            # On a shared machine a chat is nobody else's business.
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A folder's absolute path is valid in any working directory.
        paths = [str(Path(name).resolve()) if Path(name).is_dir() else name for name in models]
        line = _line(messages, cut, models=paths)
        write_text(self._path, line, elsewhere=ELSEWHERE, private=True)
        others = [path for path in _newest_first(self.folder) if path != self._path]
        newest, written = _changed(others[0]) if others else None, _changed(self._path)
        if newest is not None and written is not None and written <= newest:
            # The clock was set back. The newest file is the one to resume, so date this after it.
            with contextlib.suppress(OSError):
                os.utime(self._path, ns=(newest + 1, newest + 1))
        self._written = _changed(self._path)
        for old in others[MOST_CHATS - 1 :]:
            old.unlink(missing_ok=True)

    def begin_another(self) -> None:
        """Leave the chat's file as it is; the next messages belong to another chat."""
        self._path = None


def latest_chat(folder: Path | None) -> KeptChat:
    """Return the newest chat in a folder that can be read.

    Raises:
        DataError: The folder has no chat, or none can be read.
    """
    # A damaged file, as a full disk leaves it, is no reason to lose the chats before it.
    unread: list[str] = []
    for path in _newest_first(folder) if folder else ():
        try:
            chat, fields = _read(path)
        except DataError as error:
            unread.append(str(error))
            continue
        when = datetime.fromtimestamp((_changed(path) or 0) / 1e9)
        names: Any = fields.get("models")
        folder_here = Path.cwd()
        models = tuple(
            # As one types the name in this working directory.
            str(Path(name).relative_to(folder_here))
            if Path(name).is_relative_to(folder_here)
            else name
            for name in (map(str, cast(list[Any], names)) if isinstance(names, list) else ())
        )
        return KeptChat(path, chat.conversation, models, when, tuple(unread), chat.cut)
    if unread:
        raise DataError(unread[0])
    raise DataError("There is no chat to resume. Start one with `chat()`.")


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"), key=lambda path: _changed(path) or 0, reverse=True)


def _changed(path: Path | None) -> int | None:
    """Return the time a file was written, in nanoseconds; None if it does not exist."""
    try:
        return path.stat().st_mtime_ns if path else None
    except OSError:
        return None
