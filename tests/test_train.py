"""Training runs: what they write, resume to the same losses, and stop without losing anything."""

import errno
import json
import math
import os
import shutil
import signal
import sys
import threading
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.config.settings import to_toml
from gpt2chat.core.config.training import OrpoConfig, SftConfig, TrainConfig
from gpt2chat.core.data.prepare import prepare
from gpt2chat.core.data.shards import read_manifest, read_pairs
from gpt2chat.core.errors import ConfigError, DataError, Interrupted, StorageError
from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.core.model.compiling import compiled_graphs
from gpt2chat.core.runs import Run
from gpt2chat.core.training.arguments import GPU_LOGGING, arguments
from gpt2chat.core.training.callbacks import Step
from gpt2chat.core.training.job import make_job
from gpt2chat.core.training.metrics import json_line, read_lines
from gpt2chat.core.training.train import TrainResult, card, curve, train
from gpt2chat.core.training.trainer import Votes
from tests.helpers import ignore, tiny_model

# Each test trains, in 2 to 5 seconds; test_trainer.py and test_api.py train in the quick lane.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model with dropout, so that resuming must restore the random state too."""
    folder = tmp_path_factory.mktemp("dropout")
    save_model(tiny_model(dropout=0.1), folder)
    return str(folder)


def config(model: str, data: Path, out: Path, **changes: Any) -> SftConfig:
    values: dict[str, Any] = {
        "model": model, "data": data, "out": out, "epochs": 2, "lr": 1e-2, "batch_size": 6,
        "evals": 2, "precision": "fp32", "device": "cpu", **changes,
    }  # fmt: skip
    return SftConfig(**values)


