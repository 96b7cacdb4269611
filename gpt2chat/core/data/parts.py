"""Store the rows of one job on disk until the shards are written.

A part is five files with one stem: `.rows` (lines of the shards), `.npy` (the `INDEX` of the rows),
`.signatures.npy` (MinHash, for near-duplicates), `.dropped` (lines of `dropped.jsonl`) and `.json`
(the tally, and the sizes of the other files). `.json` is written last, so a part that has it with
the right sizes is complete, and a resumed run uses it.
"""

import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpt2chat.core.data.rows import Row
from gpt2chat.core.data.samples import REMARKS
from gpt2chat.core.data.shards import Kind
from gpt2chat.core.data.tally import Tally
from gpt2chat.core.inputs.datafiles import Split

SPLITS: tuple[tuple[Kind, Split], ...] = (
    ("sft", "train"),
    ("sft", "validation"),
    ("preference", "train"),
    ("preference", "validation"),
    ("reference", "validation"),
)
INDEX = np.dtype(
    [
        ("key", "u1"),  # place in SPLITS
        ("remarks", "u1"),  # bits, in the order of REMARKS
        ("line", "u4"),  # of the record
        ("reply_number", "u2"),  # in the record, from 1
        ("offset", "u8"),
        ("size", "u4"),
        ("text", "S16"),  # hash of the rendered row
        ("exchange", "S16"),  # hash of the latest user message and the reply
        ("prompt", "u4"),  # tokens
        ("trained", "u4"),
        ("reply", "u4"),
        ("length", "u4"),
    ]
)
Index = npt.NDArray[np.void]
Signatures = npt.NDArray[np.uint32]


class Entry(NamedTuple):
    """A row, its kind and split, and its origin."""

    key: tuple[Kind, Split]
    row: Row
    remarks: frozenset[str]
    line: int
    reply_number: int = 1


@dataclass(frozen=True, slots=True)
class Part:
    """A complete part on disk."""

    stem: Path
    tally: Tally
    rows: int

    def index(self) -> Index:
        """Return the index of the rows."""
        return np.load(self.stem.with_suffix(".npy"))

    def signatures(self) -> Signatures:
        """Return the MinHash signature of each row, shape (rows, permutations)."""
        return np.load(self.stem.with_suffix(".signatures.npy"))

    @property
    def dropped(self) -> Path:
        """File with its lines of `dropped.jsonl`."""
        return self.stem.with_suffix(".dropped")

    @property
    def lines(self) -> Path:
        """File with the lines of its rows."""
        return self.stem.with_suffix(".rows")


def read_part(stem: Path) -> Part | None:
    """Return the part if an earlier run completed it, else None."""
    try:
        values: dict[str, Any] = json.loads(stem.with_suffix(".json").read_bytes())
        rows, sizes = values.pop("rows"), values.pop("sizes")
        # A kill while parts are removed, or a crash of the machine, may leave only some files.
        if any(stem.with_suffix(end).stat().st_size != size for end, size in sizes.items()):
            return None
    except (OSError, ValueError, KeyError, RecursionError):
        return None
    for name in ("dropped", "noted", "unused"):
        values[name] = Counter[str](values.get(name, {}))
    return Part(stem, Tally(**values), rows)


def write_part(
    stem: Path, entries: Sequence[Entry], tally: Tally, signatures: Signatures | None
) -> Part:
    """Write a part, its tally last."""
    index = np.zeros(len(entries), INDEX)
    offset = 0
    for number, (key, row, remarks, line, reply_number) in enumerate(entries):
        size = len(row.line)
        index[number] = (
            SPLITS.index(key),
            sum(1 << bit for bit, remark in enumerate(REMARKS) if remark in remarks),
            line,
            min(reply_number, 2**16 - 1),
            offset,
            size,
            row.text_hash,
            row.exchange_hash,
            row.prompt_tokens,
            row.trained_tokens,
            row.reply_tokens,
            row.length,
        )
        offset += size
    sizes = {".rows": _write(stem.with_suffix(".rows"), b"".join(e.row.line for e in entries))}
    arrays = {".npy": index, ".signatures.npy": signatures}
    for end, array in arrays.items():
        if array is not None:
            # NumPy itself would report a full disk as an OSError without a number.
            content = io.BytesIO()
            np.save(content, array)
            sizes[end] = _write(stem.with_suffix(end), content.getvalue())
    sizes[".dropped"] = _write(stem.with_suffix(".dropped"), "".join(tally.lines).encode())
    tally.lines.clear()
    partial = stem.with_suffix(".json.partial")
    values = {entry.name: getattr(tally, entry.name) for entry in fields(tally)}
    _write(partial, json.dumps({**values, "rows": len(entries), "sizes": sizes}).encode())
    partial.replace(stem.with_suffix(".json"))
    return Part(stem, tally, len(entries))


def _write(path: Path, content: bytes) -> int:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return len(content)
