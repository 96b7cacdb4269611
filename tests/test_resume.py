"""Runs that resume from damaged, moved or hostile folders, and after a kill at any moment."""

import json
import os
import pickle
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2chat.core.config.training import SftConfig
from gpt2chat.core.errors import Gpt2ChatError, Interrupted
from gpt2chat.core.runs import Run
from gpt2chat.core.training.callbacks import Step
from gpt2chat.core.training.job import make_job
from gpt2chat.core.training.train import train
from tests.helpers import ignore


def config(model: Path, data: Path, out: Path, **changes: Any) -> SftConfig:
    values: dict[str, Any] = {
        "model": str(model), "data": data, "out": out, "epochs": 1.0, "lr": 1e-2, "batch_size": 6,
        "evals": 1, "precision": "fp32", "device": "cpu", **changes,
    }  # fmt: skip
    return SftConfig(**values)


def press_in(number: int, what: signal.Signals = signal.SIGINT) -> Any:
    """Return an `on_step` that sends a signal during a step."""

    def on_step(step: Step) -> None:
        if step.step == number - 1:
            os.kill(os.getpid(), what)

    return on_step


@pytest.fixture(scope="module")
def stopped(
    tiny_folder: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> SftConfig:
    """The settings of a run that was stopped at step 3, with a checkpoint of step 2 as well."""
    out = tmp_path_factory.mktemp("stopped") / "sft"
    settings = config(tiny_folder, tiny_data, out, save_minutes=1e-6)
    with pytest.raises(Interrupted):
        train(settings, press_in(3), ignore)
    return settings


@pytest.fixture
def broken(stopped: SftConfig, tmp_path: Path) -> Run:
    """A copy of that run, to damage."""
    shutil.copytree(stopped.out, tmp_path / "sft")
    return Run(tmp_path / "sft")


def resume(run: Run, on_step: Any = ignore) -> Any:
    saved = run.settings()
    model, data = Path(saved["model"]), Path(saved["data"])
    return train(config(model, data, run.folder, save_minutes=10.0, resume="on"), on_step)


IN_CHECKPOINT = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth",
                 "trainer_state.json", "config.json")  # fmt: skip


@pytest.mark.parametrize("name", [*IN_CHECKPOINT, "sealed.json"])
def test_damage_of_the_same_size_resumes_from_the_checkpoint_before(broken: Run, name: str):
    path = broken.checkpoints / "checkpoint-3" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    steps: list[Step] = []
    resume(broken, steps.append)
    assert steps[0].step == 3


@pytest.mark.parametrize("name", IN_CHECKPOINT)
@pytest.mark.parametrize("damage", ["half", "json"])
def test_a_file_that_is_damaged_and_sealed_is_one_line_that_names_it(
    broken: Run, name: str, damage: str
):
    """As by someone who makes the hashes right again."""
    shutil.rmtree(broken.checkpoints / "checkpoint-2")
    path = broken.checkpoints / "checkpoint-3" / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "half" else b"[1]")
    broken.seal(path.parent)
    with pytest.raises(Gpt2ChatError, match=name):
        resume(broken)


@pytest.mark.parametrize(
    "content", [b"\xff", b"[]", b'{"loss": 1}', b'{"step": "x"}', b"[" * 10**5,
                b'{"step": 1, "tokens": "x"}'],
)  # fmt: skip
def test_damaged_metrics_are_one_line_that_names_them(broken: Run, content: bytes):
    path = broken.folder / "metrics.jsonl"
    path.write_bytes(content + b"\n" + path.read_bytes())
    with pytest.raises(Gpt2ChatError, match=r"metrics\.jsonl"):
        resume(broken)


def test_weights_of_another_model_are_not_resumed_with(broken: Run):
    from safetensors.torch import load_file, save_file

    shutil.rmtree(broken.checkpoints / "checkpoint-2")
    path = broken.checkpoints / "checkpoint-3" / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("transformer.ln_f.bias")
    save_file(tensors, path)
    broken.seal(path.parent)
    with pytest.raises(Gpt2ChatError, match=r"model\.safetensors"):
        resume(broken)


