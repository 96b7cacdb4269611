"""Files and folders that are whole or not there: written beside, then renamed."""

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

REFUSALS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.EBUSY, errno.ENAMETOOLONG),
)
"""What the system says of a path that is not one's own to write, or no folder."""
FULL = ("No space left", "File too large", "unexpected pos", "database or disk is full")
"""What safetensors, torch and SQLite say of a full disk, or of a file at its size limit."""
ELSEWHERE = "Give a folder of your own with `out`."
LOCK = "prepare.lock"


@contextmanager
def reading(path: Path, kind: type[Gpt2ChatError] = CheckpointError) -> Generator[None]:
    """Turn whatever reading a file raises into one line that names the file.

    A parser meets a damaged file with errors of every kind, RecursionError among them. Read each
    file of a data, run or model folder in this.

    Args:
        kind: The error to raise.

    Raises:
        Gpt2ChatError: Of that kind, where the file is missing, unreadable or damaged.
    """
    try:
        yield
    except Gpt2ChatError:
        raise
    except OSError as error:
        if error.strerror is None:  # a library's own, such as of a truncated archive
            raise kind(f"{path} is damaged: {_one_line(error)}") from error
        raise kind(f"Cannot read {path}: {error.strerror}.") from error
    except Exception as error:
        raise kind(f"{path} is damaged: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return text if text.endswith(".") else f"{text}."


@contextmanager
def storage(path: Path, elsewhere: str = ELSEWHERE) -> Generator[None]:
    """Turn what the system says against writing to `path` into one line.

    Args:
        elsewhere: What to type to write somewhere else.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    try:
        yield
    except Exception as error:
        if _is_full(error, path):
            other = "or give a folder on another disk with `out`"
            other = other if elsewhere == ELSEWHERE else "and try again"
            message = f"No space left to write {path}. Free some, {other}."
        elif isinstance(error, OSError) and error.errno in REFUSALS:
            message = f"Cannot write {path}: {error.strerror}. {elsewhere}"
        else:
            raise
        raise StorageError(message) from error


def _is_full(error: Exception, path: Path) -> bool:
    """Say whether an error comes of a full disk; safetensors and torch have errors of their own."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, Gpt2ChatError):
        return False
    there = next((folder for folder in (path, *path.parents) if folder.exists()), Path())
    said = any(words in str(error) for words in FULL)
    return said or shutil.disk_usage(there).free < 2**16


def json_text(value: Any) -> str:
    """Return a result as indented JSON; paths are strings, and NaN and infinity, which JSON does
    not have, are null."""

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


def write_text(path: Path, text: str, *, elsewhere: str = ELSEWHERE, private: bool = False) -> None:
    """Write a file so that a reader finds the old one or the new one, never a half.

    Args:
        elsewhere: What to type to write somewhere else.
        private: Nobody but the user may read it.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    write_bytes(path, text.encode(errors="surrogateescape"), elsewhere=elsewhere, private=private)


def write_bytes(
    path: Path, content: bytes, *, elsewhere: str = ELSEWHERE, private: bool = False
) -> None:
    """Write a file as `write_text` does.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    # Several processes of one run may write the same file.
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with storage(path, elsewhere):
        make_folder(path.parent)
        try:
            with open(beside, "wb", opener=_private if private else None) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class Workspace(NamedTuple):
    """Where a folder is made: what an interrupted run left, and the folder to fill."""

    parts: Path
    """Kept for the next run if this one is interrupted."""
    new: Path
    """Becomes the folder when everything is written."""


@contextmanager
def replaced_folder(folder: Path, key: str) -> Generator[Workspace]:
    """Fill a new folder that replaces `folder` at the end, or leave the old one on an error.

    Everything happens in one hidden folder next to it, so both renames stay on one disk:

        .data.work/
        ├── prepare.lock   held by the process at work; marks the folder as ours
        ├── KEY/           parts, kept when the run is killed, interrupted, or loses the network
        ├── new/           the folder that is being written
        └── old/           the folder that it replaces, between the two renames

    Args:
        key: What the parts depend on. A run with another key starts without them.

    Raises:
        ConfigError: Another process is at work there, or the hidden folder is a link, contains one,
            or is not ours. Nothing in it is touched.
        StorageError: The disk is full, the folder cannot be written, or a file is in its place.
    """
    from filelock import FileLock, Timeout

    with storage(folder):
        # Through a link, so that the link still points to what was written.
        folder = folder.resolve()
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        work = folder.with_name(f".{folder.name}.work")
        _require_own_workspace(work)
        make_folder(work)
        lock = FileLock(work / LOCK)
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
                old.rename(folder)  # an earlier run was killed between the two renames below
            _discard(work, but=space.parts)
            for made in space:
                made.mkdir(exist_ok=True)
            yield space
            if folder.exists():
                folder.rename(old)
            space.new.rename(folder)
        except (KeyboardInterrupt, Interrupted, NetworkError, HardwareError):
            keep = True
            raise
        finally:
            if old.is_dir() and not folder.exists():
                old.rename(folder)  # the second rename failed
            _discard(work, but=space.parts if keep else None)
            if not keep:
                (work / LOCK).unlink(missing_ok=True)
                with suppress(OSError):  # Windows keeps a file that is open
                    work.rmdir()
            lock.release()


def _require_own_workspace(work: Path) -> None:
    """Raise ConfigError unless a folder is missing, empty, or was made by `replaced_folder`."""
    foreign = ""
    if work.is_symlink():
        foreign = "it is a link"
    elif work.is_dir():
        # A link below it would be written through, to wherever it points.
        link = next((path for path in work.rglob("*") if path.is_symlink()), None)
        entry = next(work.iterdir(), None)
        if link is not None:
            foreign = f"{link.relative_to(work)} in it is a link"
        elif entry is not None and not (work / LOCK).is_file():
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
    """Remove all of a workspace but its lock and, if given, one folder.

    Each folder is renamed first: a kill in the middle leaves none that looks whole.
    """
    gone = work / "gone"
    remove(gone)
    for entry in work.iterdir():
        if entry.name != LOCK and entry != but:
            entry.rename(gone)
            remove(gone)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, if they are not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # said of a path below /proc
        raise PermissionError(errno.EACCES, "no folder can be made there") from None


def remove(path: Path) -> None:
    """Remove a folder and everything in it, or a file; of a link, the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)  # which follows no link
    else:
        path.unlink(missing_ok=True)