def interrupt_in(number: int) -> Callable[[Step], None]:
    """Press Ctrl-C in a step, which is when the one before it was told."""

    def on_step(step: Step) -> None:
        if step.step == number - 1:
            os.kill(os.getpid(), signal.SIGINT)

    return on_step


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def unbroken(model: str, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A finished SFT run."""
    return train(config(model, tiny_data, tmp_path_factory.mktemp("runs") / "sft"))


def test_a_finished_run_has_all_its_files(unbroken: TrainResult):
    names = {path.name for path in unbroken.out.iterdir()}
    assert names == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "loss.png",
        "metrics.jsonl", "model.safetensors", "result.json", "run.toml", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip


def test_transformers_loads_a_finished_run(unbroken: TrainResult):
    logits = AutoModelForCausalLM.from_pretrained(unbroken.out)(torch.tensor([[1, 2, 3]])).logits
    assert torch.isfinite(logits).all()
    config = json.loads((unbroken.out / "config.json").read_text())
    assert config["architectures"] == ["GPT2LMHeadModel"]


def test_training_lowers_the_loss(unbroken: TrainResult):
    losses = [line["loss"] for line in lines(unbroken.out) if "loss" in line]
    assert losses[-1] < losses[0] - 0.5


def test_the_weights_that_are_kept_are_those_of_the_lowest_validation_loss(
    model: str, tiny_data: Path, tmp_path: Path
):
    settings = config(model, tiny_data, tmp_path / "sft", epochs=6, evals=6, lr=0.2, warmup=0.0)
    result = train(settings)
    validations = {line["step"]: line["eval_loss"] for line in lines(result.out)
                   if "eval_loss" in line}  # fmt: skip
    assert sorted(validations) == [0, *sorted(validations)[1:]]
    assert len(validations) == 7
    assert result.validation_loss == min(validations.values())
    assert validations[result.best_step] == result.validation_loss
    assert result.best_step < result.steps
    kept = make_job(config(str(result.out), tiny_data, tmp_path / "kept"))
    measured = kept.trainer([]).evaluate()["eval_loss"]
    assert measured == pytest.approx(result.validation_loss, rel=1e-6)


def test_weight_decay_is_on_matrices_and_embeddings_only(
    model: str, tiny_data: Path, tmp_path: Path
):
    job = make_job(config(model, tiny_data, tmp_path / "sft", weight_decay=0.3))
    groups: Any = job.trainer([]).create_optimizer().param_groups
    found = {id(weight): group["weight_decay"] for group in groups for weight in group["params"]}
    for name, weight in job.model.named_parameters():
        assert found[id(weight)] == (0.3 if weight.ndim == 2 else 0.0), name


def test_dropout_is_the_models_own_or_what_is_asked_for(
    model: str, tiny_data: Path, tmp_path: Path
):
    for asked, expected in ((None, 0.1), (0.4, 0.4), (0.0, 0.0)):
        trained = make_job(config(model, tiny_data, tmp_path / "sft", dropout=asked)).model
        blocks = trained.transformer.h
        layers = [trained.transformer.drop]
        layers += [
            part for block in blocks for part in (block.attn.resid_dropout, block.mlp.dropout)
        ]
        assert [layer.p for layer in layers] == [expected] * len(layers)
        assert (trained.config.embd_pdrop, trained.config.resid_pdrop) == (expected, expected)
        assert trained.config.attn_pdrop == 0.0


def test_the_loss_curve_is_a_picture(unbroken: TrainResult):
    assert (unbroken.out / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_model_card_says_what_the_run_did(unbroken: TrainResult):
    text = (unbroken.out / "README.md").read_text()
    assert f"{unbroken.samples:,} conversations, 2 epochs, {unbroken.tokens:,} tokens" in text
    assert "the loss on the tokens of the reply only" in text
    assert ", 1 process, " in text
    assert "lr = 0.01" in text


def test_the_settings_that_are_written_repeat_the_run(unbroken: TrainResult, tmp_path: Path):
    values = tomllib.loads((unbroken.out / "run.toml").read_text())
    values |= {"data": Path(values["data"]), "out": tmp_path / "again"}
    again = train(SftConfig(**values))
    assert losses_of(again.out) == losses_of(unbroken.out)


@pytest.mark.skipif(sys.platform != "linux", reason="the file system takes only UTF-8")
def test_data_whose_name_is_not_utf_8_is_trained_on_and_named_in_the_settings(
    model: str, tiny_data: Path, tmp_path: Path
):
    data = tmp_path / "data\udcff"
    shutil.copytree(tiny_data, data)
    train(config(model, data, tmp_path / "run", epochs=1, eval_samples=0))
    assert Run(tmp_path / "run").settings()["data"] == str(data)


def losses_of(run: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss" if "loss" in line else "eval_loss"]) for line in lines(run)]


@pytest.mark.parametrize("step", [2, 5, 8])
def test_an_interrupted_run_resumes_to_the_bits_of_an_unbroken_one(
    unbroken: TrainResult, model: str, tiny_data: Path, tmp_path: Path, step: int
):
    out = tmp_path / "sft"
    with pytest.raises(Interrupted, match=rf"step {step} of .*\bsft\(.*resume="):
        train(config(model, tiny_data, out), interrupt_in(step), ignore)
    assert not (out / "result.json").exists()

    train(config(model, tiny_data, out, resume="on"))
    assert losses_of(out) == losses_of(unbroken.out)
    weights = [(run / "model.safetensors").read_bytes() for run in (out, unbroken.out)]
    assert weights[0] == weights[1]


def test_an_interrupted_run_does_not_resume_as_another(model: str, tiny_data: Path, tmp_path: Path):
    out, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(tiny_data, data)
    with pytest.raises(Interrupted):
        train(config(model, data, out), interrupt_in(2), ignore)
    shared: Any = {"model": model, "data": data, "out": out, "device": "cpu", "resume": "auto"}
    with pytest.raises(ConfigError, match=r"\bsft\b.*\borpo\b"):
        train(OrpoConfig(**shared))
    rows = [json.dumps({"prompt": f"Say {n}.", "completion": f"{n}"}) for n in range(30)]
    (tmp_path / "chat.jsonl").write_text("\n".join(rows))
    other = PrepareConfig(
        oasst1="off", alpaca="off", ultrafeedback="off", chat=(str(tmp_path / "chat.jsonl"),),
        out=data,
    )  # fmt: skip
    prepare(other, ignore)
    with pytest.raises(DataError, match=str(data)):
        train(config(model, data, out, resume="auto"))
    assert Run(out).newest_checkpoint() == out / "checkpoints" / "checkpoint-2"


@pytest.mark.parametrize("changes", [{}, {"overwrite": True}, {"resume": "auto"}])
def test_a_folder_that_another_run_writes_to_is_left_alone(
    model: str, tiny_data: Path, tmp_path: Path, changes: dict[str, Any]
):
    out = tmp_path / "sft"
    with Run(out).lock(), pytest.raises(ConfigError, match=str(out)):
        train(config(model, tiny_data, out, **changes))
    assert not out.exists()


@pytest.mark.parametrize("which", ["itself", "by a link", "as a base"])
def test_the_folder_that_the_model_is_read_from_is_not_emptied(
    model: str, tiny_data: Path, tmp_path: Path, which: str
):
    out, name = tmp_path / "sft", tmp_path / "model"
    shutil.copytree(model, out)
    (out / "run.toml").write_text(to_toml(config(model, tiny_data, out)))
    if which == "by a link":
        name.symlink_to(out)
    elif which == "as a base":
        name.mkdir()
        adapter = {"base_model_name_or_path": str(out)}
        (name / "adapter_config.json").write_text(json.dumps(adapter))
        (name / "adapter_model.safetensors").touch()
    asked = str(out if which == "itself" else name)
    with pytest.raises(ConfigError) as refused:
        train(config(asked, tiny_data, out, overwrite=True))
    assert refused.value.setting == "out"
    assert (out / "model.safetensors").exists()


def test_metrics_are_whole_at_any_moment_of_a_resume(
    model: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, replace = tmp_path / "sft", Path.replace
    with pytest.raises(Interrupted):
        train(config(model, tiny_data, out), interrupt_in(2), ignore)
    before = (out / "metrics.jsonl").read_text()

    def killed(path: Path, target: Path) -> Path:
        if target.name == "metrics.jsonl":
            raise SystemExit
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(SystemExit):
        train(config(model, tiny_data, out, resume="on"))
    assert (out / "metrics.jsonl").read_text() == before


def test_a_resumed_orpo_run_has_the_metrics_of_an_unbroken_one(
    model: str, tiny_data: Path, tmp_path: Path
):
    whole, broken = (
        OrpoConfig(
            model=model, data=tiny_data, out=tmp_path / name, epochs=2, batch_size=6, evals=1,
            precision="fp32", device="cpu",
        ) for name in ("whole", "broken")
    )  # fmt: skip
    train(whole)
    with pytest.raises(Interrupted):
        train(broken, interrupt_in(3), ignore)
    train(replace(broken, resume="on"))
    figures = [
        [{name: line[name] for name in line if name != "seconds"} for line in lines(run.out)]
        for run in (broken, whole)
    ]
    assert figures[0] == figures[1]
    for line in (line for line in figures[0] if "loss" in line):
        assert line["loss"] == pytest.approx(line["nll"] + 0.1 * line["odds_ratio_loss"], rel=1e-5)


def test_tokens_and_seconds_are_those_of_all_starts(
    unbroken: TrainResult, model: str, tiny_data: Path, tmp_path: Path
):
    out = tmp_path / "sft"
    with pytest.raises(Interrupted):
        train(config(model, tiny_data, out), interrupt_in(3), ignore)
    before = lines(out)[-1]
    result = train(config(model, tiny_data, out, resume="on"))
    assert result.tokens == unbroken.tokens > before["tokens"]
    assert result.seconds > before["seconds"] > 0
    assert f"{unbroken.tokens:,} tokens" in (out / "README.md").read_text()


def test_a_second_ctrl_c_ends_the_run_at_once(model: str, tiny_data: Path, tmp_path: Path):
    def press_twice(_: Step) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(config(model, tiny_data, tmp_path / "sft"), press_twice, ignore)
    # The first press alone would have saved the step.
    assert Run(tmp_path / "sft").newest_checkpoint() is None


def test_ctrl_c_as_the_old_run_is_removed_saves_the_first_step(
    model: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, remove = tmp_path / "sft", Run.remove_checkpoints
    out.mkdir()
    (out / "run.toml").write_text(to_toml(config(model, tiny_data, out)))

    def removing(run: Run) -> None:
        remove(run)
        if not run.checkpoints.exists():
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Run, "remove_checkpoints", removing)
    with pytest.raises(Interrupted, match="step 1 of"):
        train(config(model, tiny_data, out, overwrite=True, eval_samples=0), None, ignore)
    assert Run(out).newest_checkpoint() == out / "checkpoints" / "checkpoint-1"


def test_ctrl_c_in_the_validation_before_the_first_step_ends_the_run(
    model: str, tiny_data: Path, tmp_path: Path
):
    answered = threading.Event()

    def press() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert answered.wait(60)

    settings = config(model, tiny_data, tmp_path / "sft", limit=6, epochs=1)
    with pytest.raises(Interrupted):
        train(settings, None, answered.set, press)
    assert lines(settings.out) == []
    assert train(settings).steps == 1  # nothing is in the way of another start


def test_a_model_that_overflows_is_refused_before_the_first_step(tiny_data: Path, tmp_path: Path):
    damaged = tiny_model()
    with torch.no_grad():
        damaged.transformer.wpe.weight.fill_(-3e38)
        damaged.transformer.wpe.weight[:, 0] = 3e38
    save_model(damaged, tmp_path / "damaged")
    settings = config(str(tmp_path / "damaged"), tiny_data, tmp_path / "sft")
    steps: list[Step] = []
    with pytest.raises(DataError) as caught:
        train(settings, steps.append)
    assert (caught.value.setting, steps) == ("model", [])
    assert Run(settings.out).newest_checkpoint() is None


def test_ctrl_c_as_the_weights_are_written_lets_the_run_finish(
    model: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def drawing(*_: Path, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(curve, "draw", drawing)
    result = train(config(model, tiny_data, tmp_path / "sft", epochs=1), None, ignore)
    assert (result.out / "result.json").exists()


def test_orpo_writes_a_run_and_measures_preferences(
    unbroken: TrainResult, tiny_data: Path, tmp_path: Path
):
    settings = OrpoConfig(
        model=str(unbroken.out), data=tiny_data, out=tmp_path / "orpo", lr=1e-2, epochs=4,
        precision="fp32", device="cpu", batch_size=4,
    )  # fmt: skip
    steps: list[Step] = []
    result = train(settings, steps.append)
    assert result.samples > 10
    assert set(result.validation) >= {"nll", "odds_ratio_loss", "accuracy", "margin"}
    ratios = [step.metrics["log_odds_ratio"] for step in steps]
    epoch = len(steps) // 4
    assert sum(ratios[-epoch:]) > sum(ratios[:epoch])
    assert steps[-1].steps == result.steps


def test_nothing_is_written_where_the_data_is_missing(model: str, tmp_path: Path):
    with pytest.raises(DataError):
        train(config(model, tmp_path / "nothing", tmp_path / "sft"))
    assert not (tmp_path / "sft").exists()


def test_shards_changed_by_hand_are_refused_by_name(tiny_data: Path, model: str, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    shard = next(data.glob("sft/train-*"))
    shard.write_text(shard.read_text().replace("the", "teh"))
    with pytest.raises(DataError, match=shard.name):
        train(config(model, data, tmp_path / "sft"))


def test_samples_longer_than_max_length_are_left_out_and_counted(
    model: str, tiny_data: Path, tmp_path: Path
):
    settings = OrpoConfig(
        model=model, data=tiny_data, out=tmp_path / "orpo", max_length=200, eval_samples=0
    )
    result = train(settings)
    pairs = len(read_pairs(tiny_data, "train"))
    assert 0 < result.samples < pairs
    assert result.samples + result.left_out == pairs
    assert result.validation_loss is None


def test_all_samples_too_long_is_one_line(unbroken: TrainResult, tiny_data: Path, tmp_path: Path):
    settings = OrpoConfig(
        model=str(unbroken.out), data=tiny_data, out=tmp_path / "orpo", max_length=64
    )
    with pytest.raises(DataError) as refused:
        train(settings)
    assert refused.value.setting == "max_length"


def test_a_longer_window_stretches_the_learned_positions_over_it(
    model: str, tiny_data: Path, tmp_path: Path
):
    settings = config(model, tiny_data, tmp_path / "sft", max_length=2047, lr=1e-9, epochs=1)
    result = train(settings)
    saved: Any = AutoModelForCausalLM.from_pretrained(result.out)
    before: Any = AutoModelForCausalLM.from_pretrained(model)
    rows, learned = saved.transformer.wpe.weight, before.transformer.wpe.weight
    assert (saved.config.n_positions, saved.config.n_ctx, len(rows)) == (2047, 2047, 2047)
    torch.testing.assert_close(rows[0::2], learned, rtol=0, atol=1e-6)
    torch.testing.assert_close(rows[1::2], (learned[1:] + learned[:-1]) / 2, rtol=0, atol=1e-6)


def test_a_folder_that_cannot_be_written_is_one_line(model: str, tiny_data: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Cannot write"):
        train(config(model, tiny_data, tmp_path / "file" / "sft"))


def impatient(model: str, data: Path, out: Path, **changes: Any) -> SftConfig:
    return config(model, data, out, epochs=30, evals=30, patience=2, lr=0.2, warmup=0.0, **changes)


@pytest.fixture(scope="module")
def ran_out(model: str, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run that patience ended."""
    return train(impatient(model, tiny_data, tmp_path_factory.mktemp("runs") / "sft"))


def test_patience_ends_a_run_that_gets_no_better(ran_out: TrainResult):
    result = ran_out
    assert result.steps < result.planned_steps
    validations = [line["eval_loss"] for line in lines(result.out) if "eval_loss" in line]
    assert min(validations[-2:]) >= min(validations)
    assert result.validation_loss == min(validations)


@pytest.mark.parametrize("before", [2, 1])
def test_patience_goes_on_with_a_run(
    ran_out: TrainResult, model: str, tiny_data: Path, tmp_path: Path, before: int
):
    out = tmp_path / "sft"
    with pytest.raises(Interrupted):
        train(impatient(model, tiny_data, out), interrupt_in(ran_out.steps - before), ignore)
    result = train(impatient(model, tiny_data, out, resume="on"))
    assert result.steps == ran_out.steps
    assert losses_of(out) == losses_of(ran_out.out)


def test_ctrl_c_in_the_step_that_ends_a_run_lets_it_finish(
    ran_out: TrainResult, model: str, tiny_data: Path, tmp_path: Path
):
    settings = impatient(model, tiny_data, tmp_path / "sft")
    assert train(settings, interrupt_in(ran_out.steps), ignore).steps == ran_out.steps


def test_a_run_that_is_killed_once_patience_has_run_out_takes_one_more_step(
    ran_out: TrainResult, model: str, tiny_data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    def killed(*_: Path, **__: Any) -> None:
        raise SystemExit

    out = tmp_path / "sft"
    monkeypatch.setattr(curve, "draw", killed)
    with pytest.raises(SystemExit):
        train(impatient(model, tiny_data, out))
    monkeypatch.undo()
    result = train(impatient(model, tiny_data, out, resume="on"))
    assert (result.steps, result.best_step) == (ran_out.steps + 1, ran_out.best_step)


def test_patience_without_validation_rows_is_one_line(model: str, tiny_data: Path, tmp_path: Path):
    chats, data = str(tiny_data.parent / "chat.jsonl"), tmp_path / "data"
    off: Any = {"oasst1": "off", "alpaca": "off", "ultrafeedback": "off"}
    prepare(PrepareConfig(chat=(chats,), holdout=0.0, out=data, **off), ignore)
    with pytest.raises(ConfigError) as refused:
        train(config(model, data, tmp_path / "sft", patience=2))
    assert refused.value.setting == "patience"
    assert not (tmp_path / "sft").exists()


def test_checkpoints_are_saved_as_often_as_asked_and_two_are_kept(
    model: str, tiny_data: Path, tmp_path: Path
):
    out = tmp_path / "sft"
    with pytest.raises(Interrupted):
        train(config(model, tiny_data, out, evals=1, save_minutes=1e-6), interrupt_in(5), ignore)
    saved = {folder.name for folder in (out / "checkpoints").glob("checkpoint-*")}
    assert saved == {"checkpoint-4", "checkpoint-5"}


def test_the_last_checkpoint_is_there_until_the_next_is_whole(
    model: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, seal, whole = tmp_path / "sft", Run.seal, dict[str, set[str]]()

    def sealing(run: Run, checkpoint: Path) -> None:
        whole[checkpoint.name] = {file.parent.name for file in out.rglob("sealed.json")}
        seal(run, checkpoint)

    monkeypatch.setattr(Run, "seal", sealing)
    with pytest.raises(Interrupted):
        train(config(model, tiny_data, out, evals=4, save_minutes=1e-6), interrupt_in(7), ignore)
    assert whole["checkpoint-2"] == {"checkpoint-1"}
    assert all(f"checkpoint-{step}" in whole[f"checkpoint-{step + 1}"] for step in range(1, 7))
    best = json.loads((out / "checkpoints/checkpoint-7/trainer_state.json").read_text())
    kept = {folder.name for folder in (out / "checkpoints").glob("checkpoint-*")}
    assert kept == {"checkpoint-7", f"checkpoint-{best['best_global_step']}"}


def test_half_a_checkpoint_of_a_killed_run_goes_when_it_goes_on(
    model: str, tiny_data: Path, tmp_path: Path
):
    out = tmp_path / "sft"
    with pytest.raises(Interrupted):
        train(config(model, tiny_data, out, save_minutes=1e-6), interrupt_in(3), ignore)
    half = out / "checkpoints" / "checkpoint-900"
    half.mkdir()
    found: list[bool] = []
    train(config(model, tiny_data, out, resume="on"), lambda _: found.append(half.exists()))
    assert not found[0]


def test_a_checkpoint_that_lost_a_part_is_passed_over(
    unbroken: TrainResult, model: str, tiny_data: Path, tmp_path: Path
):
    """As after a loss of power: the newest has its names, and not all of its bytes."""
    out = tmp_path / "sft"
    with pytest.raises(Interrupted):
        train(config(model, tiny_data, out, save_minutes=1e-6), interrupt_in(5), ignore)
    optimizer = out / "checkpoints" / "checkpoint-5" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:1000])
    steps: list[Step] = []
    train(config(model, tiny_data, out, resume="auto"), steps.append)
    assert steps[0].step == 5
    assert losses_of(out) == losses_of(unbroken.out)


@pytest.mark.parametrize("held_out", [256, 0])
@pytest.mark.parametrize("saved_each_step", [True, False])
def test_weights_that_a_step_took_too_far_are_saved_nowhere(
    model: str, tiny_data: Path, tmp_path: Path, held_out: int, saved_each_step: bool
):
    settings = config(
        model, tiny_data, tmp_path / "sft", limit=8, epochs=0.5, lr=9e18, warmup=0.0,
        eval_samples=held_out, save_minutes=1e-6 if saved_each_step else 10.0,
    )  # fmt: skip
    with pytest.raises(DataError, match="step 1") as ended:
        train(settings)
    assert ended.value.setting == "lr"
    assert Run(settings.out).newest_checkpoint() is None
    assert not (settings.out / "result.json").exists()
    text = (settings.out / "metrics.jsonl").read_text()
    assert not any(name in text for name in ("NaN", "Infinity"))


def test_a_line_of_metrics_is_json_whatever_the_values(tmp_path: Path):
    line = json_line({"step": 1, "loss": math.inf, "margin": math.nan, "nll": 0.5})
    assert json.loads(line) == {"step": 1, "loss": None, "margin": None, "nll": 0.5}
    (tmp_path / "metrics.jsonl").write_text(line)
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 1, "nll": 0.5}]


