"""Find the sources that the settings name, and open their files or Hub data sets."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpt2chat.core.config.prepare import OFF, PrepareConfig, parse_share
from gpt2chat.core.errors import ConfigError
from gpt2chat.core.files import STARTER
from gpt2chat.core.inputs.datafiles import (
    OWN_SETTINGS,
    SUFFIXES,
    Files,
    Input,
    Split,
    find_files,
    readable,
)
from gpt2chat.core.inputs.hub import Content, HubData, is_hub_name, load_hub, reach
from gpt2chat.core.inputs.records import CHUNK_ROWS, Records, read_chunks
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
"""Folder of the bundled files; LICENSES.md in it names their origins."""
HUB_ROW_BYTES = 1_000
"""Assumed size of a row of a Hub data set, for the progress display."""
SAMPLE_HOLDOUT = 0.2
"""Share of the bundled pairs held out. No instruction is, since OASST1 has a validation split."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One value of a setting for data."""

    name: str
    """Name under which its rows are counted."""
    setting: str
    value: str
    """The value as the user gave it."""
    content: Content
    holdout: float
    """Share of its groups that go to validation; 0 if it has a validation split."""
    files: Files | None
    """Its files; None for a name on the Hub."""
    shape: str = ""
    """The shape that `shape` forces on its records; empty to detect it."""


def find_sources(settings: PrepareConfig) -> list[Source]:
    """Return the sources of a run. Files are looked for; Hub names are not.

    Raises:
        ConfigError: Every source is off.
        DataError: A file is missing, or its format is unknown.
    """
    public: dict[str, Content] = {
        "oasst1": "oasst1",
        "alpaca": "chat",
        "ultrafeedback": "preference",
    }
    named: list[Source] = list(_sample()) if settings.sample else []
    for name, content in public.items() if not settings.sample else ():
        value: str = getattr(settings, name)
        is_default = value == getattr(PrepareConfig, name)
        if value != OFF and not (settings.only and is_default):
            named.append(_source(name, name, value, content, settings))
    own = [
        *(_own("chat", value, "chat", settings) for value in settings.chat),
        *(_own("preference", value, "preference", settings)
          for value in settings.preference),
        *(_own("feedback", value, "feedback", settings) for value in settings.feedback),
    ]  # fmt: skip
    # Two files for one setting, such as train.jsonl and valid.jsonl: the second is the validation
    # split of both, so nothing is held out of the first.
    with_validation = {
        source.setting for source in own if source.files and "validation" in source.files
    }
    own = [
        replace(source, holdout=0.0) if source.setting in with_validation else source
        for source in own
    ]
    sources = _with_shapes([*named, *own], settings.shape)
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
            f"`{setting}` {name}: no source has this name. Choose from {', '.join(names)}.",
            setting=setting,
        )


def _with_shapes(sources: list[Source], shapes: Sequence[str]) -> list[Source]:
    """Return the sources with the shapes that the setting `shape` forces."""
    for entry in shapes:
        name, _, shape = entry.rpartition("=")
        if name:
            _require_named("shape", name, sources)
        targets = [
            source
            for source in sources
            if source.name == name or (not name and source.setting in ("chat", "preference"))
        ]
        if not targets:
            raise ConfigError(
                f"`shape` {shape} is for `chat` and `preference`. Give one of them.",
                setting="shape",
            )
        for source in targets:
            if source.content == "oasst1":
                raise ConfigError(
                    "`shape` does not apply to `oasst1`: message rows and whole trees are "
                    "recognised automatically.",
                    setting="shape",
                )
            shape_named(shape, SHAPES[source.content])
        sources = [
            replace(source, shape=shape) if source in targets else source for source in sources
        ]
    return sources


def _names_hub(setting: str, value: str) -> bool:
    if value.endswith(SUFFIXES) or Path(value).exists():
        return False
    # For the user's own data, a name without an owner is more likely a mistyped file.
    return is_hub_name(value) and ("/" in value or setting not in OWN_SETTINGS)


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
    """The data set on the Hub; None if the source is files."""

    @property
    def splits(self) -> list[Split]:
        """The splits of the source, training first."""
        return sorted(self.hub.splits if self.hub else self.source.files or {})

    def files(self, split: Split) -> Iterator[tuple[str, int, Iterator[Records]]]:
        """Yield each file of a split: its name, its size in bytes, and its records."""
        if self.hub:
            yield f"{self.hub.name} {split}", self.size(split), self._hub_chunks(self.hub, split)
        else:
            for file in (self.source.files or {}).get(split, ()):
                yield file.name, file.stat().st_size, read_chunks(file)

    def size(self, split: Split) -> int:
        """Return the size of a split in bytes; an estimate on the Hub, 0 if unknown."""
        if self.hub:
            return (self.hub.rows(split) or 0) * HUB_ROW_BYTES
        return sum(file.stat().st_size for file in (self.source.files or {}).get(split, ()))

    def _hub_chunks(self, hub: HubData, split: Split) -> Iterator[Records]:
        rows, first = hub.rows(split), 1
        for table in hub.batches(split, CHUNK_ROWS):
            done = (first - 1 + len(table)) / rows if rows else 0.0
            yield Records(f"{hub.name} {split}", first, done, table=table)
            first += len(table)

    def inputs(self) -> list[Input]:
        """Return the entries of the manifest for the files or the data set."""
        name = self.source.name
        if self.hub:
            return [Input(name, self.hub.name, "", self.hub.revision)]
        inputs: list[Input] = []
        for split in self.splits:
            for file in (self.source.files or {})[split]:
                with readable(file), file.open("rb") as content:
                    sha256 = hashlib.file_digest(content, "sha256").hexdigest()
                inputs.append(Input(name, file.name, sha256, ""))
        return inputs

    def note(self) -> str:
        """Return one line that says which files or which data set are read."""
        if self.hub:
            copy = (
                "the copy in the cache, since the Hub is out of reach"
                if self.hub.cached
                else "the Hub"
            )
            where = f"{self.hub.name} from {copy}"
        else:
            parts = (
                f"{', '.join(file.name for file in files)} ({split})"
                for split, files in sorted((self.source.files or {}).items())
            )
            where = ", ".join(parts)
        held_out = f", {self.source.holdout:.0%} held out" if self.holdout else ""
        return f"{self.source.name}: {where}{held_out}"

    @property
    def holdout(self) -> float:
        """Share of its training groups that go to validation."""
        return 0.0 if "validation" in self.splits else self.source.holdout


def open_sources(sources: Sequence[Source], *, streaming: bool) -> Iterator[Opened]:
    """Yield each source. A Hub data set is downloaded, unless it is streamed.

    All names are looked up first, so that a wrong one is reported before the first download.

    Raises:
        NetworkError: The Hub cannot be reached, or does not have one of the names.
        DataError: A data set cannot be loaded by its name.
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
