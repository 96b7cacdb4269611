"""Write the selected rows as shards, and count them for the manifest."""

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
from gpt2chat.core.data.work import REPORTED_REPLY
from gpt2chat.core.text.template import END_OF_TURN

SHARD_ROWS = 20_000
OPEN_FILES = 100
"""Parts that are open at a time while rows are read in a random order."""


def write_shards(selection: Selection, key: int, order: Order, folder: Path) -> Iterator[Shard]:
    """Write the rows of a split, and yield the manifest's entry of each file."""
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
        """Yield the line of each row in order."""
        places, repeats = order
        part_of = np.searchsorted(self._starts, places, side="right") - 1
        columns = (part_of, self._offsets[places], self._sizes[places], repeats)
        for part, offset, size, repeat in zip(*(c.tolist() for c in columns), strict=True):
            file = self._open.pop(part, None) or self._parts[part].lines.open("rb")
            self._open[part] = file  # Now the most recently used.
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            file.seek(offset)
            line = file.read(size)
            if repeat:  # Each copy of a row has an id of its own.
                values: dict[str, Any] = json.loads(line)
                values["id"] += f"#{repeat + 1}"
                text = json.dumps(values, ensure_ascii=False)
                line = text.encode("utf-8", "backslashreplace") + b"\n"
            yield line

    def close(self) -> None:
        """Close all files."""
        for file in self._open.values():
            file.close()


def write_dropped(selection: Selection, path: Path) -> None:
    """Write every dropped record and row, with its file, line and reason.

    If a row was removed because it resembles another, `like` is the place of the other.
    """
    columns = ("line", "reply_number")
    lines, replies = (selection.column(name) if selection.removals else [] for name in columns)

    def place(row: int) -> dict[str, Any]:
        tally = selection.part_of(row).tally
        return {"file": tally.file, "line": int(lines[row]), "reply": int(replies[row])}

    with path.open("wb") as file:
        for part in selection.parts:
            with part.dropped.open("rb") as dropped:
                shutil.copyfileobj(dropped, file)
        for removal in selection.removals:
            for row, like in zip(removal.places.tolist(), removal.like.tolist(), strict=True):
                values = selection.row(row)
                text: str = values.get("completion") or values["chosen"]
                text = text.removesuffix(END_OF_TURN)[:REPORTED_REPLY]
                source = selection.part_of(row).tally.source
                line = dropped_line(
                    source, reason=removal.reason, text=text, **place(row), like=place(like)
                )
                file.write(line.encode())


def count_rows(selection: Selection, order: Order) -> dict[str, int]:
    """Return the number of rows by source, in the order of the sources."""
    return {name: len(places) for name, places in selection.sources(order.places)}


def count_tokens(selection: Selection, order: Order) -> dict[str, int]:
    """Return the sums of prompt and trained tokens."""
    return {
        name: int(selection.column(name)[order.places].sum(dtype=np.int64))
        for name in ("prompt", "trained")
    }


def count_lengths(selection: Selection, order: Order, window: int) -> Lengths:
    """Return histograms of the lengths of prompts and replies, by source.

    A bin is a sixteenth of the window; the last one also counts longer texts.
    """
    lengths: Lengths = {}
    for source, places in selection.sources(order.places):
        lengths[source] = {}
        for name in ("prompt", "reply"):
            tokens = selection.column(name)[places].astype(np.int64)
            bins = ((tokens - 1).clip(0) * LENGTH_BINS // window).clip(max=LENGTH_BINS - 1)
            lengths[source][name] = np.bincount(bins, minlength=LENGTH_BINS).tolist()
    return lengths


def count_remarks(selection: Selection, places: Places) -> dict[str, Counter[str]]:
    """Return the number of rows with each remark, by source."""
    remarks = selection.column("remarks")
    counts: dict[str, Counter[str]] = {}
    for source, own in selection.sources(places):
        bits = np.unpackbits(remarks[own][:, None], axis=1, bitorder="little").sum(axis=0)
        counter: Counter[str] = Counter(dict(zip(REMARKS, bits.tolist(), strict=False)))
        counts[source] = +counter
    return counts
