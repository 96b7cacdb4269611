"""Several processes by torchrun, on gloo: one run's losses, one writer, and a worker that dies."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gpt2chat.core.config.training import OrpoConfig, SftConfig
from gpt2chat.core.errors import ConfigError
from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.core.runs import Run
from gpt2chat.core.training.job import make_job
from gpt2chat.core.training.tokenized import load_tokenized
from gpt2chat.core.training.train import train
from tests.helpers import tiny_model

pytestmark = pytest.mark.slow

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PATIENCE = 600
"""Seconds until a run counts as hanging; each imports torch three times on a busy machine."""
FLAGS = "--lr 1e-2 --batch-size 6 --evals 2 --precision fp32 --device cpu".split()  # noqa: SIM905


def start(command: str, *arguments: str, program: str = "gpt2chat") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, "-m", program, command, *FLAGS, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def losses(run: Path) -> list[float]:
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return [line.get("loss", line.get("eval_loss")) for line in lines]


# One objective for each way to share a run: neither knows of the other.
@pytest.mark.parametrize(("command", "program"), [("sft", "tests.sharded"), ("orpo", "gpt2chat")])
def test_two_processes_train_as_one_that_accumulates_two_rows(
    command: str, program: str, tiny_folder: Path, tiny_data: Path, tmp_path: Path
):
    values: dict[str, Any] = {
        "model": str(tiny_folder), "data": tiny_data, "out": tmp_path / "one", "epochs": 2,
        "lr": 1e-2, "batch_size": 6, "evals": 2, "precision": "fp32", "device": "cpu",
        "grad_accum": 2,
    }  # fmt: skip
    settings = SftConfig(**values) if command == "sft" else OrpoConfig(**values)
    one = train(settings)
    two = tmp_path / "two"
    process = start(command, "--model", str(tiny_folder), "--data", str(tiny_data),
                    "--out", str(two), "--epochs", "2", "--json", program=program)  # fmt: skip
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    result = json.loads(out)
    assert (result["processes"], result["steps"]) == (2, one.steps)
    assert result["tokens"] == one.tokens
    assert err.count("run folder:") == 1
    assert losses(two) == pytest.approx(losses(one.out), rel=1e-4)
    ours, theirs = (load_file(run / "model.safetensors") for run in (two, one.out))
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("program", ["gpt2chat", "tests.sharded"])
def test_a_bad_sample_is_named_whichever_process_has_it(
    program: str, tiny_data: Path, tmp_path: Path
):
    tokens = load_tokenized(tiny_data, "train", "reply")
    position = int(tokens.lengths.max()) - 2
    longest = {tokens.names[at] for at, size in enumerate(tokens.lengths) if size > position}
    assert len(longest) < len(tokens) / 3
    model = tiny_model()
    with torch.no_grad():
        # Finite, so that the model loads; the distance from their mean is not.
        model.transformer.wpe.weight[position] = -3.4e38
        model.transformer.wpe.weight[position, 0] = 3.4e38
    save_model(model, tmp_path / "poisoned")
    run = tmp_path / "sft"
    process = start("sft", "--model", str(tmp_path / "poisoned"), "--data", str(tiny_data),
                    "--out", str(run), "--batch-size", "2", "--eval-samples", "0",
                    program=program)  # fmt: skip
    _, err = process.communicate(timeout=PATIENCE)
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert re.search(r"The loss is nan at step \d+; the weights are as they were", error)
    named = set(error.partition("Samples: ")[2].rstrip(".").split(", "))
    assert named & longest
    # FSDP's processes cannot run a sample by themselves: the row's others are named too.
    assert named <= longest or program == "tests.sharded"


@pytest.mark.parametrize("changes", [{"lora_r": 4}, {"compile": "on"}])
def test_what_does_not_go_with_fsdp_is_refused(
    changes: dict[str, Any], tiny_folder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    settings = SftConfig(model=str(tiny_folder), data=tiny_data, device="cpu", **changes)
    with pytest.raises(ConfigError) as caught:
        make_job(settings)
    assert caught.value.setting == next(iter(changes))


def workers(launcher: int) -> list[int]:
    """Return the processes that torchrun has started, the first first."""
    found: list[int] = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == launcher:
            found.append(int(status.parent.name))
    return sorted(found)


def wait_for_checkpoint(run: Path, process: subprocess.Popen[str]) -> None:
    while Run(run).newest_checkpoint() is None:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_worker_that_dies_ends_the_run_in_one_line_and_the_checkpoint_is_good(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path
):
    run = tmp_path / "sft"
    flags = ("--model", str(tiny_folder), "--data", str(tiny_data), "--out", str(run))
    process = start("sft", *flags, "--epochs", "400", "--save-minutes", "0.001")
    wait_for_checkpoint(run, process)
    # The first one, which otherwise is the only one that prints: the other must speak for it.
    os.kill(workers(process.pid)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, err
    assert re.search(r"Another process of this run ended\..*--resume auto", errors[0])
    checkpoint = Run(run).newest_checkpoint()
    assert checkpoint is not None
    assert load_file(checkpoint / "model.safetensors")


def test_one_signal_to_each_process_stops_all_of_them_after_the_same_step(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path
):
    run = tmp_path / "sft"
    flags = ("--model", str(tiny_folder), "--data", str(tiny_data), "--out", str(run))
    process = start("sft", *flags, "--epochs", "400", "--save-minutes", "0.001")
    wait_for_checkpoint(run, process)
    # As of a terminal, and once more by the launcher.
    process.send_signal(signal.SIGINT)
    for worker in workers(process.pid):
        with contextlib.suppress(ProcessLookupError):  # it has stopped already
            os.kill(worker, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    (stopped,) = re.findall(
        r"^Stopped and saved at step (\d+) of \d+. Resume with: torchrun --nproc-per-node 2 "
        rf"-m gpt2chat sft --resume auto --out {run}$", err, re.MULTILINE,
    )  # fmt: skip
    checkpoint = Run(run).newest_checkpoint()
    assert checkpoint is not None
    assert checkpoint.name == f"checkpoint-{stopped}"
    settings = SftConfig(model=str(tiny_folder), data=tiny_data, out=run, resume="on", device="cpu")
    with pytest.raises(ConfigError, match="2 processes"):
        train(settings)