@pytest.mark.parametrize("limit", [6, 12, 18])
def test_every_step_of_a_short_run_trains(model: str, tiny_data: Path, tmp_path: Path, limit: int):
    settings = config(model, tiny_data, tmp_path / "sft", limit=limit, epochs=1, evals=1)
    result = train(settings)
    assert result.steps == limit // 6
    rates = [line["learning_rate"] for line in lines(result.out) if "loss" in line]
    assert len(rates) == result.steps
    assert all(rate > 0 for rate in rates)
    start, end = (load_file(Path(run) / "model.safetensors") for run in (model, result.out))
    assert not torch.equal(start["transformer.wte.weight"], end["transformer.wte.weight"])


@pytest.mark.parametrize("warmup", [0.05, 1.0, 420.0])
def test_a_short_run_ends_its_warm_up(model: str, tiny_data: Path, tmp_path: Path, warmup: float):
    settings = config(model, tiny_data, tmp_path / "sft", limit=18, epochs=1, warmup=warmup)
    rates = [line["learning_rate"] for line in lines(train(settings).out) if "loss" in line]
    assert len(rates) == 3
    assert all(rate > 0 for rate in rates)
    assert max(rates) == settings.lr


def test_a_longer_run_has_transformers_own_schedule(model: str, tiny_data: Path, tmp_path: Path):
    settings = config(model, tiny_data, tmp_path / "sft", limit=21, batch_size=1, epochs=1, evals=1)
    rates = [line["learning_rate"] for line in lines(train(settings).out) if "loss" in line]
    assert rates[:3] == [0.0, settings.lr / 2, settings.lr]


