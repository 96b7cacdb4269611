"""Data files are found, and read record by record, broken ones too."""

import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from gpt2chat.core.errors import DataError
from gpt2chat.core.records import Record, find_files, read_file

ROWS = [{"text": "one"}, {"text": "two"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


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
        ("a.jsonl.gz", gzip.compress(LINES)),
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
        (b'{"text": "cut', "not JSON (Unterminated string starting at, column 10)"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'["text"]', "not an object with named fields"),
        (b"[" * 100_000, "not JSON (nested too deep)"),
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
        ("a.jsonl.gz", gzip.compress(LINES * 100)[:-9]),
        ("a.jsonl.gz", LINES),
        ("a.jsonl.xz", lzma.compress(LINES)[:-9]),
        ("a.jsonl.xz", LINES),
        ("a.parquet", LINES),
        ("a.json", b'[{"text": "one"}'),
    ],
)
def test_a_file_that_is_cut_short_or_another_kind_is_named(
    tmp_path: Path, name: str, content: bytes
):
    with pytest.raises(DataError, match=rf"{name} is"):
        read(write(tmp_path / name, content))


def test_the_name_of_a_file_decides_its_split(tmp_path: Path):
    for name in ("train-00000.jsonl", "a/valid.jsonl", "contest.jsonl", "latest-values.json"):
        write(tmp_path / name, LINES)
    found = find_files("--chat", str(tmp_path))
    names = {split: [file.name for file in files] for split, files in found.items()}
    train = ["contest.jsonl", "latest-values.json", "train-00000.jsonl"]
    assert names == {"train": train, "validation": ["valid.jsonl"]}


def test_a_test_split_stands_in_for_a_validation_split_only_where_there_is_none(tmp_path: Path):
    test = write(tmp_path / "test.jsonl", LINES)
    assert find_files("--chat", str(tmp_path)) == {"validation": (test,)}
    validation = write(tmp_path / "val.jsonl", LINES)
    assert find_files("--chat", str(tmp_path)) == {"validation": (validation,)}


def test_of_a_copy_of_a_hub_repository_its_data_folder_is_read(tmp_path: Path):
    wanted = write(tmp_path / "data" / "train-00000-of-00001.jsonl", LINES)
    for name in ("all.jsonl.gz", "data/.cache/train.jsonl", "data/dataset_info.json", "README.md"):
        write(tmp_path / name, LINES)
    assert find_files("--oasst1", str(tmp_path)) == {"train": (wanted,)}


def test_a_glob_gives_its_files_in_order(tmp_path: Path):
    files = [write(tmp_path / f"{name}.jsonl", LINES) for name in ("b", "a")]
    assert find_files("--chat", str(tmp_path / "*.jsonl")) == {"train": tuple(sorted(files))}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.jsonl", "there is no such file"),
        ("*.gz", "no file matches"),
        ("a.csv", "not a kind of file that can be read"),
        ("empty", "no data file in it"),
    ],
)
def test_what_is_not_there_is_said_with_its_flag(tmp_path: Path, name: str, said: str):
    write(tmp_path / "a.csv", b"a,b\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=rf"^--chat .*{said}"):
        find_files("--chat", str(tmp_path / name))
