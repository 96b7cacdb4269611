"""Read the records of data files and of the Hub, in chunks that one worker handles at a time."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from gpt2chat.core.errors import DataError
from gpt2chat.core.inputs.datafiles import Split as Split
from gpt2chat.core.inputs.datafiles import opened, readable
from gpt2chat.core.inputs.fields import IRRELEVANT
from gpt2chat.core.inputs.shapes import CHAT_SHAPES, MESSAGES, PREFERENCE_SHAPES, detect
from gpt2chat.core.text.bounded_json import NestedTooDeep, is_too_deep, parse_json
from gpt2chat.core.text.conversations import is_message_list

if TYPE_CHECKING:
    import pyarrow as pa

# A chunk ends at whichever of the two it reaches first, so that long records make no large chunk.
CHUNK_ROWS = 1_000
CHUNK_BYTES = 2**22
BATCH_BYTES = 2**28
"""Most memory for the rows of a Parquet file that are read at once."""
GROUP_BYTES = 2**32
"""Largest row group of a Parquet file that is read."""
LINE_BYTES = 2**26
"""Longest line that is read: 64 MiB of text are some 16 million tokens."""
REPORTED_TEXT = 2**16
"""Characters of a broken line that `dropped.jsonl` shows."""
TOO_LONG_A_LINE = "line longer than 64 MiB"

# Editors on Windows write it at the beginning of a file, and JSON does not allow it.
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file, or the reason why it cannot be read."""

    file: str
    """Name of the file, or of the data set on the Hub with its split."""
    line: int
    """Line in a JSON Lines file, or place in a list or table, from 1."""
    value: dict[str, Any]
    """The fields; empty if the record is broken."""
    problem: str = ""
    """Reason why the record is broken, in a few words."""
    text: str = ""
    """The text of a broken record."""

    @property
    def where(self) -> str:
        """The file and line, for messages."""
        return f"{self.file}, {'line' if '.jsonl' in self.file else 'record'} {self.line}"


class Broken(NamedTuple):
    """In place of a record that cannot be read, or cannot be sent to another process."""

    problem: str


class Records(NamedTuple):
    """Up to `CHUNK_ROWS` consecutive records, not parsed yet, in one of three forms."""

    file: str
    first: int
    """Number of the first record of `values` or `table`."""
    done: float
    """Share of the file that has been read, including this chunk."""
    lines: list[tuple[int, bytes]] = []
    """JSON text with its line number; of a line that is too long, the beginning."""
    values: list[Any] = []
    table: "pa.Table | pa.RecordBatch | None" = None

    def parsed(self) -> Iterator[Record]:
        """Yield the records in order, broken ones with the reason."""
        for number, line in self.lines:
            yield from _parsed(self.file, number, line)
        values = self.values
        if self.table is not None:
            import pyarrow as pa

            table: Any = self.table
            # A cell may have a value that Python cannot represent: text that is not UTF-8, the year
            # 300,000. It fails the whole conversion, so only then is each cell tried.
            problems = (ValueError, OverflowError, pa.ArrowException)
            try:
                values = table.to_pylist()
            except problems:
                values = list[Any]()
                for number in range(table.num_rows):
                    row: dict[str, Any] = {}
                    broken = ""
                    for name in table.schema.names:
                        try:
                            row[name] = table.column(name)[number].as_py()
                        except problems:
                            # In a column that is never used, a bad cell does no harm.
                            broken = broken or ("" if name in IRRELEVANT else name)
                    problem = f"a cell of column {broken} cannot be read"
                    values.append(Broken(problem) if broken else row)
        for number, value in enumerate(values, start=self.first):
            yield _record(self.file, number, value)


