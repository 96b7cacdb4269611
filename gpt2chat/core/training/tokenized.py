"""Encode the samples of a split once, and save the ids next to the shards for later runs.

data/.tokens/reply-train-0123456789abcdef.safetensors

The name holds a fingerprint of the shards, the template and the tokenizer. When one of them
changes, the file is not found and the samples are encoded again. The file also holds a hash of
its own content: a damaged one is written again.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpt2chat.core.data.shards import TOKENS, check_shards, read_pairs, read_samples
from gpt2chat.core.errors import DataError, StorageError
from gpt2chat.core.files import write_bytes
from gpt2chat.core.inputs.datafiles import Split
from gpt2chat.core.text.conversations import Conversation
from gpt2chat.core.text.tokens import Encoded, encode_conversation

TOKENS_VERSION = 2
"""Version of the file's format, which is part of the fingerprint."""
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
    names: Sequence[str]
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
        parts, prompts = [np.zeros(0, np.uint16)], list[int]()
        for sample in samples:
            parts.append(np.array(sample.ids, np.uint16))
            prompts.append(sample.prompt_length)
        lengths = np.array([len(part) for part in parts[1:]], np.int64)
        return cls._laid(np.concatenate(parts), lengths, np.array(prompts, np.int64), names, sides)

    @classmethod
    def _laid(cls, ids: Any, lengths: Any, prompts: Any, names: Any, sides: int) -> "Tokenized":
        return cls(ids, lengths, prompts, names, lengths.cumsum() - lengths, sides)

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


def load_tokenized(data: Path, split: Split, side: Side) -> Tokenized:
    """Return the samples of a split as ids, from the file of an earlier run if there is one.

    Raises:
        DataError: There is no training sample, or the shards are not what `prepare` wrote.
        StorageError: The folder of the saved ids is a link.
    """
    kind = "sft" if side == "reply" else "preference"
    manifest = check_shards(data, kind, split)
    hashes = [s.sha256 for s in manifest.shards if (s.kind, s.split) == (kind, split)]
    parts = (str(TOKENS_VERSION), *hashes, manifest.template, manifest.tokenizer)
    fingerprint = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    file = data / TOKENS / f"{side}-{split}-{fingerprint}.safetensors"
    if file.parent.is_symlink():  # files are written and removed there
        raise StorageError(f"{file.parent} is a link. Remove it.", setting="data")
    tokenized = _read(file)
    if tokenized is not None:
        return replace(tokenized, fingerprint=fingerprint)
    conversations: list[Conversation] = []
    if side == "reply":
        samples = read_samples(data, split)
        conversations += (sample.conversation for sample in samples)
        names = [sample.id for sample in samples]
    else:
        pairs = read_pairs(data, split)
        names = [pair.id for pair in pairs]
        for pair in pairs:
            prompt = pair.preference.prompt
            conversations.append(prompt.with_reply(pair.preference.chosen))
            if side == "pair":
                conversations.append(prompt.with_reply(pair.preference.rejected))
    if not names and split == "train":
        raise DataError(
            f"{data} has no rows to train on. Write some with `prepare()`.", setting="data"
        )
    encoded = map(encode_conversation, conversations)
    tokenized = Tokenized.of(encoded, names, 2 if side == "pair" else 1)
    _write(file, tokenized)
    return replace(tokenized, fingerprint=fingerprint)


def _read(file: Path) -> Tokenized | None:
    """Return the content of a file; None if it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(file.read_bytes())
        # safetensors notices a file that was cut off, not one whose bytes were changed.
        if arrays.pop("sha256").tobytes() != _digest(arrays):
            return None
    except (OSError, KeyError, ValueError, TypeError, SafetensorError):
        return None
    names: list[str] = json.loads(arrays["names"].tobytes())
    ids, lengths, prompts = (arrays[name] for name in ("ids", "lengths", "prompt_lengths"))
    return Tokenized._laid(ids, lengths, prompts, names, int(arrays["sides"][0]))  # pyright: ignore[reportPrivateUsage]


def _write(file: Path, tokenized: Tokenized) -> None:
    """Write the file and remove those of other shards. On a full or read-only disk, do nothing."""
    from safetensors.numpy import save

    arrays: dict[str, NDArray[Any]] = {
        "ids": tokenized.ids,
        "lengths": tokenized.lengths,
        "prompt_lengths": tokenized.prompt_lengths,
        # An id contains its source's file name, which may have line breaks and invalid UTF-8.
        "names": np.frombuffer(json.dumps(list(tokenized.names)).encode(), np.uint8),
        "sides": np.array([tokenized.sides]),
    }
    digest = np.frombuffer(_digest(arrays), np.uint8)
    try:
        write_bytes(file, save({**arrays, "sha256": digest}))
    except StorageError:
        return  # the next run encodes again: slower, and nothing else
    for other in file.parent.glob(f"{file.name.rpartition('-')[0]}-*"):
        if other != file:
            other.unlink(missing_ok=True)


def _digest(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the SHA-256 of named arrays: of their content, shapes and types."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.digest()
