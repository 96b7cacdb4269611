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
from gpt2chat.core.inputs.records import Records, read_chunks
from gpt2chat.core.inputs.shapes import (
    CHAT_SHAPES,
    FEEDBACK_SHAPES,
    PREFERENCE_SHAPES,
    Shape,
    shape_named,
)

SHAPES: dict[Content, Sequence[Shape]] = {
    "oasst1": (),
    "chat": CHAT_SHAPES,
    "preference": PREFERENCE_SHAPES,
    "feedback": FEEDBACK_SHAPES,
}

SAMPLE = STARTER / "sample"
"""Folder of the bundled files; LICENSES.md in it names their origins."""
HUB_ROW_BYTES = 1_000
"""Assumed size of a row of a Hub data set, for the progress display."""
PUBLIC: dict[str, Content] = {
    "oasst1": "oasst1",
    "alpaca": "chat",
    "ultrafeedback": "preference",
}
"""Settings of one data set each, with what their records contain."""
BUNDLED: tuple[tuple[str, str, Content, float], ...] = (
    ("oasst1", "oasst1.validation", "oasst1", 0.0),
    ("oasst1", "oasst1.train.chat", "chat", 0.0),
    ("instructions", "instructions.train", "chat", 0.0),
    ("ultrafeedback", "ultrafeedback", "preference", 0.2),
)
"""Source, file, content, and the share held out: OASST1 has a validation split, pairs do not."""


# Compared by identity, because sources are keys of a dictionary and `files` has no hash.
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
    sources: list[Source] = []

    def add(name: str, setting: str, value: str, content: Content, holdout: float) -> None:
        files = None if names_hub(setting, value) else find_files(setting, value)
        holdout = 0.0 if files and "validation" in files else holdout
        sources.append(Source(name, setting, value, content, holdout, files))

    if settings.sample:
        for name, stem, content, holdout in BUNDLED:
            add(name, "sample", str(SAMPLE / f"{stem}.jsonl.gz"), content, holdout)
    for name, content in PUBLIC.items() if not settings.sample else ():
        value: str = getattr(settings, name)
        # `only` leaves out the public data sets, except one that the user asks for.
        is_default = value == getattr(PrepareConfig, name)
        if value != OFF and not (settings.only and is_default):
            add(name, name, value, content, settings.holdout)
    for setting in OWN_SETTINGS:
        for value in getattr(settings, setting):
            path = value.split(":")[0] if names_hub(setting, value) else value
            add(Path(path).name, setting, value, setting, settings.holdout)
    # Two files for one setting, such as train.jsonl and valid.jsonl: the second is the validation
    # split of both, so nothing is held out of the first.
    validated = {one.setting for one in sources if one.files and "validation" in one.files}
    sources = [
        replace(one, holdout=0.0) if one.setting in validated & {*OWN_SETTINGS} else one
        for one in sources
    ]
    # A mistyped name would otherwise change nothing, without a word.
    names = list(dict.fromkeys(source.name for source in sources))
    shapes = [entry.rpartition("=")[::2] for entry in settings.shape]
    named = [("shape", name) for name, _ in shapes if name]
    named += [("mix", parse_share(share)[0]) for share in settings.mix]
    for setting, name in named if sources else ():
        if name not in names:
            raise ConfigError(
                f"`{setting}` {name}: no source has this name. Choose from {', '.join(names)}.",
                setting=setting,
            )
    for name, shape in shapes:
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
        sources = [replace(one, shape=shape) if one in targets else one for one in sources]
    if not sources:
        raise ConfigError(
            "Every source is off. Give one with `oasst1`, `alpaca`, `ultrafeedback`, `chat` or "
            "`preference`, or use the bundled sample: `prepare(sample=True)`."
        )
    return sources


def names_hub(setting: str, value: str) -> bool:
    """Return whether a value names a data set on the Hub, not a file."""
    if value.endswith(SUFFIXES) or Path(value).exists():
        return False
    # For the user's own data, a name without an owner is more likely a mistyped file.
    return is_hub_name(value) and ("/" in value or setting not in OWN_SETTINGS)


@dataclass(frozen=True, slots=True)
class Opened:
    """A source whose records can be read."""

    source: Source
    hub: HubData | None
    """The data set on the Hub; None if the source is files."""

    @property
    def splits(self) -> list[Split]:
        """The splits of the source, training first."""
        # "train" comes before "validation" in the alphabet, too.
        return sorted(self.hub.splits if self.hub else self.source.files or {})

    def files(self, split: Split) -> Iterator[tuple[str, int, Iterator[Records]]]:
        """Yield each file of a split: its name, its size in bytes, and its records."""
        if self.hub:
            yield f"{self.hub.name} {split}", self.size(split), self.hub.records(split)
        else:
            for file in (self.source.files or {}).get(split, ()):
                yield file.name, file.stat().st_size, read_chunks(file)

    def size(self, split: Split) -> int:
        """Return the size of a split in bytes; an estimate on the Hub, 0 if unknown."""
        if self.hub:
            return (self.hub.sizes[split] or 0) * HUB_ROW_BYTES
        return sum(file.stat().st_size for file in (self.source.files or {}).get(split, ()))

    def inputs(self) -> list[Input]:
        """Return the entries of the manifest for the files or the data set."""
        name = self.source.name
        if self.hub:
            return [Input(name, self.hub.name, "", self.hub.revision)]
        # The hashes are also part of what a resumed run must have in common with the earlier one.
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
