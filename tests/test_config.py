"""Settings: checked when made, written as TOML, read back by --config."""

import math
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.config.settings import to_toml
from gpt2chat.core.config.training import OrpoConfig, SftConfig
from gpt2chat.core.errors import ConfigError
from gpt2chat.options import ConfigFile, LearningRate, Seed


def test_a_config_and_its_toml_say_the_same():
    settings = OrpoConfig(lr=3e-5, out=Path("runs/b"), batch_size=8)
    values = tomllib.loads(to_toml(settings))
    assert (values["lr"], values["out"], values["batch_size"]) == (3e-5, "runs/b", 8)
    assert "limit" not in values


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"epochs": 0}, "--epochs"),
        ({"lr": -1}, "--lr"),
        ({"grad_accum": 0}, "--grad-accum"),
        ({"batch_tokens": 512}, "--batch-tokens"),
        ({"warmup": 1.5}, "--warmup"),
        ({"dora": True}, "--lora-r"),
        ({"cycles": 4, "schedule": "linear"}, "--cycles"),
        ({"patience": 2, "eval_samples": 0}, "--patience"),
        ({"dropout": 1.0}, "--dropout"),
        ({"resume": "auto", "overwrite": True}, "--resume"),
        ({"epochs": math.inf}, "--epochs"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**32}, "--seed"),
        ({"max_grad_norm": math.inf}, "--max-grad-norm"),
        ({"dropout": math.nan}, "--dropout"),
    ],
)
def test_a_value_out_of_range_names_its_flag(settings: dict[str, object], flag: str):
    with pytest.raises(ConfigError, match=flag):
        SftConfig(**settings)  # pyright: ignore[reportArgumentType]


def test_a_row_must_hold_a_pair():
    assert SftConfig(batch_tokens=1024).batch_tokens == 1024
    with pytest.raises(ConfigError, match="hold a pair"):
        OrpoConfig(batch_tokens=1024)


@pytest.mark.parametrize("value", [{"temperature": -1}, {"top_p": 0}, {"max_new_tokens": 0}])
def test_sampling_out_of_range_is_refused(value: dict[str, float]):
    with pytest.raises(ConfigError, match="--"):
        Sampling(**value)  # pyright: ignore[reportArgumentType]


def run(*arguments: str) -> tuple[float, int]:
    """Run a command with two shared flags; return what it was given."""
    app, given = typer.Typer(), []

    @app.command()
    def command(lr: LearningRate = 1.0, seed: Seed = 0, config: ConfigFile = None) -> None:
        given.append((lr, seed))

    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return given[0]


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path):
    file = tmp_path / "run.toml"
    file.write_text("lr = 0.5\nseed = 7\n")
    assert run("--config", str(file)) == (0.5, 7)
    assert run("--config", str(file), "--seed", "8") == (0.5, 8)
    assert run() == (1.0, 0)


def test_hugging_faces_names_are_taken_for_the_short_ones():
    assert run("--learning-rate", "0.25") == (0.25, 0)


@pytest.mark.parametrize(("text", "problem"), [("nope = 1", "nope"), ("lr = ", "cannot be read")])
def test_a_bad_config_file_is_refused(tmp_path: Path, text: str, problem: str):
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        run("--config", str(tmp_path / "run.toml"))
