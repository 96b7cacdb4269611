"""Read the shards that `prepare` writes, checked against their manifest.

data/
├── sft/train-00000-of-00001.jsonl, validation-…           a prompt and the reply to train on
├── preference/train-00000-of-00001.jsonl, validation-…    a prompt, a chosen and a rejected reply
├── reference/validation-00000-of-00001.jsonl              the reference project's evaluation set
├── dropped.jsonl                                          what was dropped, where and why
├── lengths.png                                            histograms, if `stats` is set
├── tokens/sft/train-00000-of-00001.safetensors, …         the ids of each shard's rows
└── manifest.json                                          counts, hashes, fingerprints
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from gpt2chat.core.errors import DataError, Gpt2ChatError, RowError
from gpt2chat.core.inputs.datafiles import Input, Split
from gpt2chat.core.text.bounded_json import NestedTooDeep, parse_json
from gpt2chat.core.text.conversations import Conversation, Preference, parse_messages
from gpt2chat.core.text.template import END_OF_TURN
from gpt2chat.core.text.tokens import template_fingerprint, tokenizer_fingerprint

Kind = Literal["sft", "preference", "reference"]
Item = TypeVar("Item")

# A folder of another version is refused, not converted: `prepare` makes it again.
VERSION = 3
MANIFEST = "manifest.json"
DROPPED = "dropped.jsonl"
PICTURE = "lengths.png"
TOKENS = "tokens"
LENGTH_BINS = 16
"""Bins of a length histogram, each a sixteenth of the window; the last counts longer texts too."""

Lengths = dict[str, dict[str, list[int]]]
"""Histograms by source, and by `prompt` or `reply` (a pair's longer one): the number of rows in
each of the `LENGTH_BINS`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation with a reply to train or to measure."""

    id: str
    source: str
    group: str
    """Rows that are held out together and drawn together in a bootstrap: those of an OASST1 tree,
    otherwise those with the same context and first user message."""
    conversation: Conversation
    """The prompt and its reply."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with a chosen and a rejected reply."""

    id: str
    source: str
    group: str
    preference: Preference


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a split."""

    path: str
    """Path relative to the data folder."""
    kind: Kind
    split: Split
    rows: int
    bytes: int
    sha256: str
    tokens: str
    """Path of the file with the ids of its rows."""
    tokens_sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`manifest.json`: the contents of a data folder and their origin."""

    version: int
    window: int
    """Longest sample, in tokens."""
    seed: int
    settings: dict[str, Any]
    """Settings of `prepare` that affect the rows, apart from the sources."""
    holdout: dict[str, float]
    """Share of each source's groups that was held out for validation."""
    counts: dict[str, dict[str, dict[str, int]]]
    """Rows by kind, source and split."""
    dropped: dict[str, dict[str, int]]
    """Records, samples and pairs left out, by source and reason."""
    noted: dict[str, dict[str, int]]
    """Rows with a remark, by source and remark, such as "early turns dropped"."""
    tokens: dict[str, dict[str, dict[str, int]]]
    """`prompt` and `trained` tokens by kind and split; a pair's prompt counts once."""
    lengths: dict[str, dict[str, Lengths]]
    """Histograms by kind and split."""
    shards: tuple[Shard, ...]
    inputs: tuple[Input, ...]
    template: str
    """Fingerprint of the chat template."""
    tokenizer: str
    """Fingerprint of the tokenizer."""
    versions: dict[str, str]
    """Versions of gpt2chat and of the libraries that affect the rows."""
    unused: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict[str, dict[str, int]])
    """Used records with an unused field, by source and the field's name."""

    def rows(self, kind: Kind, split: Split) -> int:
        """Return the number of rows."""
        return sum(shard.rows for shard in self.shards_of(kind, split))

    def shards_of(self, kind: Kind, split: Split) -> list["Shard"]:
        """Return the shards of a split, in order."""
        return [one for one in self.shards if (one.kind, one.split) == (kind, split)]


def read_samples(
    data: Path, split: Split, kind: Literal["sft", "reference"] = "sft"
) -> list[Sample]:
    """Return the samples of a split, which may be none for validation.

    Raises:
        DataError: There are no training samples, or the shards are not what `prepare` wrote.
    """
    samples = list(_rows(data, kind, split, _sample))
    if not samples and split == "train":
        raise DataError(
            f"{data} has no training samples. "
            "Prepare some with `oasst1`, `alpaca` or `chat`, or give another folder with `data`.",
            setting="data",
        )
    return samples


def read_pairs(data: Path, split: Split) -> list[Pair]:
    """Return the preference pairs of a split, which may be none for validation.

    Raises:
        DataError: There are no training pairs, or the shards are not what `prepare` wrote.
    """
    pairs = list(_rows(data, "preference", split, _pair))
    if not pairs and split == "train":
        raise DataError(
            f"{data} has no training pairs. "
            "Prepare some with `ultrafeedback` or `preference`, or give another folder with "
            "`data`.",
            setting="data",
        )
    return pairs


