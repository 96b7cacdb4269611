"""Where records come from: files or Hub names, by split, and what part of them is held out."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from gpt2chat.core.config import OFF, PrepareConfig
from gpt2chat.core.errors import ConfigError, DataError
from gpt2chat.core.hub import HubData, is_hub_name, load_hub, reach
from gpt2chat.core.records import SUFFIXES, Files, Record, Split, find_files, read_file
from gpt2chat.core.shards import Input
from gpt2chat.core.tokens import STARTER

Content = Literal["oasst1", "chat", "preference"]

SAMPLE = STARTER / "sample"
"""The bundled files; LICENSES.md beside them says where they come from."""
SAMPLE_HOLDOUT = 0.2
"""Of the bundled pairs. Of its instructions none is held out: OASST1 has a validation split."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One thing that a flag names."""

    name: str
    """What its rows are counted under."""
    flag: str
    value: str
    """As it was given."""
    content: Content
    holdout: float
    """Share of its groups that goes to validation; 0 where it has a validation split."""
    files: Files | None
    """None for a name on the Hub."""


def find_sources(settings: PrepareConfig) -> list[Source]:
    """Return what there is to read, every file found and no Hub name looked up.

    Raises:
        ConfigError: Everything is off.
        DataError: A file is not there, or of no kind that can be read.
    """
    named = _sample() if settings.sample else _three(settings)
    own = [
        *(_own("--chat", value, "chat", settings.holdout) for value in settings.chat),
        *(_own("--preference", value, "preference", settings.holdout)
          for value in settings.preference),
    ]  # fmt: skip
    sources = [*named, *_share_validation(own)]
    if not sources:
        raise ConfigError(
            "Every source is off. Give one with --oasst1, --alpaca, --ultrafeedback, --chat or "
            "--preference, or type gpt2chat prepare --sample."
        )
    return sources


def _three(settings: PrepareConfig) -> Iterator[Source]:
    contents: dict[str, tuple[str, Content]] = {
        "oasst1": (settings.oasst1, "oasst1"),
        "alpaca": (settings.alpaca, "chat"),
        "ultrafeedback": (settings.ultrafeedback, "preference"),
    }
    for name, (value, content) in contents.items():
        if value != OFF:
            flag = f"--{name}"
            files = None if _names_hub(value) else find_files(flag, value)
            yield _source(name, flag, value, content, settings.holdout, files)


def _names_hub(value: str) -> bool:
    looks_like_a_file = value.endswith(SUFFIXES)
    return is_hub_name(value) and not looks_like_a_file and not Path(value).exists()


def _own(flag: str, value: str, content: Content, holdout: float) -> Source:
    return _source(Path(value).name, flag, value, content, holdout, find_files(flag, value))


def _source(
    name: str, flag: str, value: str, content: Content, holdout: float, files: Files | None
) -> Source:
    has_validation = files is not None and "validation" in files
    return Source(name, flag, value, content, 0.0 if has_validation else holdout, files)


def _share_validation(own: list[Source]) -> Iterator[Source]:
    """Hold nothing out of `--chat train.jsonl` where `--chat valid.jsonl` stands beside it."""
    with_validation = {
        source.flag for source in own if source.files and "validation" in source.files
    }
    for source in own:
        yield replace(source, holdout=0.0) if source.flag in with_validation else source


def _sample() -> Iterator[Source]:
    kinds: list[tuple[str, str, Content, float]] = [
        ("oasst1", "oasst1.validation", "oasst1", 0.0),
        ("oasst1", "oasst1.train.chat", "chat", 0.0),
        ("instructions", "instructions.train", "chat", 0.0),
        ("ultrafeedback", "ultrafeedback", "preference", SAMPLE_HOLDOUT),
    ]
    for name, stem, content, holdout in kinds:
        path = str(SAMPLE / f"{stem}.jsonl.gz")
        files = find_files("--sample", path)
        yield Source(name, "--sample", path, content, holdout, files)


@dataclass(frozen=True, slots=True)
class Opened:
    """A source whose records can be read."""

    source: Source
    hub: HubData | None
    """None where the source is files."""

    @property
    def splits(self) -> list[Split]:
        """The splits it has; validation last."""
        found = self.hub.splits if self.hub else self.source.files or {}
        return sorted(found)

    def files(self, split: Split) -> Iterator[tuple[str, Iterator[Record]]]:
        """Yield each file of a split, by name, with its records."""
        if self.hub:
            yield f"{self.hub.name} {split}", self.hub.records(split)
        else:
            for file in (self.source.files or {}).get(split, ()):
                yield file.name, read_file(file)

    def inputs(self) -> list[Input]:
        """Return what the manifest says of the files or the data set."""
        name = self.source.name
        if self.hub:
            return [Input(name, self.hub.name, "", self.hub.revision)]
        return [
            Input(name, file.name, _sha256(file), "")
            for split in self.splits
            for file in (self.source.files or {})[split]
        ]

    def note(self) -> str:
        """Return one line on what was picked."""
        if self.hub:
            copy = (
                "the copy in the cache, the Hub was not reached" if self.hub.cached else "the Hub"
            )
            where = f"{self.hub.name} from {copy}"
        else:
            parts = (
                f"{', '.join(file.name for file in files)} ({split})"
                for split, files in sorted((self.source.files or {}).items())
            )
            where = ", ".join(parts)
        held = f", {self.source.holdout:.0%} held out" if self.holdout else ""
        return f"{self.source.name}: {where}{held}"

    @property
    def holdout(self) -> float:
        """Share of its training groups that goes to validation."""
        return 0.0 if "validation" in self.splits else self.source.holdout


def open_sources(sources: Sequence[Source]) -> Iterator[Opened]:
    """Yield each source, its Hub data set downloaded if it names one.

    Every name is asked for first, so that a wrong one is told before the first download.

    Raises:
        NetworkError: The Hub cannot be reached, or does not have a name.
        DataError: A data set cannot be loaded by its name alone.
    """
    reached = {source: reach(source.flag, source.value) for source in sources if not source.files}
    for source in sources:
        if source.files:
            yield Opened(source, None)
        else:
            yield Opened(source, load_hub(source.flag, source.value, reached=reached[source]))


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
