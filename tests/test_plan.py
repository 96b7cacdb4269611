"""--dry-run: what a run would take, measured and not written."""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpt2chat.cli import app
from gpt2chat.core.config.training import OrpoConfig, SftConfig
from gpt2chat.core.training.plan import plan
from gpt2chat.core.training.train import train


@pytest.fixture
def settings(tiny_folder: Path, tiny_data: Path, tmp_path: Path) -> SftConfig:
    return SftConfig(
        model=str(tiny_folder), data=tiny_data, out=tmp_path / "sft", epochs=2, batch_size=4,
        grad_accum=2, precision="fp32", device="cpu",
    )  # fmt: skip


@pytest.mark.slow
def test_the_plan_has_the_steps_and_tokens_that_the_run_has(settings: SftConfig):
    planned, result = plan(settings), train(settings)
    assert (planned.steps, planned.samples) == (result.steps, result.samples)
    assert planned.epoch_tokens * settings.epochs == result.tokens
    assert 0 < planned.trained_tokens < planned.epoch_tokens
    assert planned.seconds == pytest.approx(2 * planned.epoch_tokens / planned.tokens_per_second)
    assert 0 < planned.memory < planned.available * 10


def test_nothing_is_written(settings: SftConfig, tmp_path: Path):
    plan(settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_weights_that_a_plan_moved_are_of_no_run(settings: SftConfig):
    plan(settings)
    first = train(settings)
    again = train(replace(settings, out=settings.out.with_name("again")))
    weights = [(run.out / "model.safetensors").read_bytes() for run in (first, again)]
    assert weights[0] == weights[1]


def test_orpo_has_a_plan_too(settings: SftConfig):
    planned = plan(
        OrpoConfig(model=settings.model, data=settings.data, out=settings.out, device="cpu")
    )
    assert planned.command == "orpo"
    assert planned.trainable == planned.parameters


def test_with_lora_few_weights_are_trained(settings: SftConfig):
    planned = plan(replace(settings, lora_r=4))
    assert planned.trainable < planned.parameters / 20


def test_a_run_is_planned_where_a_finished_one_is(settings: SftConfig):
    result = train(settings)
    assert plan(replace(settings, dry_run=True)).steps == result.steps


def test_the_command_prints_the_plan(settings: SftConfig):
    flags = ["--model", settings.model, "--data", str(settings.data), "--out", str(settings.out)]
    result = CliRunner().invoke(app, ["sft", "--dry-run", *flags], catch_exceptions=False)
    assert result.exit_code == 0
    for word in ("parameters", "in an epoch", "GiB at the peak", "tokens/s"):
        assert word in result.stdout
    assert "Leave out --dry-run to start" in result.stderr
    assert not settings.out.exists()
