"""Where records come from: files or Hub names, by split, and what part of them is held out."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpt2chat.core.config.prepare import OFF, PrepareConfig, parse_share
from gpt2chat.core.errors import ConfigError, DataError
from gpt2chat.core.files import STARTER
from gpt2chat.core.inputs.datafiles import OWN, SUFFIXES, Files, Input, Split, find_files
from gpt2chat.core.inputs.hub import Content, HubData, is_hub_name, load_hub, reach
from gpt2chat.core.inputs.records import CHUNK_ROWS, Chunk, read_chunks
from gpt2chat.core.inputs.shapes import (
    CHAT_SHAPES,
    FEEDBACK_SHAPES,
    PREFERENCE_SHAPES,
    ChatShape,
    PreferenceShape,
    shape_named,
)

SHAPES: dict[Content, Sequence[ChatShape | PreferenceShape]] = {
    "oasst1": (),
    "chat": CHAT_SHAPES,
    "preference": PREFERENCE_SHAPES,
    "feedback": FEEDBACK_SHAPES,
}

SAMPLE = STARTER / "sample"
"""The bundled files; LICENSES.md beside them says where they come from."""
HUB_ROW_BYTES = 1_000
"""About what a row of a Hub data set weighs, beside files, in the progress that is shown."""
SAMPLE_HOLDOUT = 0.2
"""Of the bundled pairs. Of its instructions none is held out: OASST1 has a validation split."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One thing that a setting names."""

    name: str
    """What its rows are counted under."""
    setting: str
    value: str
    """As it was given."""
    content: Content
    holdout: float
    """Share of its groups that goes to validation; 0 if it has a validation split."""
    files: Files | None
    """None for a name on the Hub."""
    shape: str = ""
    """Of its records, where that is not to be detected."""


def find_sources(settings: PrepareConfig) -> list[Source]:
    """Return what there is to read, every file found and no Hub name looked up.

    Raises:
        ConfigError: Everything is off.
        DataError: A file is not there, or of no kind that can be read.
    """
    named = _sample() if settings.sample else _defaults(settings)
    own = [
        *(_own("chat", value, "chat", settings) for value in settings.chat),
        *(_own("preference", value, "preference", settings)
          for value in settings.preference),
        *(_own("feedback", value, "feedback", settings) for value in settings.feedback),
    ]  # fmt: skip
    sources = _shaped([*named, *_share_validation(own)], settings.shape)
    if not sources:
        raise ConfigError(
            "Every source is off. Give one with `oasst1`, `alpaca`, `ultrafeedback`, `chat` or "
            "`preference`, or use the bundled sample: `prepare(sample=True)`."
        )
    for share in settings.mix:
        _require_named("mix", parse_share(share)[0], sources)
    return sources


def _require_named(setting: str, name: str, sources: Sequence[Source]) -> None:
    names = list(dict.fromkeys(source.name for source in sources))
    if name not in names:
        raise ConfigError(
            f"`{setting}` {name}: no source has this name, only {', '.join(names)}.",
            setting=setting,
        )


def _shaped(sources: list[Source], forced: Sequence[str]) -> list[Source]:
    """Return the sources with the shapes that `--shape` forces."""
    for entry in forced:
        name, _, shape = entry.rpartition("=")
        if name:
            _require_named("shape", name, sources)
        chosen = [
            source
            for source in sources
            if source.name == name or (not name and source.setting in ("chat", "preference"))
        ]
        if not chosen:
            raise ConfigError(
                f"`shape` {shape} is for `chat` and `preference`: give one of them.",
                setting="shape",
            )
        for source in chosen:
            if source.content == "oasst1":
                raise ConfigError(
                    "`shape` does not apply to `oasst1`: message rows and whole trees are "
                    "recognised automatically.",
                    setting="shape",
                )
            shape_named(shape, SHAPES[source.content])
        sources = [
            replace(source, shape=shape) if source in chosen else source for source in sources
        ]
    return sources


