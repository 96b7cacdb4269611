"""The rows that stay, as shards: each file hashed, and counted for the manifest."""

import hashlib
import json
import shutil
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpt2chat.core.data.parts import SPLITS
from gpt2chat.core.data.samples import REMARKS
from gpt2chat.core.data.selection import Order, Places, Selection
from gpt2chat.core.data.shards import LENGTH_BINS, Lengths, Shard
from gpt2chat.core.data.tally import dropped_line
from gpt2chat.core.data.work import DROPPED_TEXT
from gpt2chat.core.text.template import END_OF_TURN

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


def write_dropped(selection: Selection, path: Path) -> None:
    """Write every record and row that was dropped, with file, line and reason.

    A row that was dropped for what it resembles names that one: `like` is its file and line.
    """
    columns = ("line", "reply_number")
    lines, replies = (selection.column(name) if selection.lost else [] for name in columns)

    def place(row: int) -> dict[str, Any]:
        tally = selection.part_of(row).tally
        return {"file": tally.file, "line": int(lines[row]), "reply": int(replies[row])}

    with path.open("wb") as file:
        for part in selection.parts:
            with part.dropped.open("rb") as unusable:
                shutil.copyfileobj(unusable, file)
        for lost in selection.lost:
            for row, like in zip(lost.places.tolist(), lost.like.tolist(), strict=True):
                values = selection.row(row)
                text: str = values.get("completion") or values["chosen"]
                text = text.removesuffix(END_OF_TURN)[:DROPPED_TEXT]
                source = selection.part_of(row).tally.source
                line = dropped_line(
                    source, reason=lost.reason, text=text, **place(row), like=place(like)
                )
                file.write(line.encode())


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