class Hostile:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize(
    ("name", "form"),
    [("optimizer.pt", "torch"), ("optimizer.pt", "pickle"), ("scheduler.pt", "torch"),
     ("rng_state.pth", "torch"), ("training_args.bin", "pickle")],
)  # fmt: skip
def test_a_hostile_pickle_runs_no_code(broken: Run, tmp_path: Path, name: str, form: str):
    shutil.rmtree(broken.checkpoints / "checkpoint-2")
    marker, path = tmp_path / "code-ran", broken.checkpoints / "checkpoint-3" / name
    if form == "pickle":
        path.write_bytes(pickle.dumps(Hostile(marker)))
    else:
        torch.save(Hostile(marker), path)
    broken.seal(path.parent)
    try:
        resume(broken)
    except Gpt2ChatError as error:
        assert name in str(error)  # noqa: PT017
    else:
        assert name == "training_args.bin"
    assert not marker.exists()


def best_is_early(model: Path, data: Path, out: Path, **changes: Any) -> SftConfig:
    """Return settings of a run whose validation loss is lowest long before its end."""
    return config(model, data, out, epochs=6, evals=6, lr=0.2, warmup=0.0, **changes)


def loss_of(result: Any, data: Path, out: Path) -> float:
    return make_job(config(result.out, data, out)).trainer([]).evaluate()["eval_loss"]


@pytest.mark.slow
def test_a_run_that_was_moved_still_ends_with_its_best_weights(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path
):
    with pytest.raises(Interrupted):
        train(best_is_early(tiny_folder, tiny_data, tmp_path / "old"), press_in(25), ignore)
    (tmp_path / "old").rename(tmp_path / "new")
    settings = best_is_early(tiny_folder, tiny_data, tmp_path / "new", resume="on")
    result = train(settings)
    assert result.best_step < 25
    assert loss_of(result, tiny_data, tmp_path / "x") == pytest.approx(result.validation_loss)


@pytest.mark.slow
def test_a_run_that_lost_its_best_checkpoint_tells_the_loss_of_the_weights_it_has(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path
):
    run = Run(tmp_path / "sft")
    with pytest.raises(Interrupted):
        train(best_is_early(tiny_folder, tiny_data, run.folder), press_in(25), ignore)
    state = json.loads((run.checkpoints / "checkpoint-25" / "trainer_state.json").read_text())
    best = run.checkpoints / f"checkpoint-{state['best_global_step']}" / "model.safetensors"
    best.write_bytes(bytes(best.stat().st_size))
    settings = best_is_early(tiny_folder, tiny_data, run.folder, resume="on")
    result = train(settings)
    assert result.best_step != state["best_global_step"]
    assert loss_of(result, tiny_data, tmp_path / "x") == pytest.approx(result.validation_loss)


def test_data_that_goes_during_the_run_is_not_missed_at_its_end(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path
):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)

    def remove(step: Step) -> None:
        shutil.rmtree(data, ignore_errors=True)

    result = train(config(tiny_folder, data, tmp_path / "sft"), remove)
    assert (result.out / "README.md").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP")
def test_a_terminal_that_closes_saves_the_run(tiny_folder: Path, tiny_data: Path, tmp_path: Path):
    settings = config(tiny_folder, tiny_data, tmp_path / "sft")
    with pytest.raises(Interrupted, match="step 2 of"):
        train(settings, press_in(2, signal.SIGHUP), lambda: None)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP")
def test_a_run_under_nohup_survives_its_terminal(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path
):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        settings = config(tiny_folder, tiny_data, tmp_path / "sft")
        result = train(settings, press_in(2, signal.SIGHUP), lambda: None)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert result.steps > 2
