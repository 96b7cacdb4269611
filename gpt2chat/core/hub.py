"""Data sets on the Hugging Face Hub, by name."""

import errno
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from gpt2chat.core.errors import DataError, NetworkError, StorageError
from gpt2chat.core.records import Record, Split

TIMEOUT = 5.0
"""Seconds that the Hub has to answer the first question."""

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class HubData:
    """A data set's splits, loaded but not read."""

    name: str
    revision: str
    """The commit it was made from."""
    splits: dict[Split, Any]
    """A `datasets.Dataset` for each. A test split stands in for a validation split."""
    cached: bool
    """The Hub was not reached, and a copy from an earlier run is used."""

    def records(self, split: Split) -> Iterator[Record]:
        """Yield the rows of a split in order."""
        for number, row in enumerate(self.splits[split], start=1):
            yield Record(f"{self.name} {split}", number, row)


def is_hub_name(value: str) -> bool:
    """Return whether a value that is no path on disk can be a name on the Hub."""
    return bool(_NAME.fullmatch(value)) and not value.startswith(".")


def reach(flag: str, name: str) -> bool:
    """Return whether the Hub answers for a name; False where only a copy in the cache is left.

    Raises:
        NetworkError: The Hub cannot be reached, or does not have the name.
    """
    with _one_line(flag, name):
        return _reach(name)


def load_hub(flag: str, name: str, *, reached: bool) -> HubData:
    """Return a data set of the Hub, downloaded or from the cache of `datasets`.

    Raises:
        NetworkError: The download breaks off, or the data set is gated.
        DataError: The data set needs more than its name to be loaded, or has no training split.
        StorageError: The cache's disk is full.
    """
    import datasets
    import huggingface_hub.utils

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity_error()
    with _one_line(flag, name):
        loaded: Any = datasets.load_dataset(name)
    names = set(cast(dict[str, Any], loaded))
    validation = next((split for split in ("validation", "test") if split in names), None)
    if "train" not in names:
        raise DataError(
            f"{flag} {name} has no split called train, only {', '.join(sorted(names))}."
        )
    splits: dict[Split, Any] = {"train": loaded["train"]}
    if validation:
        splits["validation"] = loaded[validation]
    return HubData(name, _revision(splits["train"]), splits, cached=not reached)


def _reach(name: str) -> bool:
    """Return whether the Hub answers; `datasets` is told to look in its cache where it does not.

    Asked directly, `datasets` tries for 24 seconds before it gives up.
    """
    import datasets.config
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        HfApi().dataset_info(name, timeout=TIMEOUT)
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
    except OfflineModeIsEnabled:
        pass
    except _http_error() as error:
        if not _is_cached(name):
            raise error
    else:
        return True
    datasets.config.HF_HUB_OFFLINE = True
    return False


def _is_cached(name: str) -> bool:
    import datasets.config

    folder = name.lower().replace("/", "___")
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    return cache.is_dir() and any(entry.name.lower() == folder for entry in cache.iterdir())


def _http_error() -> type[Exception]:
    """Return the base class of what huggingface_hub's HTTP library raises."""
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    return HTTPError


def _revision(split: Any) -> str:
    # The cache folder of a Hub data set is named after the commit it was made from.
    return Path(split.cache_files[0]["filename"]).parent.name if split.cache_files else ""


@contextmanager
def _one_line(flag: str, name: str) -> Generator[None]:
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        yield
    except (GatedRepoError, RepositoryNotFoundError, DatasetNotFoundError) as error:
        if isinstance(error, GatedRepoError) or "is a gated dataset" in str(error):
            raise NetworkError(
                f"{flag} {name} is gated on the Hugging Face Hub: ask for access on its page, then "
                f"type hf auth login. Or give files with {flag} FILE."
            ) from error
        raise NetworkError(
            f"{flag} {name}: the Hugging Face Hub has no data set of this name that you can read. "
            f"Check the spelling, or give files with {flag} FILE."
        ) from error
    except (DatasetsError, ValueError) as error:
        raise DataError(f"{flag} {name} cannot be loaded by its name: {_short(error)}.") from error
    except (_http_error(), OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise StorageError(
                f"No space left to download {name}. Point HF_HOME to another disk."
            ) from error
        raise NetworkError(
            f"Cannot reach the Hugging Face Hub for {name} ({_short(error)}). Without network: "
            f"gpt2chat prepare --sample, or give files with {flag} FILE."
        ) from error


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")[:160]