def read_chunks(file: Path) -> Iterator[Records]:
    """Yield the records of a data file in order, in chunks.

    Raises:
        DataError: The file cannot be read.
    """
    with readable(file):
        if file.suffix == ".parquet":
            yield from _parquet(file)
            return
        with opened(file) as (text, _):
            lines = (line.strip() for line in _read_lines(text))
            filled = (line for line in lines if line and line != BOM)
            first, second = next(filled, b"").removeprefix(BOM), next(filled, b"")
        # One JSON text is on one line, or is a list or an object that goes on after the first. With
        # JSON on either of two lines, the file is JSON Lines, one of which may be broken.
        if first.startswith((b"[", b"{")) and (
            not second or first in (b"[", b"{") or not (_is_json(first) or _is_json(second))
        ):
            yield from _whole(file)
        else:
            yield from _lines(file)


def _lines(file: Path) -> Iterator[Records]:
    size = max(file.stat().st_size, 1)
    with opened(file) as (text, raw):
        lines: list[tuple[int, bytes]] = []
        size_of_lines = 0
        for number, line in enumerate(_read_lines(text), start=1):
            # Lines stay bytes, because parsing is left to the workers.
            if number == 1:
                line = line.removeprefix(BOM)
            if line and not line.isspace():
                lines.append((number, line))
                size_of_lines += len(line)
            if len(lines) == CHUNK_ROWS or size_of_lines >= CHUNK_BYTES:
                # A file that grows while it is read would have a share above 1.
                yield Records(file.name, 0, min(raw.tell() / size, 1.0), lines=lines)
                lines, size_of_lines = [], 0
        if lines:
            yield Records(file.name, 0, 1.0, lines=lines)


def _read_lines(text: IO[bytes]) -> Iterator[bytes]:
    """Yield each line; of a line longer than `LINE_BYTES`, only the beginning."""
    while line := text.readline(LINE_BYTES + 1):
        yield line
        while len(line) > LINE_BYTES and not line.endswith(b"\n"):
            line = text.readline(LINE_BYTES + 1)


def _parsed(name: str, number: int, line: bytes) -> Iterator[Record]:
    """Yield the record of a line; several if the line breaks between them are missing."""
    line = line.rstrip(b"\r\n")
    if len(line) > LINE_BYTES:
        yield _broken(name, number, TOO_LONG_A_LINE, line)
        return
    try:
        value: Any = parse_json(line.decode())  # Given bytes, json would guess an encoding.
    except UnicodeDecodeError:
        yield _broken(name, number, "not UTF-8", line)
    except json.JSONDecodeError as error:
        parts = _objects(error.doc)
        if len(parts) == 1:
            yield _broken(name, number, "not JSON", line)
        else:
            # All of them have the number of the line that they share.
            for part in parts:
                yield from _parsed(name, number, part.encode())
    except NestedTooDeep:
        yield _broken(name, number, "not JSON: nested too deep", line)
    except ValueError:  # int() refuses numbers of more than 4,300 digits.
        yield _broken(name, number, "not JSON: a number too long", line)
    else:
        yield _record(name, number, value)


def _objects(text: str) -> list[str]:
    """Return the objects in `{…}{…}`, each as text; the last one may be unreadable.

    Such a line appears if a record was appended to a file without a final line break.
    """
    decoder, parts = json.JSONDecoder(), list[str]()
    start = end = 0
    while text[start : start + 1] == "{":
        try:
            _, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            break
        parts.append(text[start:end])
        start = len(text) - len(text[end:].lstrip())
    if start == len(text):
        return parts
    return [*parts, text[start:]] if text[start] == "{" else [text]


def _broken(name: str, number: int, problem: str, line: bytes) -> Record:
    return Record(name, number, {}, problem, line[:REPORTED_TEXT].decode(errors="replace"))


