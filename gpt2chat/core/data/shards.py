"""Shards: what `prepare` writes and training reads, checked against their manifest.

data/
├── sft/train-00000-of-00001.jsonl, validation-…           a prompt and the reply to train on
├── preference/train-00000-of-00001.jsonl, validation-…    a prompt, a chosen and a rejected reply
├── reference/validation-00000-of-00001.jsonl              the reference project's evaluation set
├── rejected.jsonl                                         records that were lost, where and why
├── lengths.png                                            histograms, with --stats
├── .tokens/                                               the rows as ids, kept by training
└── manifest.json                                          counts, hashes, fingerprints
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from gpt2chat.core.errors import DataError
from gpt2chat.core.inputs.datafiles import Split
from gpt2chat.core.inputs.sources import Input
from gpt2chat.core.text.conversations import Conversation, Preference, parse_messages
from gpt2chat.core.text.template import END_OF_TURN
from gpt2chat.core.text.tokens import template_fingerprint, tokenizer_fingerprint

Kind = Literal["sft", "preference", "reference"]

VERSION = 2
MANIFEST = "manifest.json"
REJECTED = "rejected.jsonl"
PICTURE = "lengths.png"
TOKENS = ".tokens"
LENGTH_BINS = 16
"""Bars of a length histogram, each a sixteenth of the window; the last holds all above too."""

Lengths = dict[str, dict[str, list[int]]]
"""Number of rows by source, `prompt` or `reply` (a pair's longer one), and sixteenth of the window
that its tokens fill."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation to train or to measure on."""

    id: str
    source: str
    group: str
    """What is held out, and drawn in a bootstrap, as a whole: the tree of an OASST1 message, else
    all that begins with the same document and first user message."""
    conversation: Conversation
    """Ends with a reply."""


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
    """Below the data folder."""
    kind: Kind
    split: Split
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`manifest.json`: what stands in a data folder and where it comes from."""

    version: int
    window: int
    """Longest sample, in tokens."""
    seed: int
    settings: dict[str, Any]
    """What else decided the rows: the flags of `prepare` that name no source."""
    holdout: dict[str, float]
    """Share of each source's groups that was held out for validation."""
    counts: dict[str, dict[str, dict[str, int]]]
    """Rows by kind, source and split."""
    dropped: dict[str, dict[str, int]]
    """Records, samples and pairs left out, by source and reason."""
    noted: dict[str, dict[str, int]]
    """Rows kept with a remark, by source: early turns dropped, broken encoding mended …"""
    tokens: dict[str, dict[str, dict[str, int]]]
    """`prompt` and `trained` tokens by kind and split; a pair's prompt counts once."""
    lengths: dict[str, dict[str, Lengths]]
    """By kind and split."""
    shards: tuple[Shard, ...]
    inputs: tuple[Input, ...]
    template: str
    """Fingerprint of the chat template."""
    tokenizer: str
    """Fingerprint of the tokenizer."""
    versions: dict[str, str]
    """Of gpt2chat and of the libraries that decide the rows."""
    unused: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict[str, dict[str, int]])
    """Records that were used without one of their fields, by source and the field's name."""

    def rows(self, kind: Kind, split: Split) -> int:
        """Return the number of rows."""
        return sum(
            shard.rows for shard in self.shards if (shard.kind, shard.split) == (kind, split)
        )


def read_samples(
    data: Path, split: Split, kind: Literal["sft", "reference"] = "sft"
) -> list[Sample]:
    """Return the samples of a split; none where it has no validation samples.

    Raises:
        DataError: There are no training samples, or the shards are not what `prepare` wrote.
    """
    samples = [
        Sample(row["id"], row["source"], row["group"], parse_messages(row["conversation"]))
        for row in _rows(data, kind, split)
    ]
    if not samples and split == "train":
        raise DataError(
            f"{data} has no training samples. "
            "Type gpt2chat prepare with --oasst1, --alpaca or --chat."
        )
    return samples


def read_pairs(data: Path, split: Split) -> list[Pair]:
    """Return the preference pairs of a split; none where it has no validation pairs.

    Raises:
        DataError: There are no training pairs, or the shards are not what `prepare` wrote.
    """
    pairs = [_pair(row) for row in _rows(data, "preference", split)]
    if not pairs and split == "train":
        raise DataError(
            f"{data} has no training pairs. "
            "Type gpt2chat prepare with --ultrafeedback or --preference."
        )
    return pairs


def _pair(row: dict[str, Any]) -> Pair:
    prompt = parse_messages(row["conversation"])
    chosen, rejected = (row[side].removesuffix(END_OF_TURN) for side in ("chosen", "rejected"))
    return Pair(row["id"], row["source"], row["group"], Preference(prompt, chosen, rejected))


def read_manifest(data: Path) -> Manifest:
    """Return what a data folder's manifest says.

    Raises:
        DataError: There is none, or it is of another version, template or tokenizer.
    """
    path = data / MANIFEST
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        manifest = _parsed(values)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"No {MANIFEST} in {data}. Type gpt2chat prepare first, or name the folder with --data."
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path} is no manifest of prepare. Type gpt2chat prepare again."
        ) from error
    if manifest.template != template_fingerprint():
        raise DataError(f"{path}: made with another chat template. Type gpt2chat prepare again.")
    if manifest.tokenizer != tokenizer_fingerprint():
        raise DataError(f"{path}: made with another tokenizer. Type gpt2chat prepare again.")
    return manifest


def _parsed(values: Any) -> Manifest:
    if values["version"] != VERSION:
        raise ValueError(f"version {values['version']}")
    shards = tuple(Shard(**shard) for shard in values.pop("shards"))
    inputs = tuple(Input(**entry) for entry in values.pop("inputs"))
    return Manifest(**values, shards=shards, inputs=inputs)


def manifest_text(manifest: Manifest) -> str:
    """Return a manifest as JSON, the same for the same manifest."""
    return json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False) + "\n"


def check_shards(data: Path, kind: Kind, split: Split) -> Manifest:
    """Return the manifest, once the shards of a split are known to be what `prepare` wrote.

    Raises:
        DataError: There is no manifest, or a shard is missing or changed.
    """
    manifest = read_manifest(data)
    for shard in manifest.shards:
        if (shard.kind, shard.split) == (kind, split):
            _check(data / shard.path, shard)
    return manifest


def _rows(data: Path, kind: Kind, split: Split) -> Iterator[dict[str, Any]]:
    for shard in read_manifest(data).shards:
        if (shard.kind, shard.split) == (kind, split):
            path = data / shard.path
            _check(path, shard)
            with path.open("rb") as lines:
                yield from (cast(dict[str, Any], json.loads(line)) for line in lines)


def _check(path: Path, shard: Shard) -> None:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path} is named in the manifest and cannot be read ({error.strerror}). "
            "Type gpt2chat prepare again."
        ) from error
    if digest != shard.sha256:
        raise DataError(
            f"{path} is not as prepare wrote it (its sha256 differs from the manifest's). "
            "Type gpt2chat prepare again."
        )
