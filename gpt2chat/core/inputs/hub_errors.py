"""What the libraries of the Hugging Face Hub raise, each to one line that a user can act on."""

import errno
import gzip
import lzma
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from gpt2chat.core.errors import DataError, Gpt2ChatError, NetworkError, StorageError

Doing = Literal["reach", "download", "stream"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_SCRIPT = "Dataset scripts are no longer supported"
_AGAIN: dict[Doing, str] = {
    "reach": "run the same again later",
    "download": "run the same again (files that came whole are kept)",
    "stream": "run the same again (without `streaming`, files that came whole are kept)",
}


@contextmanager
def one_line(setting: str, name: str, doing: Doing) -> Generator[None]:
    """Raise what the libraries raise as an error of ours. What is none of theirs passes.

    Raises:
        NetworkError: The Hub cannot be reached, refuses, or breaks off.
        DataError: The data set is damaged or cannot be loaded by its name.
        StorageError: The cache's disk is full or cannot be written.
    """
    try:
        yield
    except Gpt2ChatError:
        raise
    except Exception as error:
        chain = list(_chain(error))
        for translate in (_of_disk, _of_access, _of_hub, _of_data):
            ours = translate(setting, name, doing, chain)
            if ours:
                raise ours from error
        raise


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from.

    The libraries wrap theirs several times, and `datasets` hides the first with `from None`.
    """
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _of_disk(
    setting: str, name: str, doing: Doing, chain: Sequence[BaseException]
) -> Gpt2ChatError | None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    for error in chain:
        if not isinstance(error, OSError) or isinstance(error, OfflineModeIsEnabled):
            continue
        if error.errno in _FULL or "Not enough disk space" in str(error):
            return StorageError(
                f"No space left to download {name}. Point HF_HOME to another disk, "
                "or stream it with `streaming=True`."
            )
        if error.errno in _FORBIDDEN:
            return StorageError(
                f"Cannot write the cache for {name} ({_short(error)}). "
                "Point HF_HOME to a folder of yours."
            )
    return None


def _of_access(
    setting: str, name: str, doing: Doing, chain: Sequence[BaseException]
) -> Gpt2ChatError | None:
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    gated = "is a gated dataset"
    if any(isinstance(error, GatedRepoError) or gated in str(error) for error in chain):
        return NetworkError(
            f"`{setting}` {name} is gated on the Hugging Face Hub: ask for access on its page, "
            f"then run hf auth login. Or give files with `{setting}=FILE`."
        )
    if any(isinstance(e, (RepositoryNotFoundError, DatasetNotFoundError)) for e in chain):
        return NetworkError(
            f"`{setting}` {name}: the Hugging Face Hub has no data set of this name that you can "
            "read. Check the spelling, run hf auth login if it is private, or give files with "
            f"`{setting}=FILE`."
        )
    return None


def _of_hub(
    setting: str, name: str, doing: Doing, chain: Sequence[BaseException]
) -> Gpt2ChatError | None:
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        OfflineModeIsEnabled,
        XetDownloadError,
    )

    again = f"{_AGAIN[doing]}, or give files with `{setting}=FILE`."
    if any(isinstance(error, OfflineModeIsEnabled) for error in chain):
        return _unreached(setting, name, "HF_HUB_OFFLINE is set, and there is no copy in the cache")
    for error in chain:
        # `datasets` asks for files that need not be there.
        if isinstance(error, HfHubHTTPError) and error.response.status_code != 404:
            return _of_status(name, error.response.status_code, again)
    lost = [
        error
        for error in chain
        if isinstance(error, (HTTPError, XetDownloadError, ConnectionError))
        or "Consistency check failed" in str(error)
    ]
    lost = [error for error in lost if not isinstance(error, HfHubHTTPError)]
    if not lost:
        return None
    if doing == "reach":
        return _unreached(setting, name, _short(lost[-1]))
    return NetworkError(f"Lost the Hugging Face Hub for {name} ({_short(lost[-1])}): {again}")


def _unreached(setting: str, name: str, why: str) -> NetworkError:
    return NetworkError(
        f"Cannot reach the Hugging Face Hub for {name} ({why}). Without network: "
        f"`prepare(sample=True)`, or give files with `{setting}=FILE`."
    )


def _of_status(name: str, status: int, again: str) -> NetworkError:
    if status == 429:
        return NetworkError(
            f"The Hugging Face Hub has had too many requests for {name} (429): "
            f"hf auth login raises the limit; {again}"
        )
    if status in (401, 403):
        return NetworkError(
            f"The Hugging Face Hub refuses {name} ({status}): run hf auth login, then {again}"
        )
    return NetworkError(f"The Hugging Face Hub fails for {name} ({status}): {again}")


def _of_data(
    setting: str, name: str, doing: Doing, chain: Sequence[BaseException]
) -> Gpt2ChatError | None:
    from datasets.exceptions import DatasetsError

    for error in chain:
        if _is_damage(error):
            return DataError(
                f"`{setting}` {name}: a file of it is cut short or damaged on the Hugging Face Hub "
                f"({_short(error)}). Give files with `{setting}=FILE`."
            )
        if "Config name is missing" in str(error):
            configs = str(error).splitlines()[1].partition(": ")[2].strip("[]").replace("'", "")
            return DataError(
                f"`{setting}` {name} has several configurations ({configs}) and cannot be loaded "
                f"by its name: download the files of one, and give them with `{setting}=FILE`."
            )
    known = isinstance(chain[0], (DatasetsError, ValueError, OSError)) or _SCRIPT in str(chain[0])
    if not known:
        return None
    return DataError(
        f"`{setting}` {name} cannot be loaded by its name: {_why(chain[0])}. "
        f"Give files with `{setting}=FILE`."
    )


def _is_damage(error: BaseException) -> bool:
    import pyarrow as pa

    kinds = (pa.ArrowException, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)
    # Parquet's own complaints come as an OSError that has no number.
    return isinstance(error, kinds) or "corrupt" in str(error).lower()


def _why(error: BaseException) -> str:
    from datasets.exceptions import NonMatchingSplitsSizesError

    if _SCRIPT in str(error):
        return "it is made by a program of its own, which is not run"
    if isinstance(error, NonMatchingSplitsSizesError):
        return "its card counts other rows than its files have"
    while error.__cause__:
        error = error.__cause__
    return "its files have different columns" if "Couldn't cast" in str(error) else _short(error)


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")[:160]
