"""Data files are found, and told apart by split."""

import os
from pathlib import Path

import pytest

from gpt2chat.core.errors import DataError
from gpt2chat.core.inputs.datafiles import find_files
from tests.test_records import LINES, write


def test_the_name_of_a_file_decides_its_split(tmp_path: Path):
    for name in ("train-00000.jsonl", "a/valid.jsonl", "contest.jsonl", "latest-values.json"):
        write(tmp_path / name, LINES)
    found = find_files("chat", str(tmp_path))
    names = {split: [file.name for file in files] for split, files in found.items()}
    train = ["contest.jsonl", "latest-values.json", "train-00000.jsonl"]
    assert names == {"train": train, "validation": ["valid.jsonl"]}


def test_a_test_split_is_validation_if_there_is_no_validation_split(tmp_path: Path):
    test = write(tmp_path / "test.jsonl", LINES)
    assert find_files("chat", str(tmp_path)) == {"validation": (test,)}
    validation = write(tmp_path / "val.jsonl", LINES)
    assert find_files("chat", str(tmp_path)) == {"validation": (validation,)}


def test_only_the_data_folder_of_a_hub_repository_is_read(tmp_path: Path):
    wanted = write(tmp_path / "data" / "train-00000-of-00001.jsonl", LINES)
    for name in ("all.jsonl.gz", "data/.cache/train.jsonl", "data/dataset_info.json", "README.md"):
        write(tmp_path / name, LINES)
    assert find_files("oasst1", str(tmp_path)) == {"train": (wanted,)}


def test_all_files_of_an_own_folder_are_read_even_if_it_has_a_data_folder(tmp_path: Path):
    wanted = [write(tmp_path / name, LINES) for name in ("a.jsonl", "data/b.jsonl", "sub/c.jsonl")]
    write(tmp_path / ".hidden" / "d.jsonl", LINES)
    for setting in ("chat", "preference"):
        assert find_files(setting, str(tmp_path)) == {"train": tuple(wanted)}


@pytest.mark.parametrize("mark", ["manifest.json", "run.toml", "config.json"])
def test_the_output_of_this_program_in_a_folder_is_not_read(mark: str, tmp_path: Path):
    wanted = write(tmp_path / "a.jsonl", LINES)
    write(tmp_path / "data" / mark, b"{}")
    write(tmp_path / "data" / "sft" / "train-00000-of-00001.jsonl", LINES)
    assert find_files("chat", str(tmp_path)) == {"train": (wanted,)}


def test_a_folder_below_that_cannot_be_read_is_named(tmp_path: Path):
    write(tmp_path / "a.jsonl", LINES)
    write(tmp_path / "secret" / "b.jsonl", LINES)
    (tmp_path / "secret").chmod(0)
    try:
        if os.access(tmp_path / "secret", os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(DataError, match="secret"):
            find_files("chat", str(tmp_path))
    finally:
        (tmp_path / "secret").chmod(0o700)


def test_a_glob_gives_its_files_in_order(tmp_path: Path):
    files = [write(tmp_path / f"{name}.jsonl", LINES) for name in ("b", "a")]
    assert find_files("chat", str(tmp_path / "*.jsonl")) == {"train": tuple(sorted(files))}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("none.jsonl", "no such file"),
        ("*.gz", "no file matches"),
        ("a.csv", "unknown"),
        ("empty", "no data file"),
    ],
)
def test_a_missing_or_unreadable_file_is_refused_with_its_setting(
    tmp_path: Path, name: str, fault: str
):
    write(tmp_path / "a.csv", b"a,b\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=rf"^`chat` .*{fault}"):
        find_files("chat", str(tmp_path / name))
