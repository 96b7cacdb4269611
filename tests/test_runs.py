"""Run folders: which is picked, and what is never overwritten."""

import json
from pathlib import Path

import pytest

from gpt2chat.core.errors import CheckpointError, ConfigError, StorageError
from gpt2chat.core.files import STARTER
from gpt2chat.core.runs import (
    local_folder,
    newest_run,
    open_run,
    pick_model,
    prune_checkpoints,
    seal,
)


def finished(folder: Path, command: str, at: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.toml").touch()
    (folder / "result.json").write_text(json.dumps({"command": command, "finished": at}))
    return folder


def unfinished(folder: Path, *steps: int) -> Path:
    for step in steps:
        checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "trainer_state.json").write_text("{}")
        seal(checkpoint)
    (folder / "run.toml").touch()
    return folder


def test_the_newest_finished_run_of_the_wanted_commands_is_picked(tmp_path: Path):
    finished(tmp_path / "a", "sft", "2026-01-01T00:00:00+00:00")
    newer = finished(tmp_path / "b", "sft", "2026-01-02T00:00:00+00:00")
    finished(tmp_path / "c", "orpo", "2026-01-03T00:00:00+00:00")
    unfinished(tmp_path / "d", 5)
    assert newest_run(["sft"], tmp_path) == newer


def test_a_model_that_is_named_is_taken_as_it_is():
    assert pick_model("starter", ("sft",), "gpt2chat sft") == ("starter", "model: starter")


def test_no_finished_run_names_the_command_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="Type gpt2chat sft first"):
        pick_model("", ("sft",), "gpt2chat sft")


def test_a_name_is_the_starter_a_folder_or_a_name_on_the_hub(tmp_path: Path):
    assert local_folder("starter") == STARTER
    assert local_folder(str(tmp_path)) == tmp_path
    assert local_folder("gpt2") is None
    assert local_folder("openai-community/gpt2") is None


@pytest.mark.parametrize("name", ["./nothing", "/nothing/at/all", "runs/sft"])
def test_a_folder_that_is_not_there_is_no_name_on_the_hub(name: str, tmp_path: Path):
    with pytest.raises(CheckpointError, match="no such folder"):
        local_folder(name)


def test_a_new_folder_starts_a_run(tmp_path: Path):
    assert open_run(tmp_path / "new", "sft", resume="off", overwrite=False) is None


def test_a_finished_run_is_replaced_only_when_told_to(tmp_path: Path):
    run = finished(tmp_path / "sft", "sft", "2026-01-01T00:00:00+00:00")
    with pytest.raises(ConfigError, match="finished run.*--overwrite"):
        open_run(run, "sft", resume="off", overwrite=False)
    assert open_run(run, "sft", resume="off", overwrite=True) is None


def test_an_unfinished_run_goes_on_from_its_newest_whole_checkpoint(tmp_path: Path):
    run = unfinished(tmp_path / "sft", 5, 10)
    (run / "checkpoints" / "checkpoint-15").mkdir()
    with pytest.raises(ConfigError, match="step 10.*--resume"):
        open_run(run, "sft", resume="off", overwrite=False)
    checkpoint = open_run(run, "sft", resume="on", overwrite=False)
    assert checkpoint == run / "checkpoints" / "checkpoint-10"


@pytest.mark.parametrize(
    ("best", "kept"), [(None, {10, 15}), (5, {5, 15}), (15, {10, 15}), (3, {10, 15})]
)
def test_two_whole_checkpoints_are_kept_the_newest_and_the_best(
    tmp_path: Path, best: int | None, kept: set[int]
):
    run = unfinished(tmp_path / "sft", 5, 10, 15)
    (run / "checkpoints" / "checkpoint-20").mkdir()
    prune_checkpoints(run, best)
    names = {folder.name for folder in (run / "checkpoints").iterdir()}
    assert names == {f"checkpoint-{step}" for step in kept}


def test_nothing_to_resume_is_said(tmp_path: Path):
    with pytest.raises(ConfigError, match="no checkpoint"):
        open_run(tmp_path / "sft", "sft", resume="on", overwrite=False)


def test_a_folder_that_is_no_run_is_never_replaced(tmp_path: Path):
    (tmp_path / "thesis.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(StorageError, match="no run folder"):
            open_run(tmp_path, "sft", resume="off", overwrite=overwrite)
