"""Translate what the libraries of the Hugging Face Hub raise into errors that a user can act on."""

import errno
import gzip
import lzma
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

from gpt2chat.core.errors import DataError, Gpt2ChatError, NetworkError, StorageError

Doing = Literal["reach", "download", "stream"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_RETRY: dict[Doing, str] = {
    "reach": "try again later",
    "download": "run it again to download the rest",
    "stream": "run it again, without `streaming` to keep what was downloaded",
}


@contextmanager
def translate_errors(setting: str, name: str, doing: Doing) -> Generator[None]:
    """Raise an error of the libraries as one of ours. Other errors pass unchanged.

    Raises:
        NetworkError: The Hub cannot be reached, refuses, or the connection is lost.
        DataError: The data set is damaged or cannot be loaded by its name.
        StorageError: The cache's disk is full or cannot be written.
    """
    try:
        yield
    except Gpt2ChatError:
        raise
    except Exception as error:
        # The libraries wrap errors several times, and `datasets` hides the first with `from None`.
        chain: list[BaseException] = [error]
        while cause := chain[-1].__cause__ or chain[-1].__context__:
            chain.append(cause)
        for explain in (_access, _damage):
            translation = explain(f"`{setting}` {name}", name, doing, chain)
            if translation:
                kind, text = translation
                raise kind(text.replace("FILE", f"`{setting}=FILE`")) from error
        raise


def _access(
    source: str, name: str, doing: Doing, chain: list[BaseException]
) -> tuple[type[Gpt2ChatError], str] | None:
    """Explain errors of the disk, of the Hub's answer and of the connection."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        XetDownloadError,
    )

    is_offline = any(isinstance(error, OfflineModeIsEnabled) for error in chain)
    for error in chain:
        # OfflineModeIsEnabled is an OSError, but is not about the disk.
        if isinstance(error, OSError) and not isinstance(error, OfflineModeIsEnabled):
            # `datasets` checks the free space itself, and its error has no number.
            if error.errno in _FULL or "Not enough disk space" in str(error):
                return StorageError, (
                    f"No space left to download {name}. Point HF_HOME to another disk, "
                    "or stream it with `streaming=True`."
                )
            if error.errno in _FORBIDDEN:
                return StorageError, (
                    f"Cannot write the cache for {name} ({_first_line(error)}). "
                    "Point HF_HOME to a folder of yours."
                )
    # Before the next check, because GatedRepoError is a RepositoryNotFoundError.
    # `datasets` raises its own error for a gated data set, which differs by its text only.
    if any(isinstance(e, GatedRepoError) or "is a gated dataset" in str(e) for e in chain):
        return NetworkError, (
            f"{source} is gated on the Hugging Face Hub. Ask for access on its page, "
            "then run hf auth login. Or give files with FILE."
        )
    if any(isinstance(e, (RepositoryNotFoundError, DatasetNotFoundError)) for e in chain):
        return NetworkError, (
            f"{source}: the Hugging Face Hub has no data set of this name that you can read. "
            "Check the spelling, run hf auth login if it is private, or give files with FILE."
        )
    retry = f"{_RETRY[doing]}, or give files with FILE."
    answers = (error.response.status_code for error in chain if isinstance(error, HfHubHTTPError))
    # 404: `datasets` looks for optional files.
    status = next((status for status in answers if status != 404), None)
    if status == 429:
        return NetworkError, (
            f"The Hugging Face Hub got too many requests and refuses {name} (429). Run "
            f"hf auth login to raise the limit, {retry}"
        )
    if status in (401, 403):
        return NetworkError, (
            f"The Hugging Face Hub refuses {name} ({status}). Run hf auth login, then {retry}"
        )
    if status is not None:
        retry = retry[0].upper() + retry[1:]
        return NetworkError, f"The Hugging Face Hub failed for {name} ({status}). {retry}"
    # HfHubHTTPError is an HTTPError, too, but then the Hub has answered. A download that ends early
    # is an OSError about a consistency check.
    lost = [
        error
        for error in chain
        if not isinstance(error, HfHubHTTPError)
        and (
            isinstance(error, (HTTPError, XetDownloadError, ConnectionError))
            or "Consistency check failed" in str(error)
        )
    ]
    if not (lost or is_offline):
        return None
    reason = "HF_HUB_OFFLINE is set, and there is no copy in the cache"
    if not is_offline:
        # The end of the chain is the original error, such as a refused connection.
        reason = _first_line(lost[-1])
        if doing != "reach":
            return NetworkError, (
                f"Lost the connection to the Hugging Face Hub for {name} ({reason}): {retry}"
            )
    return NetworkError, (
        f"Cannot reach the Hugging Face Hub for {name} ({reason}). Without a network, call "
        "`prepare(sample=True)`, or give files with FILE."
    )


def _damage(
    source: str, name: str, doing: Doing, chain: list[BaseException]
) -> tuple[type[Gpt2ChatError], str] | None:
    """Explain errors about what was downloaded."""
    import pyarrow as pa
    from datasets.exceptions import DatasetsError, NonMatchingSplitsSizesError

    damage = (pa.ArrowException, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)
    for error in chain:
        # Parquet reports a damaged file by an OSError without a number.
        if isinstance(error, damage) or "corrupt" in str(error).lower():
            return DataError, (
                f"{source}: one of its files on the Hugging Face Hub is truncated or damaged "
                f"({_first_line(error)}). Give files with FILE."
            )
        if "Config name is missing" in str(error):
            configs = str(error).splitlines()[1].partition(": ")[2].strip("[]").replace("'", "")
            return DataError, (
                f"{source} has several configurations ({configs}) and cannot be loaded by its "
                "name. Download the files of one, and give them with FILE."
            )
    error = chain[0]
    if "Dataset scripts are no longer supported" in str(error):
        reason = "it needs a loading script, and datasets no longer runs those"
    elif isinstance(error, NonMatchingSplitsSizesError):
        reason = "its card and its files disagree on the number of rows"
    elif isinstance(error, (DatasetsError, ValueError, OSError)):
        # The outer errors only say that the data set could not be generated.
        while error.__cause__:
            error = error.__cause__
        # The text of this error lists the columns of two files over many lines.
        is_cast = "Couldn't cast" in str(error)
        reason = "its files have different columns" if is_cast else _first_line(error)
    else:
        return None
    return DataError, f"{source} cannot be loaded by its name: {reason}. Give files with FILE."


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")[:160]