def test_a_run_may_be_in_any_thread_and_need_not_be_the_first(
    unbroken: TrainResult, model: str, tiny_data: Path, tmp_path: Path
):
    settings = config(model, tiny_data, tmp_path / "sft")
    with ThreadPoolExecutor() as pool:
        result = pool.submit(train, settings, None, ignore).result()
    assert losses_of(result.out) == losses_of(unbroken.out)


def test_without_being_asked_to_a_run_leaves_signals_alone(
    model: str, tiny_data: Path, tmp_path: Path
):
    handlers: list[Any] = []
    settings = config(model, tiny_data, tmp_path / "sft", limit=6, epochs=1)
    train(settings, lambda _: handlers.append(signal.getsignal(signal.SIGINT)))
    assert handlers == [signal.getsignal(signal.SIGINT)]


def test_ctrl_c_is_answered_inside_the_step(model: str, tiny_data: Path, tmp_path: Path):
    """While PyTorch computes, Python runs no signal handler in the main thread."""
    told = threading.Event()

    def press(step: Step) -> None:
        if step.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
            assert told.wait(60)

    with pytest.raises(Interrupted, match="step 2 of"):
        train(config(model, tiny_data, tmp_path / "sft"), press, told.set)


def test_sigterm_saves_too(model: str, tiny_data: Path, tmp_path: Path):
    def terminate(step: Step) -> None:
        if step.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="step 3 of"):
        train(config(model, tiny_data, tmp_path / "sft"), terminate, ignore)


