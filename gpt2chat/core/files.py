"""Files and folders that are whole or not there: written beside, then renamed."""

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from gpt2chat.core.errors import StorageError


@contextmanager
def storage(path: Path) -> Generator[None]:
    """Turn what the system says against writing to `path` into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"No space left to write {path}. Free some, or give --out on another disk."
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            message = f"Cannot write {path}: {error.strerror}. Give --out a folder of your own."
        else:
            raise
        raise StorageError(message) from error


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
        StorageError: The disk is full or the folder cannot be written.
    """
    beside = folder.with_name(folder.name + ".partial")
    with storage(folder):
        remove(beside)
        beside.mkdir(parents=True)
        try:
            yield beside
            old = folder.with_name(folder.name + ".old")
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
