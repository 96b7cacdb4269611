"""Data sets on the Hugging Face Hub, by name, or by name and split as in `a/b:train[:500]`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from gpt2chat.core.errors import DataError
from gpt2chat.core.inputs.datafiles import Split
from gpt2chat.core.inputs.hub_errors import one_line

Content = Literal["oasst1", "chat", "preference", "feedback"]

TIMEOUT = 5.0
"""Seconds that the Hub has to answer the first question."""

SUFFIXES: dict[Content, str] = {"chat": "_sft", "preference": "_prefs", "oasst1": ""}
"""What the Hub appends to the names of splits where one data set has several contents."""

_NAME = re.compile(
    r"(?P<repository>[\w.-]+(/[\w.-]+)?)"
    r"(:(?P<split>\w+(\.\w+)*)(\[(?P<first>\d*%?):(?P<end>\d*%?)\])?)?"
)


@dataclass(frozen=True, slots=True)
class HubName:
    """What a name asks for."""

    repository: str
    split: str = ""
    """The one split that is asked for, or empty."""
    first: str = ""
    """Rows of it: a number, a share such as 10%, or empty."""
    end: str = ""

    def rows(self, total: int | None) -> tuple[int, int | None] | None:
        """Return the first row and the one to end before; None for a share of an unknown total."""
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
    """A data set's splits, found but not read."""

    setting: str
    name: str
    """As it was given."""
    revision: str
    """The commit it was made from."""
    splits: dict[Split, Any]
    """A `datasets.Dataset` or `IterableDataset` for each."""
    sizes: dict[Split, int | None]
    """Rows of each; None where nothing tells."""
    cached: bool
    """The Hub was not reached, and a copy from an earlier run is used."""

    def rows(self, split: Split) -> int | None:
        """Return the number of rows of a split; None where nothing tells."""
        return self.sizes[split]

    def batches(self, split: Split, size: int) -> Iterator[Any]:
        """Yield the rows of a split in order, as `pyarrow.Table`s of at most `size` rows.

        Raises:
            NetworkError: A streamed split breaks off.
            DataError: A streamed file is damaged.
        """
        with one_line(self.setting, self.name, "stream"):
            yield from self.splits[split].with_format("arrow").iter(batch_size=size)


def is_hub_name(value: str) -> bool:
    """Return whether a value that is no path on disk can be a name on the Hub."""
    return bool(_NAME.fullmatch(value)) and not value.startswith(".")


def parse_name(value: str) -> HubName:
    """Return the parts of a value that `is_hub_name`."""
    found = cast(re.Match[str], _NAME.fullmatch(value))
    parts = ("repository", "split", "first", "end")
    return HubName(*(cast(str, found[part] or "") for part in parts))


def reach(setting: str, name: str) -> bool:
    """Return whether the Hub answers for a name; False where only a copy in the cache is left.

    Raises:
        NetworkError: The Hub cannot be reached, or does not have the name.
    """
    with one_line(setting, name, "reach"):
        return _reach(parse_name(name).repository)


def load_hub(
    setting: str, name: str, content: Content, *, reached: bool, streaming: bool = False
) -> HubData:
    """Return the splits of a data set of the Hub: those to train and to validate on.

    Without a split in the name they are `train` and `validation`, or their nearest kin: `test` for
    validation, `train_prefs` for pairs, `train_sft` for chats.

    Args:
        reached: What `reach` returned. Without it only the cache of `datasets` is read.
        streaming: Download nothing but the rows that are read, when they are read. Otherwise the
            data set comes whole, and stays in the cache.

    Raises:
        NetworkError: The download breaks off, or the data set is gated.
        DataError: The data set needs more than its name to be loaded, is damaged, or has no such
            split.
        StorageError: The cache's disk is full or cannot be written.
    """
    import datasets
    from datasets.packaged_modules.cache.cache import Cache

    _prepare_libraries(offline=not reached)
    asked = parse_name(name)
    with one_line(setting, name, "stream" if streaming else "download"):
        builder = datasets.load_dataset_builder(asked.repository)
        picked = _pick(setting, asked, content, _available(builder))
        if not streaming:
            builder.download_and_prepare()
        splits: dict[Split, Any] = {}
        sizes: dict[Split, int | None] = {}
        for split, there in picked.items():
            whole = _open(builder, there, streaming)
            splits[split], sizes[split] = _cut(setting, asked, whole, _total(builder, whole, there))
    # `datasets` turns to its cache by itself where the Hub is lost after the first question.
    cached = not reached or isinstance(builder, Cache)
    return HubData(setting, name, cast(str, builder.hash), splits, sizes, cached)