def _sample(row: dict[str, Any]) -> Sample:
    conversation = parse_messages(row["conversation"])
    if conversation.reply is None:
        raise RowError("conversation does not end with a reply")
    return Sample(*_names(row), conversation)


def _pair(row: dict[str, Any]) -> Pair:
    prompt = parse_messages(row["conversation"])
    chosen, rejected = (row[side].removesuffix(END_OF_TURN) for side in ("chosen", "rejected"))
    return Pair(*_names(row), Preference(prompt, chosen, rejected))


def _names(row: dict[str, Any]) -> tuple[str, str, str]:
    names = (row["id"], row["source"], row["group"])
    if not all(isinstance(name, str) for name in names):
        raise TypeError("id, source and group must be text")
    return names


def read_manifest(data: Path) -> Manifest:
    """Return the manifest of a data folder.

    Raises:
        DataError: It is missing, damaged, or made with another version, template or tokenizer.
    """
    path = data / MANIFEST
    try:
        with damage(path):
            manifest = _parsed(parse_json(path.read_text(encoding="utf-8")))
    except DataError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise DataError(
                f"No {MANIFEST} in {data}. Run `prepare()` first, or give its folder with `data`.",
                setting="data",
            ) from None
        raise
    if manifest.template != template_fingerprint():
        raise DataError(f"{path}: made with another chat template. Run `prepare()` again.")
    if manifest.tokenizer != tokenizer_fingerprint():
        raise DataError(f"{path}: made with another tokenizer. Run `prepare()` again.")
    return manifest


@contextmanager
def damage(path: Path, place: str = "") -> Generator[None]:
    """Turn any error about reading a file of a data folder into one that names the file.

    A file that was edited, truncated or replaced can raise almost any error.

    Args:
        place: Place in the file, such as ", row 7".

    Raises:
        DataError: The file cannot be read, or is not what `prepare` wrote.
    """
    try:
        yield
    except (Gpt2ChatError, MemoryError):
        raise
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError):
            cause = error.strerror or str(error)
        elif isinstance(error, RowError):
            cause = error.reason
        elif isinstance(error, KeyError):
            cause = f"no field {error}"
        elif isinstance(error, NestedTooDeep):
            cause = str(error)
        raise DataError(
            f"{path}{place}: not as prepare wrote it ({cause.splitlines()[0]}). "
            "Run `prepare()` again."
        ) from error


def _parsed(values: Any) -> Manifest:
    if values["version"] != VERSION:
        raise ValueError(f"version {values['version']}, not {VERSION}")
    shards = tuple(Shard(**shard) for shard in values.pop("shards"))
    inputs = tuple(Input(**entry) for entry in values.pop("inputs"))
    manifest = Manifest(**values, shards=shards, inputs=inputs)
    # Only these are checked, because they decide what is read; the others are only displayed.
    for shard in shards:
        texts = (shard.path, shard.kind, shard.split, shard.sha256)
        if not all(_is(text, str) for text in texts) or not _is(shard.rows, int):
            raise TypeError(f"shard {shard.path}")
        # A data folder may come from someone else, and must not make us read other files.
        if Path(shard.path).is_absolute() or ".." in Path(shard.path).parts:
            raise ValueError(f"shard {shard.path} is outside the folder")
    for name in ("counts", "dropped", "noted", "tokens", "lengths", "settings", "versions"):
        if not _is(getattr(manifest, name), dict):
            raise TypeError(f"{name} is not an object")
    if not _is(manifest.window, int) or manifest.window < 1:
        raise ValueError(f"window {manifest.window}")
    return manifest


def _is(value: object, kind: type) -> bool:
    """Return whether a value from JSON has the type of its annotation, which pyright assumes."""
    return isinstance(value, kind)


def manifest_text(manifest: Manifest) -> str:
    """Return a manifest as JSON, always the same text for the same manifest."""
    text = json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False) + "\n"
    # The name of a file need not be UTF-8: such bytes become an escape such as \udcff.
    return text.encode("utf-8", "backslashreplace").decode()


def checked(path: Path, sha256: str) -> Path:
    """Return the path of a file of a data folder, after a check of its hash.

    Raises:
        DataError: The file is missing or changed.
    """
    # The texts, too, although training reads the ids: whoever edits a text expects an effect.
    with damage(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise DataError(
            f"{path}: not as prepare wrote it (its sha256 is not the manifest's). "
            "Run `prepare()` again."
        )
    return path


def _rows(
    data: Path, kind: Kind, split: Split, parse: Callable[[dict[str, Any]], Item]
) -> Iterator[Item]:
    for shard in read_manifest(data).shards_of(kind, split):
        path = checked(data / shard.path, shard.sha256)
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                with damage(path, f", row {number}"):
                    yield parse(parse_json(line.decode()))
