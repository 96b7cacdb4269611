"""Records of data files and of the Hub, read in chunks that one worker handles at a time."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from gpt2chat.core.errors import DataError
from gpt2chat.core.inputs.datafiles import Split as Split
from gpt2chat.core.inputs.datafiles import opened, readable

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK_ROWS = 1_000
CHUNK_BYTES = 2**22
LINE_BYTES = 2**26
"""A longer line is left out: 64 MiB of text are some 16 million tokens."""
KEPT_TEXT = 2**16
"""Characters of a broken line that are kept aside."""
TOO_LONG_A_LINE = "line longer than 64 MiB"

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file, or what is wrong with it."""

    file: str
    """As the user knows it: a file's name, or a Hub name and its split."""
    line: int
    """From 1: the line of a JSON Lines file, else the place in the list or table."""
    value: dict[str, Any]
    """Empty where the record is broken."""
    problem: str = ""
    """Why it is broken, in a few words."""
    text: str = ""
    """What stands there, if it is broken."""

    @property
    def where(self) -> str:
        """Where it stands, for an error's text."""
        return f"{self.file}, {'line' if '.jsonl' in self.file else 'record'} {self.line}"


class Chunk(NamedTuple):
    """Up to `CHUNK_ROWS` records that follow each other, not parsed yet."""

    file: str
    first: int
    """Number of the first record of `values` or `table`."""
    done: float
    """Share of the file that has been read with it."""
    lines: list[tuple[int, bytes]] = []
    """JSON text by line number; of a line that is too long, nothing."""
    values: list[Any] = []
    table: "pa.Table | pa.RecordBatch | None" = None

    def records(self) -> Iterator[Record]:
        """Yield the records in order, broken ones with what is wrong."""
        for number, line in self.lines:
            yield _parsed(self.file, number, line)
        values = self.values if self.table is None else cast(list[Any], self.table.to_pylist())
        for number, value in enumerate(values, start=self.first):
            yield _record(self.file, number, value)


def read_file(file: Path) -> Iterator[Record]:
    """Yield the records of a data file in order, broken ones with what is wrong.

    Raises:
        DataError: The file as a whole cannot be read.
    """
    for chunk in read_chunks(file):
        yield from chunk.records()


def read_chunks(file: Path) -> Iterator[Chunk]:
    """Yield a data file's records in order.

    Raises:
        DataError: The file as a whole cannot be read.
    """
    with readable(file):
        if file.suffix == ".parquet":
            yield from _parquet(file)
        elif ".json" in file.suffixes and _is_list(file):
            yield from _list(file)
        else:
            yield from _lines(file)


def _lines(file: Path) -> Iterator[Chunk]:
    size = max(file.stat().st_size, 1)
    with opened(file) as (text, raw):
        lines: list[tuple[int, bytes]] = []
        held = 0
        for number, line in enumerate(_read_lines(text), start=1):
            if number == 1:
                line = line.removeprefix(BOM)
            if line and not line.isspace():
                lines.append((number, line))
                held += len(line)
            if len(lines) == CHUNK_ROWS or held >= CHUNK_BYTES:
                yield Chunk(file.name, 0, min(raw.tell() / size, 1.0), lines=lines)
                lines, held = [], 0
        if lines:
            yield Chunk(file.name, 0, 1.0, lines=lines)


def _read_lines(text: IO[bytes]) -> Iterator[bytes]:
    """Yield each line; of one that is longer than `LINE_BYTES`, its beginning."""
    while line := text.readline(LINE_BYTES + 1):
        yield line
        while len(line) > LINE_BYTES and not line.endswith(b"\n"):
            line = text.readline(LINE_BYTES + 1)


def _parsed(name: str, number: int, line: bytes) -> Record:
    line = line.rstrip(b"\r\n")
    if len(line) > LINE_BYTES:
        return _broken(name, number, TOO_LONG_A_LINE, line)
    try:
        value: Any = json.loads(line.decode())  # of bytes, it would guess the encoding
    except UnicodeDecodeError:
        return _broken(name, number, "not UTF-8", line)
    except json.JSONDecodeError:
        return _broken(name, number, "not JSON", line)
    except RecursionError:
        return _broken(name, number, "not JSON: nested too deep", line)
    except ValueError:  # int() refuses numbers of more than 4,300 digits
        return _broken(name, number, "not JSON: a number too long", line)
    return _record(name, number, value)


def _broken(name: str, number: int, problem: str, line: bytes) -> Record:
    return Record(name, number, {}, problem, line[:KEPT_TEXT].decode(errors="replace"))


def _record(name: str, number: int, value: Any) -> Record:
    if isinstance(value, dict):
        return Record(name, number, cast(dict[str, Any], value))
    text = json.dumps(value, default=str)[:KEPT_TEXT]
    return Record(name, number, {}, "not an object with named fields", text)


def _is_list(file: Path) -> bool:
    with opened(file) as (text, _):
        begins = text.read(2**16).removeprefix(BOM).lstrip()
    return begins.startswith(b"[")


def _list(file: Path) -> Iterator[Chunk]:
    """Yield what a JSON list holds. It is read whole: JSON Lines is the form for large files."""
    with opened(file) as (text, _):
        try:
            values: list[Any] = json.loads(text.read())
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file} is not JSON: {error}.") from error
    for first in range(0, len(values), CHUNK_ROWS):
        part = values[first : first + CHUNK_ROWS]
        yield Chunk(file.name, first + 1, (first + len(part)) / len(values), values=part)


def _parquet(file: Path) -> Iterator[Chunk]:
    from pyarrow import parquet

    first = 1
    with parquet.ParquetFile(file) as table:
        rows = max(table.metadata.num_rows, 1)
        for batch in table.iter_batches(batch_size=CHUNK_ROWS):
            yield Chunk(file.name, first, (first - 1 + len(batch)) / rows, table=batch)
            first += len(batch)