def _prepare_libraries(*, offline: bool) -> None:
    import datasets
    import datasets.config
    import huggingface_hub.utils

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity_error()
    datasets.config.HF_HUB_OFFLINE = offline
    # huggingface_hub tries again for half a minute; `datasets` would do so twenty times over.
    datasets.config.STREAMING_OPEN_MAX_RETRIES = datasets.config.STREAMING_READ_MAX_RETRIES = 1
    datasets.config.STREAMING_OPEN_RETRY_INTERVAL = 0
    datasets.config.STREAMING_READ_RETRY_INTERVAL = 0
    datasets.config.STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL = 0
    datasets.config.STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL = 0


def _reach(repository: str) -> bool:
    """Ask the Hub. Asked through `datasets`, it is tried for 24 seconds before that gives up."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        OfflineModeIsEnabled,
    )

    try:
        HfApi().dataset_info(repository, timeout=TIMEOUT)
    except (OfflineModeIsEnabled, HTTPError) as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        refused = 400 <= status < 500 and status != 429
        if refused or not _is_cached(repository):
            raise
        return False
    return True


def _is_cached(repository: str) -> bool:
    import datasets.config
    from datasets.naming import camelcase_to_snakecase

    owner, _, last = repository.rpartition("/")
    folder = "___".join(filter(None, (owner, camelcase_to_snakecase(last))))
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    return any(cache.glob(f"{folder}/*/*/*/dataset_info.json"))


def _available(builder: Any) -> list[str]:
    """Return the names of the splits, nothing downloaded yet."""
    found = builder.config.data_files or builder.info.splits or ()
    return [str(split) for split in found]


def _pick(setting: str, asked: HubName, content: Content, there: list[str]) -> dict[Split, str]:
    """Return what to train and to validate on, by the names that the Hub has for it."""
    suffix = SUFFIXES[content]
    wanted: dict[Split, tuple[str, ...]] = {
        "train": ("train", f"train{suffix}"),
        "validation": ("validation", "test", f"validation{suffix}", f"test{suffix}"),
    }
    if asked.split:
        wanted = {"train": (asked.split,)}
    picked: dict[Split, str] = {}
    for split, names in wanted.items():
        for name in names:
            if name in there and split not in picked:
                picked[split] = name
    if "train" not in picked:
        missing = asked.split or "train"
        raise DataError(
            f"`{setting}` {asked.repository} has no split called {missing}, only "
            f"{', '.join(there) or 'none'}. Give one: `{setting}={asked.repository}:SPLIT`."
        )
    return picked


def _open(builder: Any, split: str, streaming: bool) -> Any:
    return builder.as_streaming_dataset(split) if streaming else builder.as_dataset(split)


def _total(builder: Any, whole: Any, split: str) -> int | None:
    if hasattr(whole, "__len__"):
        return len(whole)
    known = (builder.info.splits or {}).get(split)
    return known.num_examples if known else None


def _cut(setting: str, asked: HubName, whole: Any, total: int | None) -> tuple[Any, int | None]:
    """Return the rows of a split that are asked for, and how many they are."""
    rows = asked.rows(total)
    if rows is None:
        raise DataError(
            f"`{setting}` {asked.repository}: it is not known how many rows {asked.split} has. "
            "Give numbers of rows, or leave `streaming` out."
        )
    first, end = rows
    if total is not None:
        end = total if end is None else min(end, total)
        if first >= end:
            raise DataError(
                f"`{setting}` {asked.repository}: {asked.split} has {total:,} rows only."
            )
    if first:
        whole = whole.skip(first)
    if end is None:
        return whole, None
    if end != total:
        whole = whole.take(end - first)
    return whole, None if total is None else end - first
