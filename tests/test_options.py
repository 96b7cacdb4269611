"""Presets by their names, and what --resume makes of the flags of a run."""

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gpt2chat.cli import app
from gpt2chat.core.config.training import OrpoConfig, SftConfig
from gpt2chat.core.errors import ConfigError
from gpt2chat.core.model.packing import pack
from gpt2chat.core.runs import Conditions, Run
from gpt2chat.options import PRESETS, preset

KINDS = {"sft": SftConfig, "orpo": OrpoConfig}
FILES = sorted(PRESETS.glob("*/*.toml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_preset_holds_settings_that_the_command_has(file: Path):
    KINDS[file.parent.name](**tomllib.loads(file.read_text(encoding="utf-8")))


def test_the_presets_that_are_named_in_the_pages_are_there():
    names = {f"{file.parent.name}/{file.stem}" for file in FILES}
    assert names == {"sft/reference", "sft/ours", "orpo/reference", "orpo/ours", "orpo/paper"}


@pytest.mark.parametrize("command", ["sft", "orpo"])
def test_our_preset_is_what_the_program_does_without_one(command: str):
    values = tomllib.loads((PRESETS / command / "ours.toml").read_text(encoding="utf-8"))
    defaults = KINDS[command]()
    assert values == {name: getattr(defaults, name) for name in values}
    assert {"lr", "epochs", "token_lr", "schedule", "warmup", "weight_decay"} <= set(values)


@pytest.mark.parametrize(
    ("name", "sides", "items"), [("orpo/paper", 2, [32, 32, 32, 4]), ("sft/reference", 1, [8] * 12)]
)
def test_a_step_of_a_preset_has_as_many_items_however_long_they_are(
    name: str, sides: int, items: list[int]
):
    kind = KINDS[name.partition("/")[0]]
    settings = kind(**tomllib.loads((PRESETS / f"{name}.toml").read_text(encoding="utf-8")))
    assert settings.batch_tokens is not None
    longest = sides * settings.max_length
    rows = pack([longest] * sum(items), settings.batch_tokens, settings.batch_size, seed=0)
    steps = [rows[i : i + settings.grad_accum] for i in range(0, len(rows), settings.grad_accum)]
    assert [sum(map(len, step)) for step in steps] == items


def test_a_file_of_ones_own_comes_before_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert preset("sft", Path("reference")).parent.parent == PRESETS
    Path("reference").touch()
    assert preset("sft", Path("reference")) == Path("reference")
    assert preset("sft", Path("mine.toml")) == Path("mine.toml")


def test_a_preset_that_is_not_there_names_those_that_are():
    with pytest.raises(ConfigError, match="the presets of orpo are: ours, paper, reference"):
        preset("orpo", Path("papre"))
    with pytest.raises(ConfigError, match="there are no presets"):
        preset("chat", Path("papre"))


def test_a_flag_wins_over_a_preset(tiny_folder: Path, tiny_data: Path, tmp_path: Path):
    out = tmp_path / "sft"
    arguments = ["sft", "--config", "reference", "--epochs", "1", "--model", str(tiny_folder),
                 "--data", str(tiny_data), "--out", str(out)]  # fmt: skip
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    values = tomllib.loads((out / "run.toml").read_text())
    assert (values["lr"], values["cycles"], values["epochs"]) == (6.9e-5, 4, 1.0)


def test_resume_auto_starts_a_run_and_goes_on_with_one(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path
):
    out = tmp_path / "sft"
    arguments = ["sft", "--resume", "auto", "--model", str(tiny_folder), "--epochs", "1",
                 "--data", str(tiny_data), "--out", str(out)]  # fmt: skip
    first = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "nothing to resume" in again.stderr


def unfinished(out: Path, **settings: Any) -> Path:
    """Return the folder of a run whose data is gone, with a checkpoint of nothing."""
    kept = SftConfig(out=out, data=Path("nowhere"), **settings)
    conditions = Conditions(command="sft", processes=1, sharded=False, samples="")
    Run(out).start(kept, conditions)
    Run(out).seal(out / "checkpoints" / "checkpoint-1")
    return out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seed", "8"], "started with --seed 7, not 8. Leave --seed out"),
        (["--config", "reference"], r"started with --\S+ .* Leave --config out"),
    ],
)
def test_resume_refuses_another_setting(tmp_path: Path, flags: list[str], said: str):
    out = unfinished(tmp_path / "sft", seed=7)
    result = CliRunner().invoke(app, ["sft", "--resume", "auto", "--out", str(out), *flags])
    assert result.exit_code == 2
    assert re.search(said, result.stderr)


def test_resume_takes_the_settings_of_the_run_also_from_its_own_file(tmp_path: Path):
    out = unfinished(tmp_path / "sft", seed=7)
    flags = ["--config", str(out / "run.toml"), "--resume", "auto"]
    result = CliRunner().invoke(app, ["sft", *flags])
    assert result.exit_code == 3
    assert "nowhere" in result.stderr


def test_a_start_that_failed_leaves_nothing_for_resume_to_insist_on(tmp_path: Path):
    out = unfinished(tmp_path / "sft", model="gpt2")
    shutil.rmtree(out / "checkpoints")
    flags = ["--model", "starter", "--data", "absent", "--out", str(out), "--resume"]
    result = CliRunner().invoke(app, ["sft", *flags, "auto"])
    assert result.exit_code == 3
    assert "absent" in result.stderr
    result = CliRunner().invoke(app, ["sft", *flags, "on"])
    assert result.exit_code == 2
    assert "has no checkpoint" in result.stderr


def test_resume_is_refused_for_a_run_of_the_other_command(tmp_path: Path):
    out = unfinished(tmp_path / "sft")
    result = CliRunner().invoke(app, ["orpo", "--resume", "auto", "--out", str(out)])
    assert result.exit_code == 2
    assert "holds an unfinished sft run, not one of orpo" in result.stderr


def test_a_tracker_that_is_unknown_or_not_installed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def find_nothing(name: str) -> None:
        del name

    monkeypatch.setattr("importlib.util.find_spec", find_nothing)
    for name, text in (("excel", "--report-to takes tensorboard"), ("wandb", "not installed")):
        result = CliRunner().invoke(
            app, ["sft", "--report-to", name, "--out", str(tmp_path / "sft"), "--data", "nowhere"]
        )
        assert result.exit_code == 2
        assert text in result.stderr
