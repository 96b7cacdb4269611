"""Data files are found, and read record by record, broken ones too."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from gpt2chat.core.errors import DataError
from gpt2chat.core.inputs import records
from gpt2chat.core.inputs.records import Record, read_chunks, read_file

ROWS = [{"text": "one"}, {"text": "two"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def zst(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def read(file: Path) -> list[Record]:
    return list(read_file(file))


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
def test_a_broken_line_says_where_it_is_and_the_next_one_is_read(
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
def test_a_file_that_is_cut_short_or_another_kind_is_named(
    tmp_path: Path, name: str, content: bytes
):
    with pytest.raises(DataError, match=rf"{name} is"):
        read(write(tmp_path / name, content))


def test_chunks_hold_records_that_follow_each_other_and_tell_how_far_they_are(
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
        assert [len(list(chunk.records())) for chunk in chunks] == [4, 4, 2]
        found = [record for chunk in chunks for record in chunk.records()]
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


def test_a_line_that_is_too_long_is_left_out_and_the_next_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "LINE_BYTES", 40)
    long = json.dumps({"text": "x" * 200}).encode() + b"\n"
    found = read(write(tmp_path / "a.jsonl", LINES + long + LINES))
    assert [record.line for record in found] == [1, 2, 3, 4, 5]
    assert [record.problem for record in found] == [
        "", "", "line longer than 64 MiB", "", "",
    ]  # fmt: skip
