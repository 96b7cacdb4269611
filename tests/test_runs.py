"""Run folders: what a start may take, what it removes, and what a resume accepts."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gpt2chat.cli import app
from gpt2chat.commandline import to_command_line
from gpt2chat.core.config.settings import to_toml
from gpt2chat.core.config.training import OrpoConfig, SftConfig, TrainConfig
from gpt2chat.core.errors import CheckpointError, ConfigError, DataError, StorageError
from gpt2chat.core.runs import (
    Conditions,
    Run,
    damaged_file,
    list_runs,
    newest_run,
    open_run,
)

ONE = Conditions(command="sft", processes=1, sharded=False, samples="0123 4567")


def started(folder: Path, **settings: Any) -> Run:
    """Return a run that has started and has no checkpoint yet."""
    run = Run(folder)
    run.start(SftConfig(out=folder, data=Path("nowhere"), **settings), ONE)
    return run


def finished(
    folder: Path, command: str = "sft", at: str = "2026-01-01T00:00:00+00:00", **figures: Any
) -> Run:
    run = started(folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    run.finish({"command": command, "finished": at, **figures})
    return run


def unfinished(folder: Path, *steps: int, **settings: Any) -> Run:
    run = started(folder, **settings)
    for step in steps:
        checkpoint = run.checkpoints / f"checkpoint-{step}"
        checkpoint.mkdir()
        write_state(checkpoint)
        (checkpoint / "model.safetensors").write_bytes(b"weights")
        run.seal(checkpoint)
    return run


def write_state(checkpoint: Path, **changes: Any) -> None:
    step = int(checkpoint.name.rpartition("-")[2])
    state = {"global_step": step, "max_steps": 20, "epoch": 0.5, "best_metric": None,
             "best_global_step": None, "log_history": [{"step": 1, "loss": 2.0}],
             "stateful_callbacks": {}}  # fmt: skip
    (checkpoint / "trainer_state.json").write_text(json.dumps(state | changes))


def settings_of(run: Run, **changes: Any) -> SftConfig:
    return SftConfig(out=run.folder, data=Path("nowhere"), **changes)


def open_at(settings: TrainConfig, command: str = "sft") -> Path | None:
    with open_run(settings, command) as start:
        return start.checkpoint


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_newest_finished_run_of_the_wanted_commands_is_picked(tmp_path: Path):
    finished(tmp_path / "a", at="2026-01-01T00:00:00+00:00")
    newer = finished(tmp_path / "b", at="2026-01-02T00:00:00+00:00")
    finished(tmp_path / "c", "orpo", at="2026-01-03T00:00:00+00:00")
    unfinished(tmp_path / "d", 5)
    assert newest_run(["sft"], tmp_path) == newer.folder


# What a start takes, refuses and removes.


def test_a_new_folder_starts_a_run_and_a_refused_start_leaves_none(tmp_path: Path):
    new = tmp_path / "runs" / "today" / "sft"
    assert open_at(SftConfig(out=new)) is None
    assert not any(tmp_path.iterdir())


def test_a_finished_run_is_replaced_only_when_asked_for(tmp_path: Path):
    run = finished(tmp_path / "sft")
    with pytest.raises(ConfigError, match="finished"):
        open_at(settings_of(run))
    assert open_at(settings_of(run, overwrite=True)) is None


@pytest.mark.parametrize("resume", ["auto", "on"])
def test_a_finished_run_is_not_resumed_but_trained_on_as_a_new_run(tmp_path: Path, resume: Any):
    run = finished(tmp_path / "sft")
    with pytest.raises(ConfigError) as raised:
        open_at(settings_of(run, resume=resume, epochs=4))
    line = f"gpt2chat sft --model {run.folder} --out {run.folder}-2"
    assert line in to_command_line(str(raised.value))


def test_an_unfinished_run_resumes_from_its_newest_whole_checkpoint(tmp_path: Path):
    run = unfinished(tmp_path / "sft", 5, 10)
    (run.checkpoints / "checkpoint-15").mkdir()
    with pytest.raises(ConfigError, match="step 10"):
        open_at(settings_of(run))
    assert open_at(settings_of(run, resume="on")) == run.checkpoints / "checkpoint-10"


def test_a_run_folder_without_its_result_is_not_emptied_unasked(tmp_path: Path):
    run = finished(tmp_path / "sft")
    (run.folder / "result.json").unlink()
    before = files(run.folder)
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        open_at(settings_of(run))
    assert files(run.folder) == before


def test_a_run_folder_with_a_file_of_the_users_is_not_emptied_unasked(tmp_path: Path):
    run = started(tmp_path / "sft")
    (run.folder / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        open_at(settings_of(run))


@pytest.mark.parametrize("file", ["model.safetensors", "sealed.json", "trainer_state.json"])
@pytest.mark.parametrize("resume", ["off", "auto", "on"])
def test_a_run_whose_only_checkpoint_is_damaged_is_not_started_over(
    tmp_path: Path, file: str, resume: Any
):
    run = unfinished(tmp_path / "sft", 5)
    (run.checkpoints / "checkpoint-5" / file).write_bytes(b"x")
    before = files(run.folder)
    with pytest.raises((ConfigError, CheckpointError)):
        open_at(settings_of(run, resume=resume))
    assert files(run.folder) == before
    assert open_at(settings_of(run, overwrite=True)) is None


def test_overwriting_removes_what_the_program_wrote_and_nothing_else(tmp_path: Path):
    run = unfinished(tmp_path / "sft", 5)
    own = ("result.json", "model-00001-of-00002.safetensors", "adapter_config.json", "eval.json",
           "eval-2.json", "tokenizer.json", "metrics.jsonl", "README.md", "loss.png",
           "tensorboard/events.out.tfevents.1.host", "model.safetensors.12.partial")  # fmt: skip
    users = ("notes.txt", "data.json", "my-model.safetensors", "tensorboard/notes.txt",
             "checkpoints/best/model.safetensors", "checkpoints/checkpoint-5-good/x")  # fmt: skip
    for name in own + users:
        (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (run.folder / name).write_text("text")
    with open_run(settings_of(run, overwrite=True), "sft") as start:
        start.run.start(start.settings, ONE)
    assert files(run.folder) == {*users, "run.toml", "checkpoints/started.json"}


def test_a_start_that_failed_before_its_first_checkpoint_is_taken_up_again(tmp_path: Path):
    run = started(tmp_path / "sft")
    (run.folder / "metrics.jsonl").touch()
    (run.checkpoints / "checkpoint-5").mkdir()
    for resume in ("off", "auto"):
        assert open_at(settings_of(run, resume=resume)) is None


def test_a_folder_that_has_the_start_of_a_run_but_not_its_settings_can_be_used(tmp_path: Path):
    run = started(tmp_path / "sft")
    (run.folder / "run.toml").rename(run.folder / "run.toml.77.partial")
    assert open_at(settings_of(run)) is None


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("text", [None, "", "not toml", 'model = "gpt2"\n', "lr = 1\n"])
def test_a_folder_that_is_not_a_run_is_never_touched(
    tmp_path: Path, overwrite: bool, text: str | None
):
    (tmp_path / "thesis.tex").touch()
    if text is not None:
        (tmp_path / "run.toml").write_text(text)
    before = files(tmp_path)
    with pytest.raises(StorageError) as raised:
        open_at(SftConfig(out=tmp_path, data=Path("nowhere"), overwrite=overwrite))
    assert raised.value.setting == "out"
    assert files(tmp_path) == before


@pytest.mark.parametrize("place", ["run/data", "run", "."])
def test_data_and_run_in_one_folder_are_refused(tmp_path: Path, place: str):
    run = finished(tmp_path / "run")
    data = tmp_path / place
    data.mkdir(exist_ok=True)
    (data / "manifest.json").touch()
    with pytest.raises(ConfigError):
        open_at(SftConfig(out=run.folder, data=data, overwrite=True))
    assert (data / "manifest.json").exists()


@pytest.mark.parametrize(
    "name", ["", "checkpoints", "checkpoints/checkpoint-5", "model.safetensors", "metrics.jsonl",
             ".gpt2chat.lock", "tensorboard"],
)  # fmt: skip
def test_a_link_in_the_place_of_a_run_or_its_parts_is_refused(tmp_path: Path, name: str):
    run, elsewhere = unfinished(tmp_path / "sft", 5), tmp_path / "elsewhere"
    path = run.folder / name
    if path.exists():
        path.rename(elsewhere)
    else:
        elsewhere.write_text("text")
    path.symlink_to(elsewhere)
    before = files(elsewhere)
    with pytest.raises(StorageError, match="is a link"):
        open_at(settings_of(run, overwrite=True))
    assert files(elsewhere) == before


def test_a_finished_run_that_was_killed_as_its_checkpoints_went_loses_them_later(tmp_path: Path):
    run = unfinished(tmp_path / "sft", 5)
    (run.folder / "result.json").write_text(json.dumps({"command": "sft", "finished": "now"}))
    with pytest.raises(ConfigError):
        open_at(settings_of(run, resume="auto"))
    assert not run.checkpoints.exists()


def test_a_folder_is_locked_by_one_process_until_it_is_killed(tmp_path: Path):
    program = (
        "import sys, time; from pathlib import Path; from gpt2chat.core.runs import Run\n"
        "with Run(Path(sys.argv[1])).lock(): print('locked', flush=True); time.sleep(60)"
    )
    run = tmp_path / "runs" / "sft"
    command = [sys.executable, "-c", program, str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(ConfigError, match="Another run"):
            open_at(SftConfig(out=run))
        process.kill()
    assert open_at(SftConfig(out=run)) is None
    assert not any(run.iterdir())


# Checkpoints.


@pytest.mark.parametrize(
    ("best", "left"), [(None, {10, 15}), (5, {5, 15}), (15, {10, 15}), (3, {10, 15})]
)
def test_two_whole_checkpoints_are_kept_the_newest_and_the_best(
    tmp_path: Path, best: int | None, left: set[int]
):
    run = unfinished(tmp_path / "sft", 5, 10, 15)
    (run.checkpoints / "checkpoint-20").mkdir()
    run.prune(best)
    names = {folder.name for folder in run.checkpoints.glob("checkpoint-*")}
    assert names == {f"checkpoint-{step}" for step in left}


def test_damage_that_leaves_the_size_is_seen_and_the_checkpoint_before_resumes(tmp_path: Path):
    run = unfinished(tmp_path / "sft", 5, 10)
    weights = run.checkpoints / "checkpoint-10" / "model.safetensors"
    weights.write_bytes(b"wEights")
    assert damaged_file(weights.parent) == weights
    assert open_at(settings_of(run, resume="auto")) == run.checkpoints / "checkpoint-5"
    run.remove_damaged(run.checkpoints / "checkpoint-5")
    assert run.sealed_checkpoints() == [run.checkpoints / "checkpoint-5"]


@pytest.mark.parametrize("changes", [{}, {"resume": "auto"}, {"overwrite": True}])
def test_a_start_that_was_killed_at_its_first_file_is_started_again(
    tmp_path: Path, changes: dict[str, Any]
):
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "run.toml.123.partial").touch()
    assert open_at(settings_of(Run(tmp_path / "sft"), **changes)) is None
    started(tmp_path / "sft")
    assert files(tmp_path / "sft") == files(started(tmp_path / "other").folder)


def test_a_resume_reads_each_checkpoint_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = unfinished(tmp_path / "sft", 5, 10, 15)
    (run.checkpoints / "checkpoint-15" / "model.safetensors").write_bytes(b"wEights")
    (run.checkpoints / "checkpoint-5" / "model.safetensors").write_bytes(b"wEights")
    read: list[str] = []

    def damage(checkpoint: Path, **_: Any) -> Path | None:
        read.append(checkpoint.name)
        return damaged_file(checkpoint)

    monkeypatch.setattr("gpt2chat.core.runs.damaged_file", damage)
    resumed = open_at(settings_of(run, resume="auto"))
    assert resumed is not None
    run.remove_damaged(resumed)
    assert run.sealed_checkpoints() == [run.checkpoints / "checkpoint-10"]
    assert sorted(read) == ["checkpoint-10", "checkpoint-15", "checkpoint-5"]


def test_a_seal_of_an_old_version_holds_the_sizes_alone(tmp_path: Path):
    run = unfinished(tmp_path / "sft", 5)
    checkpoint = run.checkpoints / "checkpoint-5"
    (checkpoint / "sealed.json").write_text(json.dumps({"model.safetensors": 7}))
    assert damaged_file(checkpoint) is None
    (checkpoint / "sealed.json").write_text(json.dumps({"model.safetensors": 8}))
    assert damaged_file(checkpoint) == checkpoint / "model.safetensors"


@pytest.mark.parametrize("text", ["", "[", "[]", '{"model.safetensors": null}', "[" * 10**5])
def test_a_damaged_seal_is_damage(tmp_path: Path, text: str):
    checkpoint = unfinished(tmp_path / "sft", 5).checkpoints / "checkpoint-5"
    (checkpoint / "sealed.json").write_text(text)
    assert damaged_file(checkpoint) == checkpoint / "sealed.json"


@pytest.mark.parametrize(
    "changes",
    [{"global_step": "5"}, {"global_step": 6}, {"epoch": None}, {"max_steps": []},
     {"best_metric": "x"}, {"log_history": [{"loss": 1.0}]}, {"log_history": 3},
     {"log_history": [{"step": 1, "eval_loss": "x"}]}, {"stateful_callbacks": {"a": 1}}],
)  # fmt: skip
def test_a_trainer_state_that_cannot_be_resumed_is_damage_although_it_is_sealed(
    tmp_path: Path, changes: dict[str, Any]
):
    run = unfinished(tmp_path / "sft", 5)
    checkpoint = run.checkpoints / "checkpoint-5"
    write_state(checkpoint, **changes)
    run.seal(checkpoint)
    assert damaged_file(checkpoint) == checkpoint / "trainer_state.json"


# The list of runs.


def write_weights(folder: Path, missing: int = 0) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(8 - missing)
    (folder / "model.safetensors").write_bytes(content)


def test_the_list_has_every_run_with_its_state_and_nothing_else(tmp_path: Path):
    write_weights(finished(tmp_path / "a", loss=2.5, steps=20).folder)
    unfinished(tmp_path / "b", 5, 10)
    started(tmp_path / "c")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "run.toml").touch()
    runs = list_runs(tmp_path)
    assert [run.folder.name for run in runs] == ["a", "b", "c"]
    assert [run.state for run in runs] == ["finished", "unfinished", "unfinished"]
    assert [run.step for run in runs] == [20, 10, None]
    assert {run.command for run in runs} == {"sft"}
    assert {run.model for run in runs} == {"gpt2"}
    assert [run.loss for run in runs] == [2.5, None, None]


def test_a_run_lists_itself(tmp_path: Path):
    unfinished(tmp_path / "sft", 5)
    assert [run.step for run in list_runs(tmp_path / "sft")] == [5]


def test_a_damaged_run_is_listed_with_the_file_that_is_damaged(tmp_path: Path):
    write_weights(finished(tmp_path / "a").folder, missing=1)
    finished(tmp_path / "b").folder.joinpath("model.safetensors").unlink()
    finished(tmp_path / "c").folder.joinpath("run.toml").write_bytes(b"\xff=")
    unfinished(tmp_path / "d", 5).checkpoints.joinpath("checkpoint-5/sealed.json").write_text("[")
    unfinished(tmp_path / "e", 5).checkpoints.joinpath("started.json").write_text("[" * 10**5)
    finished(tmp_path / "f").folder.joinpath("model.safetensors").write_bytes(b"\xff" * 9)
    names = ("model.safetensors", "model.safetensors", "run.toml", "sealed.json", "started.json",
             "model.safetensors")  # fmt: skip
    for run, name in zip(list_runs(tmp_path), names, strict=True):
        assert run.state == "damaged"
        assert name in str(run.problem)


def test_the_command_prints_the_list_and_json(tmp_path: Path):
    unfinished(tmp_path / "sft", 5)
    result = CliRunner().invoke(app, ["runs", str(tmp_path)], catch_exceptions=False)
    assert "unfinished at step 5" in result.stdout
    result = CliRunner().invoke(app, ["runs", str(tmp_path), "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)[0]["state"] == "unfinished"


def test_a_folder_of_runs_that_is_not_there_is_one_line(tmp_path: Path):
    with pytest.raises(ConfigError, match="no folder"):
        list_runs(tmp_path / "runs")


# What a resume accepts.


def test_nothing_to_resume_is_an_error_where_resume_is_on(tmp_path: Path):
    with pytest.raises(ConfigError, match="resume"):
        open_at(SftConfig(out=tmp_path / "sft", resume="on"))
    with pytest.raises(ConfigError, match="resume"):
        open_at(settings_of(started(tmp_path / "sft"), resume="on"))


def test_a_resumed_run_keeps_its_settings_and_takes_where_it_runs(tmp_path: Path):
    run = unfinished(tmp_path / "sft", 5, seed=7, lr=0.5)
    with open_run(settings_of(run, resume="on", device="cpu"), "sft") as start:
        assert (start.settings.seed, start.settings.lr, start.settings.device) == (7, 0.5, "cpu")


def test_a_resume_with_another_setting_is_refused(tmp_path: Path):
    run = unfinished(tmp_path / "sft", 5, seed=7)
    with pytest.raises(ConfigError) as raised:
        open_at(settings_of(run, resume="on", seed=8))
    assert raised.value.setting == "seed"


@pytest.mark.parametrize(
    "text", ["model", "model = []\n", "epochs = 'x'\n", "lr = -1\n", "seed = {a=1}\n",
             "data = ''\n", "lr = ''\n", "lora_r = true\n", "é\udcff"],
)  # fmt: skip
def test_a_damaged_run_toml_is_one_line_that_names_it(tmp_path: Path, text: str):
    run = unfinished(tmp_path / "sft", 5)
    (run.folder / "run.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises((CheckpointError, ConfigError), match=r"run\.toml"):
        open_at(settings_of(run, resume="on"))


def test_a_damaged_started_json_is_one_line_that_names_it(tmp_path: Path):
    run = unfinished(tmp_path / "sft", 5)
    (run.checkpoints / "started.json").write_text('{"command": 1}')
    with pytest.raises(CheckpointError, match=r"started\.json"):
        open_at(settings_of(run, resume="on"))


def test_a_dry_run_of_a_finished_run_is_not_refused(tmp_path: Path):
    run = finished(tmp_path / "sft")
    assert open_at(settings_of(run, dry_run=True)) is None


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "gpt2chat sft --resume auto"),
        ({"command": "orpo"}, "gpt2chat orpo --resume auto --out runs/sft"),
        ({"processes": 2}, "torchrun --nproc-per-node 2 -m gpt2chat sft --resume auto"),
        ({"processes": 2, "sharded": True},
         "accelerate launch --config_file FILE -m gpt2chat sft --resume auto"),
    ],
)  # fmt: skip
def test_the_line_that_resumes_a_run_has_its_command_and_its_processes(
    changes: dict[str, Any], line: str
):
    conditions = replace(ONE, **changes)
    assert to_command_line(conditions.resume_call(Path("runs/sft"))) == line


def test_the_core_says_in_python_how_a_run_of_several_processes_resumes():
    two = replace(ONE, processes=2)
    assert two.resume_call(Path("runs/sft")) == '`sft(resume="auto")` in 2 processes'
    assert "torchrun" not in replace(two, sharded=True).resume_call(Path("runs/sft"))


def test_a_folder_with_a_space_can_be_pasted():
    assert to_command_line(ONE.resume_call(Path("my run"))).endswith(" --out 'my run'")


def test_a_run_resumes_under_the_conditions_it_was_started_with(tmp_path: Path):
    run = started(tmp_path / "sft")
    assert run.conditions() == ONE
    run.require_same(ONE, Path("data"))
    with pytest.raises(ConfigError, match="2 processes"):
        run.require_same(replace(ONE, processes=2), Path("data"))
    with pytest.raises(DataError, match="data"):
        run.require_same(replace(ONE, samples="89ab 4567"), Path("data"))


def test_a_run_of_a_version_that_kept_no_conditions_resumes(tmp_path: Path):
    run = unfinished(tmp_path / "sft", 5)
    (run.checkpoints / "started.json").unlink()
    assert open_at(settings_of(run, resume="on")) == run.checkpoints / "checkpoint-5"
    run.require_same(ONE, Path("data"))


def test_a_run_of_the_other_command_is_not_resumed(tmp_path: Path):
    run = unfinished(tmp_path / "sft", 5)
    with pytest.raises(ConfigError, match="sft run"):
        open_at(OrpoConfig(out=run.folder, resume="auto"), "orpo")


@pytest.mark.parametrize(
    "name", ["😀", "tab\there", 'quote"', "back\\slash", "\x1b[31mred", "del\x7f", "\u2028"]
)
def test_any_file_name_comes_back_from_run_toml(tmp_path: Path, name: str):
    run = unfinished(tmp_path / name, 5, model=name)
    assert run.settings()["model"] == name
    with open_run(SftConfig(out=run.folder, resume="on"), "sft") as start:
        assert start.settings.model == name
        assert start.settings.data == Path("nowhere")
    assert run.settings()["out"] == str(tmp_path / name)


def test_run_toml_is_toml_for_other_programs():
    assert to_toml(SftConfig(model="😀")).splitlines()[0] == 'model = "😀"'
