"""Files are whole or not there."""

import errno
from pathlib import Path

import pytest

from gpt2chat.core.errors import StorageError
from gpt2chat.core.files import replaced_folder, storage, write_text


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path):
    write_text(tmp_path / "a" / "file", "old")
    write_text(tmp_path / "a" / "file", "new")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]
    assert (tmp_path / "a" / "file").read_text() == "new"


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path):
    for name in ("first", "second"):
        with replaced_folder(tmp_path / "data") as folder:
            (folder / name).touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "second"]


def test_an_error_leaves_the_old_folder(tmp_path: Path):
    with replaced_folder(tmp_path / "data") as folder:
        (folder / "old").touch()

    def fails() -> None:
        with replaced_folder(tmp_path / "data") as folder:
            (folder / "new").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "old"]


def test_a_full_disk_is_one_line(tmp_path: Path):
    with pytest.raises(StorageError, match="No space left to write"), storage(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_where_a_folder_should_be_is_one_line(tmp_path: Path):
    (tmp_path / "data").touch()
    with pytest.raises(StorageError, match="Cannot write"):
        write_text(tmp_path / "data" / "file", "text")
