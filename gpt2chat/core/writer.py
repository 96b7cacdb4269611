"""Rows to shards: duplicates out, training rows in a drawn order, every file hashed."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from gpt2chat.core.records import Split
from gpt2chat.core.rows import Row
from gpt2chat.core.shards import LENGTH_BINS, Kind, Shard

SHARD_ROWS = 20_000
DUPLICATE = "duplicate"
OVERLAP = "also in validation"


class Entry(NamedTuple):
    """Where a row lies in its spool, and what is counted of it."""

    offset: int
    size: int
    """In bytes."""
    source: str
    text_hash: bytes
    exchange_hash: bytes
    prompt_tokens: int
    trained_tokens: int
    length: int


class Spool:
    """The rows of one split, on disk in the order they came; their places in memory.

    So a split takes about 400 bytes of memory a row, however long its texts are.
    """

    def __init__(self, folder: Path, kind: Kind, split: Split):
        self.kind: Kind = kind
        self.split: Split = split
        self.entries: list[Entry] = []
        self.texts: set[bytes] = set()
        self.path = folder / f".{kind}-{split}"
        self.file: IO[bytes] = self.path.open("w+b")
        self.end = 0

    def add(self, row: Row) -> bool:
        """Keep a row; return False for a duplicate. The reference set keeps its duplicates."""
        if row.text_hash in self.texts and self.kind != "reference":
            return False
        self.texts.add(row.text_hash)
        sizes = (row.prompt_tokens, row.trained_tokens, row.length)
        self.entries.append(
            Entry(self.end, len(row.line), row.source, row.text_hash, row.exchange_hash, *sizes)
        )
        self.file.write(row.line)
        self.end += len(row.line)
        return True

    def without(self, other: "Spool") -> Counter[str]:
        """Drop the rows that share their text or last exchange with one of `other`.

        Returns:
            How many were dropped, by source.
        """
        exchanges = {entry.exchange_hash for entry in other.entries}
        kept = [
            entry
            for entry in self.entries
            if entry.text_hash not in other.texts and entry.exchange_hash not in exchanges
        ]
        dropped = Counter(entry.source for entry in self.entries)
        dropped.subtract(Counter(entry.source for entry in kept))
        self.entries = kept
        return +dropped

    def write(self, folder: Path, seed: int) -> Iterator[Shard]:
        """Write the shards and yield what the manifest says of each; training rows are shuffled."""
        if self.split == "train":
            random.Random(seed).shuffle(self.entries)
        parts = [
            self.entries[first : first + SHARD_ROWS]
            for first in range(0, len(self.entries), SHARD_ROWS)
        ]
        for number, part in enumerate(parts):
            name = f"{self.kind}/{self.split}-{number:05}-of-{len(parts):05}.jsonl"
            yield self._write_shard(folder, name, part)

    def close(self) -> None:
        """Remove the spool."""
        self.file.close()
        self.path.unlink(missing_ok=True)

    def _write_shard(self, folder: Path, name: str, entries: Sequence[Entry]) -> Shard:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        digest = hashlib.sha256()
        with path.open("wb") as shard:
            for entry in entries:
                self.file.seek(entry.offset)
                line = self.file.read(entry.size)
                digest.update(line)
                shard.write(line)
            size = shard.tell()
        return Shard(name, self.kind, self.split, len(entries), size, digest.hexdigest())

    def counts(self) -> dict[str, int]:
        """Return the number of rows by source, sources in the order they came."""
        return dict(Counter(entry.source for entry in sorted(self.entries)))

    def tokens(self) -> dict[str, int]:
        """Return the sums of prompt and trained tokens."""
        return {
            "prompt": sum(entry.prompt_tokens for entry in self.entries),
            "trained": sum(entry.trained_tokens for entry in self.entries),
        }

    def lengths(self, window: int) -> list[int]:
        """Return the number of rows in each eighth of the window; the last has longer ones too."""
        bins = [0] * LENGTH_BINS
        for entry in self.entries:
            bins[min((entry.length - 1) * LENGTH_BINS // window, LENGTH_BINS - 1)] += 1
        return bins
