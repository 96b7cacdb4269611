"""Flags made from settings, settings from a file, presets, and what --resume makes of them."""

import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gpt2chat.cli import app
from gpt2chat.commandline import flag
from gpt2chat.core.config.chat import ChatConfig
from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.config.settings import Settings, settings_of
from gpt2chat.core.config.training import OrpoConfig, SftConfig
from gpt2chat.core.errors import ConfigError
from gpt2chat.core.model.packing import pack
from gpt2chat.options import PRESETS, Command, Given, command, preset
from tests.test_runs import unfinished

KINDS = {"sft": SftConfig, "orpo": OrpoConfig}
CONFIGS = {**KINDS, "prepare": PrepareConfig, "eval": EvalConfig, "chat": ChatConfig}
FILES = sorted(PRESETS.glob("*/*.toml"))


def settings_of_line(line: str, config_type: type[Settings] = SftConfig) -> Any:
    """Return the settings, and where they came from, that a command line makes."""
    results: list[Any] = []

    def run(settings: Settings, given: Given) -> None:
        results.append((settings, given))

    run.__annotations__["settings"] = config_type
    program = typer.Typer()
    program.command(cls=Command)(command(run, "sft"))
    CliRunner().invoke(program, shlex.split(line), catch_exceptions=False)
    return results[0]


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("", "lr", 2e-4),
        ("--lr 1e-3", "lr", 1e-3),
        ("--learning-rate 0.25", "lr", 0.25),
        ("--limit 7", "limit", 7),
        ("", "limit", None),
        ("--no-merge --lora-r 8", "merge", False),
        ("--overwrite", "overwrite", True),
        ("--overwrite --no-overwrite", "overwrite", False),
        ("--out runs/x", "out", Path("runs/x")),
        ("--device cpu", "device", "cpu"),
        ("--report-to wandb --report-to trackio", "report_to", ("wandb", "trackio")),
        ("", "report_to", ()),
    ],
)
def test_a_flag_becomes_a_setting(line: str, name: str, value: object):
    assert getattr(settings_of_line(line)[0], name) == value


def test_flags_of_a_chats_sampling_reach_it():
    settings, _ = settings_of_line("-p Hello --temperature 0 --stop a --stop b", ChatConfig)
    assert settings.prompt == ("Hello",)
    assert settings.sampling == Sampling(temperature=0, stop=("a", "b"))


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path):
    file = tmp_path / "run.toml"
    file.write_text("lr = 0.5\nseed = 7\nchosen = true\nreport_to = 'wandb'\n")
    settings, given = settings_of_line(f"--config {file} --seed 8 --no-chosen")
    assert (settings.lr, settings.seed, settings.chosen) == (0.5, 8, False)
    assert settings.report_to == ("wandb",)
    config = f"--config {file}"
    assert given == {"lr": config, "seed": "`seed`", "chosen": "`chosen`", "report_to": config}


def test_a_file_and_a_flag_may_need_each_other(tmp_path: Path):
    (tmp_path / "run.toml").write_text("lora_alpha = 32")
    settings, _ = settings_of_line(f"--config {tmp_path / 'run.toml'} --lora-r 16")
    assert (settings.lora_r, settings.lora_alpha) == (16, 32)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("nope = 1", "nope"),
        ("epoch = 1", "epochs"),
        ("lr = ", "TOML"),
        ('lr = ""', "lr must be a number"),
        ("model = []", "model must be text"),
        ("seed = {a = 1}", "seed must be a whole number"),
        ("lr = 0.0", "lr must be above 0"),
        ("[lr]", "lr must be a number"),
        ("a = " + "[" * 5000, "TOML"),
    ],
)
def test_a_bad_settings_file_is_one_line_that_names_it(tmp_path: Path, text: str, word: str):
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ConfigError) as error:
        settings_of_line(f"--config {tmp_path / 'run.toml'}")
    assert error.value.setting == "config"
    assert str(tmp_path / "run.toml") in str(error.value)
    assert word in str(error.value)


def test_a_settings_file_that_cannot_be_opened_says_why(tmp_path: Path):
    for path, word in ((tmp_path, "directory"), (tmp_path / "no.toml", "No such file")):
        with pytest.raises(ConfigError, match=word):
            settings_of_line(f"--config {path}")


@pytest.mark.parametrize("width", [60, 80, 100, 160])
@pytest.mark.parametrize("name", CONFIGS)
def test_help_lists_each_setting_under_its_section(name: str, width: int):
    result = CliRunner().invoke(app, [name, "--help"], terminal_width=width)
    lines = result.stdout.splitlines()
    # Only a flag with many values is wider, and has a line of its own.
    assert all(len(line) <= width for line in lines if "|" not in line)
    sections = re.split(r"(?m)^(\S.*):$", result.stdout)
    flags = {
        heading: re.findall(r"(?m)^  (?:-., )?(--\S+)", text)
        for heading, text in zip(sections[1::2], sections[2::2], strict=True)
    }
    for entry in settings_of(CONFIGS[name]).values():
        assert flag(entry.name) in flags[entry.section]


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
    with pytest.raises(ConfigError, match="the presets of orpo are ours, paper, reference"):
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


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seed", "8"], "started with --seed 7, not 8. Leave --seed out"),
        (["--config", "reference"], "started with .* Leave --config reference out"),
    ],
)
def test_resume_refuses_another_setting(tmp_path: Path, flags: list[str], said: str):
    out = unfinished(tmp_path / "sft", 1, seed=7).folder
    result = CliRunner().invoke(app, ["sft", "--resume", "auto", "--out", str(out), *flags])
    assert result.exit_code == 2
    assert re.search(said, result.stderr)


def test_resume_takes_the_settings_of_the_run_also_from_its_own_file(tmp_path: Path):
    out = unfinished(tmp_path / "sft", 1, seed=7).folder
    flags = ["--config", str(out / "run.toml"), "--resume", "auto"]
    result = CliRunner().invoke(app, ["sft", *flags])
    assert result.exit_code == 3
    assert "nowhere" in result.stderr


def test_a_start_that_failed_leaves_nothing_for_resume_to_insist_on(tmp_path: Path):
    out = unfinished(tmp_path / "sft", 1, model="gpt2").folder
    shutil.rmtree(out / "checkpoints")
    flags = ["--model", "starter", "--data", "absent", "--out", str(out), "--resume"]
    result = CliRunner().invoke(app, ["sft", *flags, "auto"])
    assert result.exit_code == 3
    assert "absent" in result.stderr
    result = CliRunner().invoke(app, ["sft", *flags, "on"])
    assert result.exit_code == 2
    assert "has no checkpoint" in result.stderr


def test_resume_is_refused_for_a_run_of_the_other_command(tmp_path: Path):
    out = unfinished(tmp_path / "sft", 1).folder
    result = CliRunner().invoke(app, ["orpo", "--resume", "auto", "--out", str(out)])
    assert result.exit_code == 2
    assert "holds an unfinished sft run, not one of orpo" in result.stderr


def test_a_tracker_that_is_unknown_or_not_installed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def find_nothing(name: str) -> None:
        del name

    monkeypatch.setattr("importlib.util.find_spec", find_nothing)
    for name, text in (("excel", "--report-to must be tensorboard"), ("wandb", "not installed")):
        result = CliRunner().invoke(
            app, ["sft", "--report-to", name, "--out", str(tmp_path / "sft"), "--data", "nowhere"]
        )
        assert result.exit_code == 2
        assert text in result.stderr