def _record(name: str, number: int, value: Any) -> Record:
    if isinstance(value, Broken):
        return Record(name, number, {}, value.problem)
    if is_message_list(value):
        return Record(name, number, {"messages": value})  # nanochat's format
    if isinstance(value, dict):
        return Record(name, number, cast(dict[str, Any], value))
    text = json.dumps(value, default=str)[:REPORTED_TEXT]
    return Record(name, number, {}, "not an object with named fields", text)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _whole(file: Path) -> Iterator[Records]:
    """Yield the records of one JSON text, which is read into memory as a whole."""
    with opened(file) as (text, _):
        try:
            values = _values(text.read().removeprefix(BOM).decode())
        except (ValueError, RecursionError) as error:
            if ".json" not in file.suffixes:
                values = None  # JSON Lines after all, with a broken first line.
            else:
                cause = "it is nested too deep" if isinstance(error, RecursionError) else error
                raise DataError(
                    f"Cannot read {file}: it is not JSON ({cause}). Repair it, or leave it out."
                ) from error
    if values is None:
        yield from _lines(file)
        return
    for first in range(0, len(values), CHUNK_ROWS):
        part = values[first : first + CHUNK_ROWS]
        # A chunk is pickled for another process, and pickle recurses into nested values.
        part = [Broken("nested too deep") if is_too_deep(value) else value for value in part]
        yield Records(file.name, first + 1, (first + len(part)) / len(values), values=part)


def _values(text: str) -> list[Any]:
    """Return the records in a JSON text: consecutive values, or the records inside one value."""
    decoder, values, position = json.JSONDecoder(), list[Any](), 0
    while position < len(text):
        # raw_decode does not skip white space before a value.
        if text[position].isspace():
            position += 1
            continue
        value, position = decoder.raw_decode(text, position)
        values.append(value)
    return _entries(values[0]) if len(values) == 1 else values


def _entries(value: Any) -> list[Any]:
    """Return the records inside the only value of a JSON text.

    A list contains records, unless it is one conversation. An object is a record, unless exactly
    one of its fields is a list of records: {"version": 1, "data": [...]}.
    """
    if isinstance(value, list):
        return [value] if is_message_list(value) else cast(list[Any], value)
    record = cast(dict[str, Any], value)
    lists = [
        name
        for name, entries in record.items()
        if isinstance(entries, list)
        and entries
        and not is_message_list(entries)
        and all(
            isinstance(entry, dict) or is_message_list(entry) for entry in cast(list[Any], entries)
        )
    ]
    shape = detect(record, (*CHAT_SHAPES, *PREFERENCE_SHAPES))
    is_wrapped = len(lists) == 1 and (shape is None or lists[0] in MESSAGES)
    return record[lists[0]] if is_wrapped else [record]


def _parquet(file: Path) -> Iterator[Records]:
    from pyarrow import parquet

    first = 1
    with parquet.ParquetFile(file) as table:
        rows = max(table.metadata.num_rows, 1)
        for group in range(table.num_row_groups):
            size = table.metadata.row_group(group).total_byte_size
            if size > GROUP_BYTES:
                raise DataError(
                    f"{file}: a row group is larger than {GROUP_BYTES // 2**30} GiB. Write the "
                    "file again with smaller row groups."
                )
            # A repeated value is stored once, so each row may be as large as the row group.
            at_once = min(max(BATCH_BYTES // max(size, 1), 1), CHUNK_ROWS)
            parts: list[Any] = []
            number = size_of_parts = 0
            for batch in table.iter_batches(batch_size=at_once, row_groups=[group]):
                parts.append(batch)
                number, size_of_parts = number + len(batch), size_of_parts + batch.nbytes
                if number >= CHUNK_ROWS or size_of_parts >= CHUNK_BYTES:
                    yield _table_chunk(file, first, rows, parts)
                    first, parts, number, size_of_parts = first + number, [], 0, 0
            if parts:
                yield _table_chunk(file, first, rows, parts)
                first += number


def _table_chunk(file: Path, first: int, rows: int, parts: list[Any]) -> Records:
    import pyarrow as pa

    table = parts[0] if len(parts) == 1 else pa.Table.from_batches(parts)
    return Records(file.name, first, (first - 1 + len(table)) / rows, table=table)
