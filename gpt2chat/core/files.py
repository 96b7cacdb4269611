"""Files and folders that are whole or not there: written beside, then renamed."""

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from gpt2chat.core.errors import (
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
FULL = ("No space left", "File too large", "unexpected pos")
"""What safetensors and torch say of a full disk, or of a file as long as the user's limit."""
ELSEWHERE = "Give --out a folder of your own."


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
            other = "or give --out on another disk." if elsewhere == ELSEWHERE else "and try again."
            message = f"No space left to write {path}. Free some, {other}"
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


def write_text(path: Path, text: str, *, elsewhere: str = ELSEWHERE, private: bool = False) -> None:
    """Write a file so that a reader finds the old one or the new one, never a half.

    Args:
        elsewhere: What to type to write somewhere else.
        private: Nobody but the user may read it.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    write_bytes(path, text.encode(), elsewhere=elsewhere, private=private)


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
        _make(path.parent)
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
        _make(beside)
        try:
            yield beside
            remove(old)
            if folder.exists():
                folder.rename(old)
            beside.rename(folder)
            remove(old)
        finally:
            remove(beside)


@contextmanager
def kept_folder(folder: Path, key: str) -> Generator[Path]:
    """Give a folder beside `folder` to work in, which a run that goes on finds as it was left.

    It is kept where the run is killed, interrupted, or fails for a cause that passes, such as the
    network; after success or another failure it is removed. A run with another key starts empty.

    Raises:
        ConfigError: Another process has it.
        StorageError: The disk is full or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    with storage(folder):
        folder = folder.resolve()
        work = folder.with_name(f".{folder.name}.work")
        _make(work)
        lock = FileLock(work / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                f"Another prepare is writing {folder.name}. Wait for it, or give another folder "
                "with --out."
            ) from None
        keep = False
        try:
            if not (work / key).is_dir():
                for entry in work.iterdir():
                    remove(entry)
                (work / key).mkdir()
            yield work / key
        except (KeyboardInterrupt, Interrupted, NetworkError, HardwareError):
            keep = True
            raise
        finally:
            lock.release()
            if not keep:
                remove(work)


@contextmanager
def held(folder: Path) -> Generator[None]:
    """Keep other runs out of a folder, whether it is there or not, and leave nothing beside it.

    The system ends it with the process, however that ends.

    Raises:
        ConfigError: Another run has it.
        StorageError: The lock beside the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    real = folder.resolve()
    file = real.parent / f".{real.name}.lock"
    lock = FileLock(file)
    made = [parent for parent in real.parents if not parent.exists()]
    with storage(folder):
        _make(real.parent)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                f"Another run is writing to {folder}. Wait for it, or give another folder with "
                "--out."
            ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no file that is open
            file.unlink()
        lock.release()
        with suppress(OSError):  # the run wrote something
            for parent in made:
                parent.rmdir()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # said of a path below /proc
        raise PermissionError(errno.EACCES, "no folder can be made there") from None


def remove(folder: Path) -> None:
    """Remove a folder if it is there."""
    if folder.is_dir():
        shutil.rmtree(folder)
