"""Read the samples of a split as the ids that `prepare` wrote next to the shards."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpt2chat.core.data.shards import Shard, checked, damage, read_manifest
from gpt2chat.core.errors import DataError
from gpt2chat.core.inputs.datafiles import Split
from gpt2chat.core.text.tokens import Encoded

Side = Literal["reply", "pair", "chosen"]
"""What a row of a shard becomes: its one reply, the two replies of a pair, or the chosen one."""


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Samples end to end. An item, which packing never splits, is a sample or the two of a pair."""

    ids: NDArray[np.uint16]
    """All tokens; GPT-2's vocabulary fits 16 bits. Shape (tokens,)."""
    lengths: NDArray[np.int64]
    """Tokens of each sample. Shape (samples,)."""
    prompt_lengths: NDArray[np.int64]
    """Tokens of each sample before its reply. Shape (samples,)."""
    names: "Sequence[str] | RowNames"
    """Id of each item's row."""
    starts: NDArray[np.int64]
    """First token of each sample. Shape (samples,)."""
    sides: int
    """Samples of an item: 1, or 2 for the chosen and the rejected reply of a pair."""
    fingerprint: str = ""
    """Hash of the shards, the template and the tokenizer that they come from."""

    @classmethod
    def of(cls, samples: Iterable[Encoded], names: Sequence[str], sides: int) -> "Tokenized":
        """Return encoded samples. The samples of an item follow each other."""
        samples = list(samples)
        ids = [np.array(sample.ids, np.uint16) for sample in samples]
        lengths = np.array([len(sample) for sample in samples], np.int64)
        prompts = np.array([sample.prompt_length for sample in samples], np.int64)
        starts = lengths.cumsum() - lengths
        return cls(
            np.concatenate([np.zeros(0, np.uint16), *ids]), lengths, prompts, names, starts, sides
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Tokens of each item. Shape (items,)."""
        return self.lengths.reshape(-1, self.sides).sum(1)

    @property
    def longest(self) -> NDArray[np.int64]:
        """Tokens of each item's longer sample. Shape (items,)."""
        return self.lengths.reshape(-1, self.sides).max(1, initial=0)

    def samples_of(self, items: Sequence[int]) -> NDArray[np.int64]:
        """Return the numbers of the samples of items, in their order."""
        first = np.array(items, np.int64)[:, None] * self.sides
        return (first + np.arange(self.sides)).ravel()

    def tokens_of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids of samples, end to end."""
        spans = [self.ids[self.starts[i] : self.starts[i] + self.lengths[i]] for i in samples]
        return np.concatenate([np.zeros(0, np.uint16), *spans]).astype(np.int64)


class RowNames:
    """The ids of the rows of some shards, each read when it is asked for, as in an error."""

    def __init__(self, data: Path, shards: Sequence[Shard]):
        self._data = data
        self._shards = shards

    def __len__(self) -> int:
        return sum(shard.rows for shard in self._shards)

    def __getitem__(self, index: int) -> str:
        for shard in self._shards:
            if index < shard.rows:
                path = self._data / shard.path
                with damage(path), path.open("rb") as lines:
                    return json.loads(next(islice(lines, index, None)))["id"]
            index -= shard.rows
        raise IndexError(index)


def load_tokenized(data: Path, split: Split, side: Side) -> Tokenized:
    """Return the samples of a split as ids.

    Raises:
        DataError: There is no training sample, or a file is not what `prepare` wrote.
    """
    from safetensors.numpy import load_file

    manifest = read_manifest(data)
    kind = "sft" if side == "reply" else "preference"
    shards = manifest.shards_of(kind, split)
    if not shards and split == "train":
        raise DataError(
            f"{data} has no rows to train on. Write some with `prepare()`.", setting="data"
        )
    # An empty array first, since a split without rows has none to join.
    ids, lengths, prompts = ([np.zeros(0, np.int64)] for _ in range(3))
    for shard in shards:
        # The text is not used, but whoever edits it expects its new ids to be trained.
        checked(data / shard.path, shard.sha256)
        path = checked(data / shard.tokens, shard.tokens_sha256)
        with damage(path):
            arrays = load_file(path)
            ids.append(arrays["ids"])
            lengths.append(arrays["lengths"])
            prompts.append(arrays["prompt_lengths"])
    all_lengths = np.concatenate(lengths)
    starts = all_lengths.cumsum() - all_lengths
    hashes = (shard.tokens_sha256 for shard in shards)
    parts = (*hashes, manifest.template, manifest.tokenizer)
    # The samples of a pair follow each other, the chosen reply first.
    step = 2 if side == "chosen" else 1
    return Tokenized(
        np.concatenate(ids, dtype=np.uint16, casting="unsafe"),
        all_lengths[::step],
        np.concatenate(prompts)[::step],
        RowNames(data, shards),
        starts[::step],
        2 if side == "pair" else 1,
        hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16],
    )
