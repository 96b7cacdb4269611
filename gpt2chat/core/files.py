"""Write files and folders next to their place and rename them, so none is ever half written."""

import errno
import json
import math
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

from gpt2chat.core.errors import (
    CheckpointError,
    ConfigError,
    Gpt2ChatError,
    HardwareError,
    Interrupted,
    NetworkError,
    StorageError,
)

STARTER = Path(__file__).parents[1] / "starter"
"""The bundled base model, and the bundled sample."""

REFUSAL_NUMBERS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.EBUSY, errno.ENAMETOOLONG),
)
"""Error numbers of a path that the user may not write, or that is not a folder."""
FULL_DISK_TEXTS = ("No space left", "File too large", "unexpected pos", "database or disk is full")
"""Texts by which safetensors, torch and SQLite report a full disk or a file at its size limit.

Their errors have no number."""
OTHER_FOLDER = "Give a folder of your own with `out`."
WORKSPACE_LOCK = "prepare.lock"


@contextmanager
def reading(path: Path, kind: type[Gpt2ChatError] = CheckpointError) -> Generator[None]:
    """Turn any error about reading a file into an error of one line that names the file.

    Parsers raise errors of every kind for a damaged file, RecursionError among them. Each file of
    a data, run or model folder is read inside this context.

    Args:
        kind: Class of the error to raise.

    Raises:
        Gpt2ChatError: The file is missing, unreadable or damaged. The error has the class `kind`.
    """
    try:
        yield
    except Gpt2ChatError:
        raise
    except OSError as error:
        if error.strerror is None:  # From a library, such as about a truncated archive.
            raise kind(f"{path} is damaged: {_one_line(error)}") from error
        raise kind(f"Cannot read {path}: {error.strerror}.") from error
    except Exception as error:
        raise kind(f"{path} is damaged: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return text if text.endswith(".") else f"{text}."


@contextmanager
def storage(path: Path, elsewhere: str = OTHER_FOLDER) -> Generator[None]:
    """Turn an error about writing to `path` into one line.

    Args:
        elsewhere: A sentence that says how to write somewhere else.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    try:
        yield
    except Gpt2ChatError:
        raise
    except Exception as error:
        if isinstance(error, OSError):
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        else:
            folder = next((folder for folder in (path, *path.parents) if folder.exists()), Path())
            is_full = (
                any(text in str(error) for text in FULL_DISK_TEXTS)
                # Other libraries report nothing but that they failed; the disk itself tells.
                or shutil.disk_usage(folder).free < 2**16
            )
        if is_full:
            other = "or give a folder on another disk with `out`"
            other = other if elsewhere == OTHER_FOLDER else "and try again"
            message = f"No space left to write {path}. Free some, {other}."
        elif isinstance(error, OSError) and error.errno in REFUSAL_NUMBERS:
            message = f"Cannot write {path}: {error.strerror}. {elsewhere}"
        else:
            raise
        raise StorageError(message) from error


def json_text(value: Any) -> str:
    """Return a result as indented JSON.

    Paths become strings. NaN and infinity become null, because JSON has neither.
    """

    def valid(value: Any) -> Any:
        match value:
            case dict():
                return {key: valid(each) for key, each in cast(dict[Any, Any], value).items()}
            case list() | tuple():
                return [valid(each) for each in cast(list[Any], value)]
            case float() if not math.isfinite(value):
                return None
            case _:
                return value

    return json.dumps(valid(value), indent=2, default=str, allow_nan=False)


def write_text(
    path: Path, text: str, *, elsewhere: str = OTHER_FOLDER, private: bool = False
) -> None:
    """Write a file so that a reader sees either the old content or the new.

    Args:
        elsewhere: A sentence that says how to write somewhere else.
        private: Whether only the user may read the file.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    write_bytes(path, text.encode(errors="surrogateescape"), elsewhere=elsewhere, private=private)


def write_bytes(
    path: Path, content: bytes, *, elsewhere: str = OTHER_FOLDER, private: bool = False
) -> None:
    """Write a file as `write_text` does.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    # Several processes of one run may write the same file.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with storage(path, elsewhere):
        make_folder(path.parent)
        try:
            # Private from its first byte: with a later chmod, others could open it before.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with open(os.open(partial, flags, 0o600 if private else 0o666), "wb") as file:
                file.write(content)
                file.flush()
                # The name must not change before the content is on the disk: after a loss of power
                # the file would be empty.
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


class Workspace(NamedTuple):
    """The two folders in which a new folder is made."""

    parts: Path
    """Intermediate files, which stay for the next run if this one is interrupted."""
    new: Path
    """The new folder, which is renamed when everything is written."""


@contextmanager
def replaced_folder(folder: Path, key: str) -> Generator[Workspace]:
    """Fill a new folder that replaces `folder` at the end, or leave the old one on an error.

    All files are in one hidden folder next to it, so both renames stay on one disk:

        .data.work/
        ├── prepare.lock   locked by the process at work; marks the folder as ours
        ├── KEY/           parts, kept when the run is killed, interrupted, or loses the network
        ├── new/           the folder that is being written
        └── old/           the folder that it replaces, between the two renames

    Args:
        key: A hash of everything the parts depend on. A run with another key starts without them.

    Raises:
        ConfigError: Another process is at work there, or the hidden folder is a link, contains one,
            or was not made here. Nothing in it is changed.
        StorageError: The disk is full, the folder cannot be written, or a file is in its place.
    """
    from filelock import FileLock, Timeout

    with storage(folder):
        # Resolve a link, so that it still points to the folder afterwards.
        folder = folder.resolve()
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        work = folder.with_name(f".{folder.name}.work")
        _require_own_workspace(work)
        make_folder(work)
        lock = FileLock(work / WORKSPACE_LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                f"Another process is preparing {folder.name}. Wait for it, or give another folder "
                "with `out`.",
                setting="out",
            ) from None
        space = Workspace(work / key, work / "new")
        old = work / "old"
        keep = False
        try:
            if old.is_dir() and not folder.exists():
                old.rename(folder)  # An earlier run was killed between the two renames below.
            _discard(work, but=space.parts)
            for part in space:
                part.mkdir(exist_ok=True)
            yield space
            if folder.exists():
                folder.rename(old)
            space.new.rename(folder)
        except (KeyboardInterrupt, Interrupted, NetworkError, HardwareError):
            keep = True
            raise
        finally:
            if old.is_dir() and not folder.exists():
                old.rename(folder)  # The second rename failed.
            _discard(work, but=space.parts if keep else None)
            if not keep:
                (work / WORKSPACE_LOCK).unlink(missing_ok=True)
                with suppress(OSError):  # Windows does not delete a file that is open.
                    work.rmdir()
            lock.release()


def _require_own_workspace(work: Path) -> None:
    """Raise ConfigError unless a folder is missing, empty, or was made by `replaced_folder`."""
    foreign = ""
    if work.is_symlink():
        foreign = "it is a link"
    elif work.is_dir():
        # Writing through a link inside it would change files elsewhere.
        link = next((path for path in work.rglob("*") if path.is_symlink()), None)
        entry = next(work.iterdir(), None)
        if link is not None:
            foreign = f"{link.relative_to(work)} in it is a link"
        elif entry is not None and not (work / WORKSPACE_LOCK).is_file():
            foreign = f"it contains {entry.name}"
    elif work.exists():
        foreign = "it is a file"
    if not foreign:
        return
    raise ConfigError(
        f"{work} was not made by `prepare()`: {foreign}. Move it away, or give another folder with "
        "`out`.",
        setting="out",
    )


def _discard(work: Path, but: Path | None) -> None:
    """Remove a workspace's contents except its lock and, if given, one folder.

    Each folder is renamed first, so that a kill never leaves one that looks complete.
    """
    gone = work / "gone"
    remove(gone)
    for entry in work.iterdir():
        if entry.name != WORKSPACE_LOCK and entry != but:
            entry.rename(gone)
            remove(gone)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, unless they exist."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # As for a path below /proc.
        raise PermissionError(errno.EACCES, "no folder can be made there") from None


def remove(path: Path) -> None:
    """Remove a file, or a folder with everything in it; of a link, only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)  # It does not follow links.
    else:
        path.unlink(missing_ok=True)
