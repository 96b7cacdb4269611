"""Load data sets from the Hugging Face Hub by name, or by name and split: `a/b:train[:500]`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from gpt2chat.core.errors import DataError
from gpt2chat.core.inputs.datafiles import Split
from gpt2chat.core.inputs.hub_errors import translate_errors
from gpt2chat.core.inputs.records import CHUNK_ROWS, Records

Content = Literal["oasst1", "chat", "preference", "feedback"]

TIMEOUT = 5.0
"""Seconds that the Hub has to answer the first request."""

SUFFIXES: dict[Content, str] = {"chat": "_sft", "preference": "_prefs", "oasst1": ""}
"""Suffixes of split names, by content, in data sets that have several contents."""

# After the colon, the slices of `datasets`, such as train[10%:20%], without negative bounds.
_NAME = re.compile(
    r"(?P<repository>[\w.-]+(/[\w.-]+)?)"
    r"(:(?P<split>\w+(\.\w+)*)(\[(?P<first>\d*%?):(?P<end>\d*%?)\])?)?"
)


@dataclass(frozen=True, slots=True)
class HubName:
    """The parts of a name such as `a/b:train[:500]`."""

    repository: str
    split: str = ""
    """The only split to load; empty for train and validation."""
    first: str = ""
    """Bound of the rows to load: a number, a share such as 10%, or empty."""
    end: str = ""
    """The other bound, in the same form: the row to end before."""

    def rows(self, total: int | None) -> tuple[int, int | None] | None:
        """Return the first row and the row to end before; None for a share of an unknown total."""
        bounds: list[int | None] = []
        for text in (self.first, self.end):
            if not text.endswith("%"):
                bounds.append(int(text) if text else None)
            elif total is None:
                return None
            else:
                bounds.append(round(total * int(text.removesuffix("%") or 100) / 100))
        return bounds[0] or 0, bounds[1]


@dataclass(frozen=True, slots=True)
class HubData:
    """The splits of a data set, not read yet."""

    setting: str
    name: str
    """The name as the user gave it."""
    revision: str
    """The commit of the data set on the Hub."""
    splits: dict[Split, Any]
    """A `datasets.Dataset` or `IterableDataset` for each."""
    sizes: dict[Split, int | None]
    """Rows of each split; None if unknown."""
    cached: bool
    """Whether the Hub was out of reach, so that the copy of an earlier run is used."""

    def records(self, split: Split) -> Iterator[Records]:
        """Yield the rows of a split in order.

        Raises:
            NetworkError: The connection is lost while a split is streamed.
            DataError: A streamed file is damaged.
        """
        rows, first = self.sizes[split], 1
        # Tables, because turning rows into Python objects is left to the workers.
        with translate_errors(self.setting, self.name, "stream"):
            for table in self.splits[split].with_format("arrow").iter(batch_size=CHUNK_ROWS):
                done = (first - 1 + len(table)) / rows if rows else 0.0
                yield Records(f"{self.name} {split}", first, done, table=table)
                first += len(table)


def is_hub_name(value: str) -> bool:
    """Return whether a value that is not a path on disk can be a name on the Hub."""
    # `..` and `.cache` fit the pattern, but are paths.
    return bool(_NAME.fullmatch(value)) and not value.startswith(".")


def parse_name(value: str) -> HubName:
    """Return the parts of a value for which `is_hub_name` is true."""
    match = cast(re.Match[str], _NAME.fullmatch(value))
    parts = ("repository", "split", "first", "end")
    return HubName(*(cast(str, match[part] or "") for part in parts))


def reach(setting: str, name: str) -> bool:
    """Return whether the Hub answers; False if it does not but the cache has the data set.

    Raises:
        NetworkError: The Hub does not have the name, or cannot be reached and nothing is cached.
    """
    import datasets.config
    from datasets.naming import camelcase_to_snakecase
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        OfflineModeIsEnabled,
    )

    repository = parse_name(name).repository
    with translate_errors(setting, name, "reach"):
        try:
            # Not through `datasets`, which retries for 24 seconds before it gives up.
            HfApi().dataset_info(repository, timeout=TIMEOUT)
        except (OfflineModeIsEnabled, HTTPError) as error:
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
            # 429 (too many requests) says nothing about the data set, other 4xx do.
            is_refusal = 400 <= status < 500 and status != 429
            owner, _, last = repository.rpartition("/")
            # The folder's name as `datasets` makes it; it has no function for that.
            folder = "___".join(filter(None, (owner, camelcase_to_snakecase(last))))
            cache = Path(datasets.config.HF_DATASETS_CACHE)
            if is_refusal or not any(cache.glob(f"{folder}/*/*/*/dataset_info.json")):
                raise
            return False
    return True


def load_hub(
    setting: str, name: str, content: Content, *, reached: bool, streaming: bool = False
) -> HubData:
    """Return the splits of a data set on the Hub to train and to validate on.

    If the name has no split, they are `train` and `validation`, or the nearest that exists: `test`
    for validation, `train_prefs` for pairs, `train_sft` for chats.

    Args:
        reached: The result of `reach`. If False, only the cache of `datasets` is read.
        streaming: Download each row when it is read, and cache nothing. Otherwise the whole data
            set is downloaded and stays in the cache.

    Raises:
        NetworkError: The connection is lost, or the data set is gated.
        DataError: The data set needs more than its name to be loaded, is damaged, or does not have
            the split.
        StorageError: The cache's disk is full or cannot be written.
    """
    import datasets
    import datasets.config
    import huggingface_hub.utils
    from datasets.packaged_modules.cache.cache import Cache

    # `prepare` reports its own progress, and errors are translated below.
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity_error()
    # Otherwise `datasets` would wait for the Hub again before it looks into its cache.
    datasets.config.HF_HUB_OFFLINE = not reached
    # huggingface_hub already retries for half a minute; `datasets` would repeat that twenty times.
    datasets.config.STREAMING_OPEN_MAX_RETRIES = datasets.config.STREAMING_READ_MAX_RETRIES = 1
    datasets.config.STREAMING_OPEN_RETRY_INTERVAL = 0
    datasets.config.STREAMING_READ_RETRY_INTERVAL = 0
    datasets.config.STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL = 0
    datasets.config.STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL = 0
    request, suffix = parse_name(name), SUFFIXES[content]
    where = f"`{setting}` {request.repository}"
    candidates: dict[Split, tuple[str, ...]] = {
        "train": ("train", f"train{suffix}"),
        "validation": ("validation", "test", f"validation{suffix}", f"test{suffix}"),
    }
    if request.split:
        # Whatever its name: a user who asks for one split wants to train on it.
        candidates = {"train": (request.split,)}
    with translate_errors(setting, name, "stream" if streaming else "download"):
        builder: Any = datasets.load_dataset_builder(request.repository)
        # Both list the splits before anything is downloaded; which one is set depends on the kind
        # of builder.
        available = [str(one) for one in builder.config.data_files or builder.info.splits or ()]
        hub_splits: dict[Split, str] = {
            split: found[0]
            for split, names in candidates.items()
            if (found := [one for one in names if one in available])
        }
        # Validation may be missing: a share of the training groups is held out instead.
        if "train" not in hub_splits:
            raise DataError(
                f"{where} does not have a split called {request.split or 'train'}. Choose one of "
                f"these: {', '.join(available) or 'none'}, as in "
                f"`{setting}={request.repository}:SPLIT`."
            )
        if not streaming:
            builder.download_and_prepare()
        splits: dict[Split, Any] = {}
        sizes: dict[Split, int | None] = {}
        for split, hub_split in hub_splits.items():
            if streaming:
                rows = builder.as_streaming_dataset(hub_split)
                info = (builder.info.splits or {}).get(hub_split)
                total: int | None = info.num_examples if info else None
            else:
                rows = builder.as_dataset(hub_split)
                total = len(rows)
            bounds = request.rows(total)
            if bounds is None:
                raise DataError(
                    f"{where}: the number of rows in {request.split} is not known before a "
                    "download. Give numbers instead of shares, or leave `streaming` out."
                )
            first, end = bounds
            if total is not None:
                end = total if end is None else min(end, total)
                if first >= end:
                    raise DataError(
                        f"{where}: {request.split} has only {total:,} rows. "
                        f"Choose a smaller range than [{request.first}:{request.end}]."
                    )
            # Tables on disk and streams both have `skip` and `take`; streams have no slices.
            rows = rows.skip(first) if first else rows
            splits[split] = rows if end in (None, total) else rows.take(end - first)
            sizes[split] = None if total is None or end is None else end - first
    # `datasets` uses its cache by itself if the connection is lost after the first request.
    cached = not reached or isinstance(builder, Cache)
    return HubData(setting, name, cast(str, builder.hash), splits, sizes, cached)