def test_a_full_disk_in_the_middle_of_a_save_loses_the_steps_since_the_last(
    model: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, save = tmp_path / "sft", torch.save

    def full(value: Any, file: Any, *rest: Any, **named: Any) -> None:
        if "checkpoint-4/optimizer" in str(file):
            Path(file).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(value, file, *rest, **named)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StorageError, match="No space left"):
        train(config(model, tiny_data, out, save_minutes=1e-6))
    monkeypatch.undo()
    newest = Run(out).newest_checkpoint()
    assert newest is not None
    assert newest.name == "checkpoint-3"
    assert not (out / "checkpoints" / "checkpoint-4").exists()
    train(config(model, tiny_data, out, resume="auto"))


def test_tensorboard_gets_the_metrics_into_the_run_folder(
    model: str, tiny_data: Path, tmp_path: Path
):
    settings = config(model, tiny_data, tmp_path / "sft", epochs=1, report_to=("tensorboard",))
    result = train(settings)
    (events,) = (result.out / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()


def test_the_curve_of_orpo_has_the_pairs_below_the_loss(tmp_path: Path):
    metrics = tmp_path / "metrics.jsonl"
    rows: list[dict[str, float]] = [
        {"step": step, "loss": 3.0 / step, "accuracy": 0.4, "margin": -0.1} for step in range(1, 9)
    ]
    rows.append({"step": 8, "eval_loss": 0.5, "eval_accuracy": 0.5, "eval_margin": 0.0})
    heights: list[int] = []
    for names in (("step", "loss", "eval_loss"), rows[0] | rows[-1]):
        kept = [{name: row[name] for name in names if name in row} for row in rows]
        metrics.write_text("".join(json.dumps(row) + "\n" for row in kept))
        curve.draw(metrics, tmp_path / "loss.png", title="orpo", saved_step=8)
        heights.append(int.from_bytes((tmp_path / "loss.png").read_bytes()[20:24]))
    assert heights[1] > heights[0]


def test_the_card_tells_a_reader_on_the_hub_what_it_is(unbroken: TrainResult):
    text = (unbroken.out / "README.md").read_text()
    head: dict[str, Any] = yaml.safe_load(text.split("---")[1])
    assert head["tags"][:2] == ["gpt2", "chat"]
    assert "base_model" not in head  # a folder, which no other reader has
    (index,) = head["model-index"]
    metrics = {entry["type"]: entry["value"] for entry in index["results"][0]["metrics"]}
    assert metrics["loss"] == pytest.approx(unbroken.validation_loss, abs=1e-4)


def card_of(settings: TrainConfig, tiny_data: Path) -> str:
    """Return the card of a run that was never made."""
    result: dict[str, Any] = dict.fromkeys(
        ("samples", "epochs", "processes", "steps", "best_step", "loss", "seconds", "tokens",
         "tokens_per_second", "utilisation"), 1,
    )  # fmt: skip
    texts = ("model", "device", "precision", "finished")
    measured = {"loss": 2.0, "nll": 1.9, "accuracy": 0.5, "margin": 0.1}
    result |= dict.fromkeys(texts, "") | {"validation_loss": 2.0, "validation": measured}
    result["command"] = "orpo" if isinstance(settings, OrpoConfig) else "sft"
    return card.model_card(settings, result, read_manifest(tiny_data))


def test_the_card_says_what_was_trained(tiny_data: Path):
    everything = card_of(SftConfig(train_on="all"), tiny_data)
    assert "the loss on the tokens of prompts and replies." in everything
    chosen = card_of(SftConfig(chosen=True), tiny_data)
    assert "on the chosen replies of preference pairs, the loss" in chosen
    assert "(the rejected replies left out), 1 epoch, " in chosen
    aligned = card_of(OrpoConfig(model="gpt2", beta=0.3), tiny_data)
    assert "loss 2.0000 (negative log-likelihood + 0.3 · odds ratio loss)" in aligned
    assert "negative log-likelihood 1.9000 nats per token" in aligned


def test_the_card_holds_no_character_that_acts_on_a_terminal(tiny_data: Path):
    name = os.fsdecode(b"\x1b[31mred \xe9")
    out = Path("\x1b[31mred")  # a name that is not UTF-8 is refused here
    text = card_of(SftConfig(model=name, out=out, data=Path(name)), tiny_data)
    assert "[31mred" in text
    assert all(sign.isprintable() or sign == "\n" for sign in text)


def test_the_card_names_a_base_on_the_hub_through_the_runs_between(tiny_data: Path, tmp_path: Path):
    (tmp_path / "run.toml").write_text('model = "openai-community/gpt2"\n')
    text = card_of(OrpoConfig(model=str(tmp_path)), tiny_data)
    head: dict[str, Any] = yaml.safe_load(text.split("---")[1])
    assert head["base_model"] == "openai-community/gpt2"


def trained(model: str, data: Path, out: Path, command: str, **values: Any) -> list[float]:
    """Train and return the validation losses: how often a run logs its loss depends on the device,
    and when it validates does not."""
    if command == "sft":
        train(config(model, data, out, **values))
    else:
        shared: dict[str, Any] = {"lr": 1e-3, "batch_size": 4, "evals": 2, "epochs": 2}
        train(OrpoConfig(model=model, data=data, out=out, **shared, **values))
    return [line["eval_loss"] for line in lines(out) if "eval_loss" in line]


def test_a_run_that_logs_seldom_validates_as_often_as_another(
    model: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    few = {"limit": 12, "epochs": 1, "eval_samples": 2}
    often = trained(model, tiny_data, tmp_path / "often", "sft", **few)

    def seldom(*given: Any, **named: Any) -> Any:
        made = arguments(*given, **named)
        made.logging_steps = GPU_LOGGING
        return made

    monkeypatch.setattr("gpt2chat.core.training.job.arguments", seldom)
    assert trained(model, tiny_data, tmp_path / "seldom", "sft", **few) == often
    assert len(often) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("command", ["sft", "orpo"])
def test_a_gpu_trains_as_a_cpu_does_and_compiles_once(
    model: str, tiny_data: Path, tmp_path: Path, command: str
):
    losses: list[list[float]] = []
    for device, compile in (("cpu", "off"), ("cuda", "off"), ("cuda", "on")):
        before, out = compiled_graphs(), tmp_path / f"{device}-{compile}"
        values: Any = {"precision": "auto", "dropout": 0.0, "device": device, "compile": compile}
        losses.append(trained(model, tiny_data, out, command, **values))
        assert compiled_graphs() - before == int(compile == "on")
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert losses[2] == pytest.approx(losses[1], rel=0.03)


@pytest.mark.gpu
@pytest.mark.parametrize("compile", ["off", "on"])
def test_no_step_waits_for_the_gpu(model: str, tiny_data: Path, tmp_path: Path, compile: str):
    class NoWaiting(TrainerCallback):
        """From the end of step 3 to that of step 8, anything that waits for the GPU raises."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in (3, 8):
                torch.cuda.set_sync_debug_mode("error" if state.global_step == 3 else "default")

    values: Any = {"precision": "auto", "device": "cuda", "compile": compile, "epochs": 10}
    trainer = make_job(config(model, tiny_data, tmp_path, **values)).trainer([NoWaiting()])
    trainer.votes = Votes(lambda: [0.0, 0.0])
    try:
        trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.state.global_step > 8
