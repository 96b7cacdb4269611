"""The rows that stay, as shards: each file hashed, and counted for the manifest."""

import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpt2chat.core.data.parts import SPLITS
from gpt2chat.core.data.samples import REMARKS
from gpt2chat.core.data.selection import Lost, Order, Places, Selection
from gpt2chat.core.data.shards import LENGTH_BINS, Lengths, Shard
from gpt2chat.core.data.tally import rejected_line

SHARD_ROWS = 20_000
OPEN_FILES = 100
"""Parts that are held open at a time, to read rows in a drawn order."""


def write_shards(selection: Selection, key: int, order: Order, folder: Path) -> Iterator[Shard]:
    """Write the rows of a split and yield what the manifest says of each file."""
    kind, split = SPLITS[key]
    firsts = range(0, len(order.places), SHARD_ROWS)
    lines = _Lines(selection)
    try:
        for number, first in enumerate(firsts):
            name = f"{kind}/{split}-{number:05}-of-{len(firsts):05}.jsonl"
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            part = order.part(first, SHARD_ROWS)
            digest = hashlib.sha256()
            with path.open("wb") as shard:
                for line in lines.read(part):
                    digest.update(line)
                    shard.write(line)
                size = shard.tell()
            yield Shard(name, kind, split, len(part.places), size, digest.hexdigest())
    finally:
        lines.close()


class _Lines:
    """The lines of rows, read from the parts."""

    def __init__(self, selection: Selection):
        self._parts = selection.parts
        self._starts = selection.starts
        self._offsets = selection.column("offset")
        self._sizes = selection.column("size")
        self._open: OrderedDict[int, IO[bytes]] = OrderedDict()

    def read(self, order: Order) -> Iterator[bytes]:
        """Yield the line of each row, in the order given."""
        places, again = order
        part_of = np.searchsorted(self._starts, places, side="right") - 1
        columns = (part_of, self._offsets[places], self._sizes[places], again)
        for part, offset, size, repeat in zip(*(c.tolist() for c in columns), strict=True):
            file = self._file(part)
            file.seek(offset)
            line = file.read(size)
            yield _renamed(line, repeat) if repeat else line

    def _file(self, part: int) -> IO[bytes]:
        file = self._open.pop(part, None) or self._parts[part].lines.open("rb")
        self._open[part] = file
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return file

    def close(self) -> None:
        """Close all files."""
        for file in self._open.values():
            file.close()


def _renamed(line: bytes, repeat: int) -> bytes:
    """Return the line of a row that stands in the split again, with an id of its own."""
    values: dict[str, Any] = json.loads(line)
    values["id"] += f"#{repeat + 1}"
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def write_rejected(selection: Selection, path: Path) -> None:
    """Write every record that was lost, with file, line and reason."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for part in selection.parts:
            file.writelines(part.tally.rejected)
        lines = selection.column("line") if selection.lost else None
        for lost in selection.lost:
            file.writelines(_lost_lines(selection.parts, selection.starts, lines, lost))


def _lost_lines(parts: Any, starts: Any, lines: Any, lost: Lost) -> Iterator[str]:
    part_of = np.searchsorted(starts, lost.places, side="right") - 1
    for place, number in zip(lost.places.tolist(), part_of.tolist(), strict=True):
        tally = parts[number].tally
        yield rejected_line(tally.source, tally.file, int(lines[place]), lost.reason)


def count_rows(selection: Selection, order: Order) -> dict[str, int]:
    """Return the number of rows by source, in the order of the sources."""
    return {name: len(found) for name, found in selection.sources(order.places)}


def count_tokens(selection: Selection, order: Order) -> dict[str, int]:
    """Return the sums of prompt and trained tokens."""
    return {
        name: int(selection.column(name)[order.places].sum(dtype=np.int64))
        for name in ("prompt", "trained")
    }


def count_lengths(selection: Selection, order: Order, window: int) -> Lengths:
    """Return by source how many rows' prompts and replies fill each part of the window."""
    lengths: Lengths = {}
    for source, found in selection.sources(order.places):
        lengths[source] = {
            name: _histogram(selection.column(name)[found], window) for name in ("prompt", "reply")
        }
    return lengths


def _histogram(tokens: Any, window: int) -> list[int]:
    """Count by sixteenths of the window; the last has what is longer too."""
    bins = (tokens.astype(np.int64) - 1).clip(0) * LENGTH_BINS // window
    return np.bincount(bins.clip(max=LENGTH_BINS - 1), minlength=LENGTH_BINS).tolist()


def count_remarks(selection: Selection, places: Places) -> dict[str, Counter[str]]:
    """Return how many rows have each remark, by source."""
    remarks = selection.column("remarks")
    counts: dict[str, Counter[str]] = {}
    for source, found in selection.sources(places):
        bits = np.unpackbits(remarks[found][:, None], axis=1, bitorder="little").sum(axis=0)
        counter: Counter[str] = Counter(dict(zip(REMARKS, bits.tolist(), strict=False)))
        counts[source] = +counter
    return counts
