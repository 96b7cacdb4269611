"""Files and folders that are whole or not there: written beside, then renamed."""

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from gpt2chat.core.errors import Gpt2ChatError, StorageError

REFUSALS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.EBUSY, errno.ENAMETOOLONG),
)
"""What the system says of a path that is not one's own to write, or no folder."""


@contextmanager
def storage(path: Path) -> Generator[None]:
    """Turn what the system says against writing to `path` into one line.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    try:
        yield
    except Exception as error:
        if _is_full(error, path):
            message = f"No space left to write {path}. Free some, or give --out on another disk."
        elif isinstance(error, OSError) and error.errno in REFUSALS:
            message = f"Cannot write {path}: {error.strerror}. Give --out a folder of your own."
        else:
            raise
        raise StorageError(message) from error


def _is_full(error: Exception, path: Path) -> bool:
    """Say whether an error comes of a full disk; safetensors and torch have errors of their own."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, Gpt2ChatError):
        return False
    there = next((folder for folder in (path, *path.parents) if folder.exists()), Path())
    return "No space left" in str(error) or shutil.disk_usage(there).free < 2**16


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old one or the new one, never a half.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    beside = path.with_name(path.name + ".partial")
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def replaced_folder(folder: Path) -> Generator[Path]:
    """Give an empty folder to fill, which becomes `folder` at the end, or is removed on an error.

    Raises:
        StorageError: The disk is full, the folder cannot be written, or a file stands in its place.
    """
    with storage(folder):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        # Through a link, so that it goes on pointing to what was written.
        folder = folder.resolve()
        beside = folder.with_name(f".{folder.name}.partial")
        old = folder.with_name(f".{folder.name}.replaced")
        if old.is_dir() and not folder.exists():
            old.rename(folder)  # a run was killed between the two renames below
        remove(beside)
        beside.mkdir(parents=True)
        try:
            yield beside
            remove(old)
            if folder.exists():
                folder.rename(old)
            beside.rename(folder)
            remove(old)
        finally:
            remove(beside)


def remove(folder: Path) -> None:
    """Remove a folder if it is there."""
    if folder.is_dir():
        shutil.rmtree(folder)
