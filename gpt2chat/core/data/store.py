"""Keep the rows of all chunks on disk until the shards are written, so that a killed run resumes.

Each file grows with each chunk: `rows` (lines of shards), `ids` (their tokens, 16 bits each),
`index` (numbers about each row), `signatures` (MinHash) and `dropped` (lines of `dropped.jsonl`).
`chunks`, written last, has a line for each chunk with its counts and a checksum of what it added to
the others. A resumed run continues after the last line whose checksum is right.
"""

import json
import zlib
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpt2chat.core.data.counts import Counts
from gpt2chat.core.data.near import BANDS, Signatures, bands
from gpt2chat.core.data.rows import REMARKS, Row
from gpt2chat.core.data.shards import Kind
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
        ("size", "u4"),  # bytes of the line
        ("text", "S16"),  # hash of the rendered row
        ("exchange", "S16"),  # hash of the latest user message and the reply
        ("prompt", "u4"),  # tokens
        ("first", "u4"),  # tokens of the reply, or of a pair's chosen one
        ("second", "u4"),  # tokens of a pair's rejected reply
        ("bands", "u8", BANDS),
    ]
)
"""What stays in memory of each row: 184 bytes."""
FILES: tuple[str, ...] = ("rows", "ids", "index", "signatures", "dropped")


class Part(NamedTuple):
    """What a worker makes of one chunk."""

    source: str
    file: str
    done: float
    """Share of all input that has been read, including this chunk; negative if unknown."""
    counts: Counts
    contents: dict[str, bytes]
    """What is added to each of the files."""
    rows: int


def make_part(
    source: str,
    file: str,
    done: float,
    counts: Counts,
    rows: list[tuple[Row, int]],
    signed: Signatures | None,
) -> Part:
    """Return rows, each with its number among the replies of its record, as a part."""
    index = np.zeros(len(rows), INDEX)
    for place, (row, number) in enumerate(rows):
        lengths = [len(sample) - sample.prompt_length for sample in row.samples]
        index[place] = (
            SPLITS.index((row.item.kind, row.item.split)),
            sum(1 << bit for bit, remark in enumerate(REMARKS) if remark in row.remarks),
            row.item.line,
            min(number, 2**16 - 1),  # Only `dropped.jsonl` shows it.
            len(row.line),
            row.text_hash,
            row.exchange_hash,
            row.samples[0].prompt_length,
            *(*lengths, 0)[:2],
            0,
        )
    if signed is not None:
        index["bands"] = bands(signed)
    ids = [np.array(sample.ids, np.uint16).tobytes() for row, _ in rows for sample in row.samples]
    contents = {
        "rows": b"".join(row.line for row, _ in rows),
        "ids": b"".join(ids),
        "index": index.tobytes(),
        "signatures": b"" if signed is None else signed.tobytes(),
        "dropped": "".join(counts.lines).encode(),
    }
    counts.lines.clear()
    return Part(source, file, done, counts, contents, len(rows))


class Store:
    """The parts of a run, in the order of the chunks."""

    def __init__(self, folder: Path):
        self.parts: list[Part] = []
        """The parts without their contents: first those that an earlier run has finished."""
        self._folder = folder
        ends = dict.fromkeys((*FILES, "chunks"), 0)
        with ExitStack() as stack:
            files = {name: stack.enter_context((folder / name).open("a+b")) for name in ends}
            for file in files.values():
                file.seek(0)
            # What follows a damaged line is cut off below, and those chunks are converted again.
            with suppress(ValueError, KeyError, TypeError, RecursionError):
                for line in files["chunks"]:
                    values: dict[str, Any] = json.loads(line)
                    sizes = values.pop("sizes")
                    contents = {name: files[name].read(sizes[name]) for name in FILES}
                    # After a crash of the machine, the end of a file may be missing or zeros.
                    if values.pop("checksum") != _checksum(contents):
                        break
                    counts = Counts.of(values.pop("counts"))
                    self.parts.append(Part(**values, counts=counts, contents={}))
                    ends = {
                        name: ends[name] + {**sizes, "chunks": len(line)}[name] for name in ends
                    }
            for name, end in ends.items():
                files[name].truncate(end)

    def add(self, part: Part) -> None:
        """Append a part."""
        values = part._asdict() | {
            "counts": part.counts.as_dict(),
            "sizes": {name: len(part.contents[name]) for name in FILES},
            "checksum": _checksum(part.contents),
        }
        del values["contents"]
        # The line is written last, so a part that has one is complete.
        line = json.dumps(values).encode() + b"\n"
        for name, content in {**part.contents, "chunks": line}.items():
            with (self._folder / name).open("ab") as file:
                file.write(content)
        self.parts.append(part._replace(contents={}))

    def read(self, name: str, dtype: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
        """Return the content of a file, which stays on disk."""
        path = self._folder / name
        # An empty file cannot be mapped.
        return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)


def _checksum(contents: dict[str, bytes]) -> int:
    checksum = 0
    for name in FILES:
        checksum = zlib.crc32(contents[name], checksum)
    return checksum
