"""Data files are found, and read record by record, broken ones too."""

import bz2
import gzip
import json
import lzma
import pickle
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from gpt2chat.core.errors import DataError
from gpt2chat.core.inputs import records
from gpt2chat.core.inputs.records import Record, read_chunks

ROWS = [{"text": "one"}, {"text": "two"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def zst(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def read(file: Path) -> list[Record]:
    return [record for records in read_chunks(file) for record in records.parsed()]


def values(file: Path) -> list[object]:
    return [record.value for record in read(file)]


def write(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.json", LINES),
        ("a.json", json.dumps(ROWS, indent=1).encode()),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n\r\n")),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("a.jsonl.bz2", bz2.compress(LINES)),
        ("a.jsonl.zst", zst(LINES)),
        ("a.jsonl.zst", zst(LINES[:20]) + zst(LINES[20:])),
        ("a.json.xz", lzma.compress(json.dumps(ROWS).encode())),
    ],
)
def test_every_kind_of_json_file_gives_the_same_records(tmp_path: Path, name: str, content: bytes):
    assert values(write(tmp_path / name, content)) == ROWS


def test_a_parquet_file_gives_the_same_records(tmp_path: Path):
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == ROWS


@pytest.mark.parametrize("first", [b"", LINES])
def test_records_on_one_line_are_read_and_a_broken_last_one_is_named(tmp_path: Path, first: bytes):
    glued = b'{"a": 1}{"a": 2} {"a": {"b": 3}}{"a": '
    records = read(write(tmp_path / "a.jsonl", first + glued + b"\n" + LINES))
    values = [record.value["a"] for record in records if "a" in record.value]
    assert values == [1, 2, {"b": 3}]
    assert [record.problem for record in records[-3:]] == ["not JSON", "", ""]


def test_many_records_on_one_line_are_read(tmp_path: Path):
    records = read(write(tmp_path / "a.jsonl", LINES + b'{"a": 1}' * 5_000))
    assert len(records) == 5_002


@pytest.mark.parametrize("line", [b'{"a": 1},', b'{"a": 1} x', b"{} []", b"1 2", b'[1]{"a": 1}'])
def test_anything_else_after_a_record_makes_the_line_a_broken_one(tmp_path: Path, line: bytes):
    records = read(write(tmp_path / "a.jsonl", LINES + line + b"\n" + LINES))
    assert [record.problem for record in records] == ["", "", "not JSON", "", ""]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": "cut', "not JSON"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'["text"]', "not an object with named fields"),
        (b"[" * 100_000, "not JSON: nested too deep"),
        (b'{"text": ' + b"1" * 5_000 + b"}", "not JSON: a number too long"),
        (b'{"text": "a\x00b"}', "not JSON"),
    ],
)
def test_a_broken_line_has_its_place_and_the_next_line_is_read(
    tmp_path: Path, line: bytes, problem: str
):
    records = read(write(tmp_path / "a.jsonl", LINES + line + b"\n" + LINES))
    assert [record.problem for record in records] == ["", "", problem, "", ""]
    assert records[2].where == "a.jsonl, line 3"
    assert records[2].text[:1] == line[:1].decode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.gz", gzip.compress(LINES * 100, mtime=0)[:-9]),
        ("a.jsonl.gz", LINES),
        ("a.jsonl.xz", lzma.compress(LINES)[:-9]),
        ("a.jsonl.xz", LINES),
        ("a.jsonl.bz2", bz2.compress(LINES)[:-9]),
        ("a.jsonl.bz2", LINES),
        ("a.jsonl.zst", zst(LINES * 100)[:-9]),
        ("a.jsonl.zst", LINES),
        ("a.parquet", LINES),
        ("a.json", b'[{"text": "one"}'),
    ],
)
def test_a_truncated_file_or_one_of_another_format_is_named(
    tmp_path: Path, name: str, content: bytes
):
    with pytest.raises(DataError, match=rf"{name}:? i"):
        read(write(tmp_path / name, content))


def test_chunks_have_consecutive_records_and_the_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "CHUNK_ROWS", 4)
    rows = [{"n": n} for n in range(10)]
    lines = "".join(json.dumps(row) + "\n\n" for row in rows).encode()
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    files = [
        write(tmp_path / "a.jsonl", lines),
        write(tmp_path / "b.json", json.dumps(rows).encode()),
        tmp_path / "a.parquet",
    ]
    for file in files:
        chunks = list(read_chunks(file))
        assert [len(list(chunk.parsed())) for chunk in chunks] == [4, 4, 2]
        found = [record for chunk in chunks for record in chunk.parsed()]
        assert [record.value for record in found] == rows
        steps = range(1, 20, 2) if file.suffix == ".jsonl" else range(1, 11)
        assert [record.line for record in found] == list(steps)
        shares = [chunk.done for chunk in chunks]
        assert shares == sorted(shares)
        assert shares[-1] == 1


def test_a_chunk_ends_where_it_has_enough_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(records, "CHUNK_BYTES", 30)
    file = write(tmp_path / "a.jsonl", LINES * 3)
    assert [len(chunk.lines) for chunk in read_chunks(file)] == [2, 2, 2]


def test_a_line_that_is_too_long_is_skipped_and_the_next_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "LINE_BYTES", 40)
    long = json.dumps({"text": "x" * 200}).encode() + b"\n"
    found = read(write(tmp_path / "a.jsonl", LINES + long + LINES))
    assert [record.line for record in found] == [1, 2, 3, 4, 5]
    assert [record.problem for record in found] == [
        "", "", "line longer than 64 MiB", "", "",
    ]  # fmt: skip


TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
ROW = {"prompt": "Hi", "completion": "Hello!"}
ROLE = {"message_id": "a", "text": "Hi", "role": "prompter"}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", json.dumps(ROW), [ROW]),
        ("a.json", json.dumps(ROW, indent=2), [ROW]),
        ("a.jsonl", json.dumps(ROW, indent=2), [ROW]),
        ("a.json", f"{json.dumps(ROW, indent=2)}\n{json.dumps(ROW, indent=2)}\n", [ROW, ROW]),
        ("a.jsonl", json.dumps([ROW, ROW], indent=2), [ROW, ROW]),
        ("a.json", json.dumps({"version": "1", "data": [ROW, ROW]}), [ROW, ROW]),
        ("a.json", json.dumps({"version": "1", "data": [ROW, ROW]}, indent=1), [ROW, ROW]),
        ("a.json", json.dumps({"conversations": [ROW, ROW]}), [ROW, ROW]),
        ("a.json", json.dumps({"messages": TALK}, indent=2), [{"messages": TALK}]),
        ("a.json", json.dumps({**ROW, "x": [{"y": 1}]}), [{**ROW, "x": [{"y": 1}]}]),
        ("a.jsonl", json.dumps(TALK), [{"messages": TALK}]),
        ("a.jsonl", f"{json.dumps(TALK)}\n{json.dumps(TALK)}\n", [{"messages": TALK}] * 2),
        ("a.json", json.dumps(TALK, indent=1), [{"messages": TALK}]),
        ("a.json", json.dumps([ROLE, ROLE]), [ROLE, ROLE]),
        ("a.json", json.dumps([TALK, TALK]), [{"messages": TALK}] * 2),
        ("a.json", json.dumps({"data": [TALK, TALK]}), [{"messages": TALK}] * 2),
        ("a.json", f"{json.dumps(ROW)}\n\n{json.dumps(ROW)}\n", [ROW, ROW]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_records_are_found_in_every_form_of_json(
    tmp_path: Path, name: str, text: str, expected: list[object], packed: bool
):
    content = b"\xef\xbb\xbf" + text.encode()
    file = tmp_path / (f"{name}.gz" if packed else name)
    assert values(write(file, gzip.compress(content) if packed else content)) == expected


def test_json_lines_may_begin_with_a_broken_line(tmp_path: Path):
    broken, sound = b'{"prompt": "Hi\n', json.dumps(ROW).encode() + b"\n"
    for name in ("a.jsonl", "a.json"):
        records = read(write(tmp_path / name, broken + sound + sound))
        assert [record.problem for record in records] == ["not JSON", "", ""]


@pytest.mark.parametrize("levels", [101, 900, 990, 3_000])
def test_a_record_of_thousands_of_levels_has_a_reason(tmp_path: Path, levels: int):
    deep = b'{"prompt": "Hi", "completion": ' + b"[" * levels + b"]" * levels + b"}"
    sound = json.dumps(ROW).encode()
    lines = write(tmp_path / "a.jsonl", deep + b"\n" + sound)
    assert ["deep" in record.problem for record in read(lines)] == [True, False]
    if levels < 990:  # of more, Python cannot parse the whole file
        listed = write(tmp_path / "a.json", b"[" + deep + b"," + sound + b"]")
        chunks = list(read_chunks(listed))
        assert pickle.loads(pickle.dumps(chunks)) == chunks
        assert ["deep" in record.problem for record in read(listed)] == [True, False]


def write_bad_text(file: Path, name: str) -> None:
    """Write a table of three rows whose second has bytes in a column that are not UTF-8."""
    good = pa.array(["Hi", "Oh", "Bye"])
    offsets = pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]))
    bad = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"a\xffc")])
    parquet.write_table(pa.table({"prompt": good, "completion": good, name: bad}), file)


def test_a_parquet_cell_that_cannot_be_read_drops_only_its_record(tmp_path: Path):
    write_bad_text(tmp_path / "a.parquet", "notes")
    problems = [record.problem for record in read(tmp_path / "a.parquet")]
    assert problems == ["", "a cell of column notes cannot be read", ""]


def test_a_bad_cell_in_an_irrelevant_column_drops_nothing(tmp_path: Path):
    write_bad_text(tmp_path / "a.parquet", "source")
    assert [record.value.get("prompt") for record in read(tmp_path / "a.parquet")] == [
        "Hi", "Oh", "Bye",
    ]  # fmt: skip


def test_a_date_that_python_cannot_represent_drops_its_record(tmp_path: Path):
    dates = pa.array([0, 2**45], pa.timestamp("s"))
    parquet.write_table(pa.table({"prompt": ["Hi", "Oh"], "when": dates}), tmp_path / "a.parquet")
    problems = [record.problem for record in read(tmp_path / "a.parquet")]
    assert problems == ["", "a cell of column when cannot be read"]


def test_rows_that_share_one_large_value_are_read_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "BATCH_BYTES", 2**23)
    text = pa.table({"text": ["x" * 2**22] * 100})
    parquet.write_table(text, tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 2**16
    chunks = list(read_chunks(tmp_path / "a.parquet"))
    assert sum(len(chunk.table) for chunk in chunks if chunk.table is not None) == 100
    assert max(chunk.table.nbytes for chunk in chunks if chunk.table is not None) < 2**24