def _defaults(settings: PrepareConfig) -> Iterator[Source]:
    contents: dict[str, Content] = {
        "oasst1": "oasst1",
        "alpaca": "chat",
        "ultrafeedback": "preference",
    }
    for name, content in contents.items():
        value: str = getattr(settings, name)
        unasked = settings.only and value == getattr(PrepareConfig, name)
        if value != OFF and not unasked:
            yield _source(name, name, value, content, settings)


def _names_hub(setting: str, value: str) -> bool:
    if value.endswith(SUFFIXES) or Path(value).exists():
        return False
    # A file of one's own that is not there is a slip, not a data set: these have an owner.
    own = setting in OWN
    return is_hub_name(value) and ("/" in value or not own)


def _own(setting: str, value: str, content: Content, settings: PrepareConfig) -> Source:
    path = value.split(":")[0] if _names_hub(setting, value) else value
    return _source(Path(path).name, setting, value, content, settings)


def _source(
    name: str, setting: str, value: str, content: Content, settings: PrepareConfig
) -> Source:
    files = None if _names_hub(setting, value) else find_files(setting, value)
    has_validation = files is not None and "validation" in files
    holdout = 0.0 if has_validation else settings.holdout
    return Source(name, setting, value, content, holdout, files)


def _share_validation(own: list[Source]) -> Iterator[Source]:
    """Hold nothing out of `--chat train.jsonl` where `--chat valid.jsonl` stands beside it."""
    with_validation = {
        source.setting for source in own if source.files and "validation" in source.files
    }
    for source in own:
        yield replace(source, holdout=0.0) if source.setting in with_validation else source


def _sample() -> Iterator[Source]:
    kinds: list[tuple[str, str, Content, float]] = [
        ("oasst1", "oasst1.validation", "oasst1", 0.0),
        ("oasst1", "oasst1.train.chat", "chat", 0.0),
        ("instructions", "instructions.train", "chat", 0.0),
        ("ultrafeedback", "ultrafeedback", "preference", SAMPLE_HOLDOUT),
    ]
    for name, stem, content, holdout in kinds:
        path = str(SAMPLE / f"{stem}.jsonl.gz")
        files = find_files("sample", path)
        yield Source(name, "sample", path, content, holdout, files)


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

    def files(self, split: Split) -> Iterator[tuple[str, int, Iterator[Chunk]]]:
        """Yield each file of a split: its name, its bytes, and its records."""
        if self.hub:
            yield f"{self.hub.name} {split}", self.size(split), self._hub_chunks(self.hub, split)
        else:
            for file in (self.source.files or {}).get(split, ()):
                yield file.name, file.stat().st_size, read_chunks(file)

    def size(self, split: Split) -> int:
        """Return the bytes of a split, or a guess; 0 where nothing tells."""
        if self.hub:
            return (self.hub.rows(split) or 0) * HUB_ROW_BYTES
        return sum(file.stat().st_size for file in (self.source.files or {}).get(split, ()))

    def _hub_chunks(self, hub: HubData, split: Split) -> Iterator[Chunk]:
        rows, first = hub.rows(split), 1
        for table in hub.batches(split, CHUNK_ROWS):
            done = (first - 1 + len(table)) / rows if rows else 0.0
            yield Chunk(f"{hub.name} {split}", first, done, table=table)
            first += len(table)

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


def open_sources(sources: Sequence[Source], *, streaming: bool) -> Iterator[Opened]:
    """Yield each source, its Hub data set downloaded if it names one and is not streamed.

    Every name is asked for first, so that a wrong one is told before the first download.

    Raises:
        NetworkError: The Hub cannot be reached, or does not have a name.
        DataError: A data set cannot be loaded by its name alone.
    """
    reached = {
        source: reach(source.setting, source.value) for source in sources if not source.files
    }
    for source in sources:
        hub = None
        if not source.files:
            hub = load_hub(
                source.setting,
                source.value,
                source.content,
                reached=reached[source],
                streaming=streaming,
            )
        yield Opened(source, hub)


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
