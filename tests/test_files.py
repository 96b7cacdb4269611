"""Files are whole or not there."""

import errno
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from gpt2chat.core.errors import ConfigError, StorageError
from gpt2chat.core.files import WORKSPACE_LOCK, remove, replaced_folder, storage, write_text


def test_a_file_is_replaced_and_leaves_no_partial_file(tmp_path: Path):
    write_text(tmp_path / "a" / "file", "old")
    write_text(tmp_path / "a" / "file", "new")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]
    assert (tmp_path / "a" / "file").read_text() == "new"


def test_only_the_user_can_read_a_private_file_even_after_it_is_replaced(tmp_path: Path):
    write_text(tmp_path / "file", "old")
    write_text(tmp_path / "file", "new", private=True)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_refusal_says_how_to_write_somewhere_else(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Give another name"):
        write_text(tmp_path / "file" / "below", "", elsewhere="Give another name.")


def fill(folder: Path, name: str, error: type[BaseException] | None = None) -> None:
    """Replace a folder by one with an empty file, or fail halfway."""
    with replaced_folder(folder, "key") as space:
        (space.new / name).touch()
        (space.parts / name).touch()
        if error is not None:
            raise error


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path):
    for name in ("first", "second"):
        fill(tmp_path / "data", name)
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "second"]


def test_an_error_leaves_the_old_folder(tmp_path: Path):
    fill(tmp_path / "data", "old")
    with pytest.raises(RuntimeError):
        fill(tmp_path / "data", "new", RuntimeError)
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "old"]


def test_an_interrupted_run_keeps_its_parts_for_a_run_with_the_same_key(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "data", "part", KeyboardInterrupt)
    assert not (tmp_path / "data").exists()
    with replaced_folder(tmp_path / "data", "key") as space:
        assert [path.name for path in space.parts.iterdir()] == ["part"]
        assert not any(space.new.iterdir())
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "data", "part", KeyboardInterrupt)
    with replaced_folder(tmp_path / "data", "another key") as space:
        assert not any(space.parts.iterdir())


def test_a_link_still_points_to_the_folder_that_is_replaced(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    for _ in range(2):
        fill(tmp_path / "data", "file")
    assert (tmp_path / "data").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["file"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path):
    (tmp_path / "data").write_text("mine")
    with pytest.raises(StorageError, match="Cannot write"):
        fill(tmp_path / "data", "file")
    assert (tmp_path / "data").read_text() == "mine"


def test_a_folder_moved_away_by_a_killed_run_comes_back(tmp_path: Path):
    (tmp_path / ".data.work" / "old").mkdir(parents=True)
    (tmp_path / ".data.work" / WORKSPACE_LOCK).touch()
    with pytest.raises(RuntimeError):
        fill(tmp_path / "data", "file", RuntimeError)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def plant_link(work: Path, target: Path, below: str) -> None:
    """Make a workspace that is a link to a folder, or has a link to it somewhere in it."""
    link = work / below if below else work
    link.parent.mkdir(parents=True, exist_ok=True)
    if below:
        (work / WORKSPACE_LOCK).touch()
    link.symlink_to(target)


@pytest.mark.parametrize("below", ["", "key", "new", "old", "gone", "key/000001.rows", "notes"])
def test_nothing_is_deleted_or_written_through_a_link(below: str, tmp_path: Path):
    target = tmp_path / "home"
    for file in (target / WORKSPACE_LOCK, target / "thesis", target / "key" / "chapter"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    plant_link(tmp_path / "repository" / ".data.work", target, below)
    before = sorted(target.rglob("*"))
    with pytest.raises(ConfigError, match="link") as refused:
        fill(tmp_path / "repository" / "data", "file")
    assert refused.value.setting == "out"
    assert sorted(target.rglob("*")) == before
    assert (target / "thesis").read_text() == "mine"


def test_a_link_in_place_of_the_lock_is_refused(tmp_path: Path):
    (tmp_path / "thesis").write_text("mine")
    (tmp_path / ".data.work").mkdir()
    (tmp_path / ".data.work" / WORKSPACE_LOCK).symlink_to(tmp_path / "thesis")
    with pytest.raises(ConfigError, match="link"):
        fill(tmp_path / "data", "file")
    assert (tmp_path / "thesis").read_text() == "mine"


def test_a_hidden_folder_made_by_another_program_is_refused(tmp_path: Path):
    (tmp_path / ".data.work").mkdir()
    (tmp_path / ".data.work" / "thesis").touch()
    with pytest.raises(ConfigError, match="thesis"):
        fill(tmp_path / "data", "file")
    assert (tmp_path / ".data.work" / "thesis").exists()


def test_removing_a_link_keeps_its_target(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    remove(tmp_path / "link")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "file"]


def test_a_full_disk_is_one_line(tmp_path: Path):
    with pytest.raises(StorageError, match="No space"), storage(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_device_is_one_line(tmp_path: Path):
    with pytest.raises(StorageError, match="No space"), storage(tmp_path):
        Path("/dev/full").write_text("text")


def test_a_full_disk_reported_by_safetensors_is_one_line(tmp_path: Path):
    with pytest.raises(StorageError, match="No space"), storage(tmp_path):
        raise SafetensorError("Error while serializing: I/O error: No space left on device")


def test_any_other_error_passes_unchanged(tmp_path: Path):
    with pytest.raises(KeyError), storage(tmp_path):
        raise KeyError


def test_a_file_where_a_folder_should_be_is_one_line(tmp_path: Path):
    (tmp_path / "data").touch()
    with pytest.raises(StorageError, match="Cannot write"):
        write_text(tmp_path / "data" / "file", "text")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_folder_that_cannot_exist_is_refused_in_one_line():
    with pytest.raises(StorageError, match="Cannot write"):
        write_text(Path("/proc/none/run/file"), "")


@pytest.fixture
def short_files() -> Generator[None]:
    """Let no file grow over 64 KiB, as `ulimit -f` does."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def by_torch(path: Path) -> None:
    torch.save(torch.zeros(10**5), path)


def by_safetensors(path: Path) -> None:
    save_file({"weight": torch.zeros(10**5)}, path)


def by_python(path: Path) -> None:
    path.write_bytes(bytes(10**6))


@pytest.mark.usefixtures("short_files")
@pytest.mark.parametrize("write", [by_torch, by_safetensors, by_python])
def test_a_file_over_the_users_size_limit_is_reported_as_a_full_disk(
    write: Callable[[Path], None], tmp_path: Path
):
    with pytest.raises(StorageError, match="No space"), storage(tmp_path / "file"):
        write(tmp_path / "file")
