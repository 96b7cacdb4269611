"""Plan a run: measure real steps on its largest rows, and write nothing."""

import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from gpt2chat.core.config.training import TrainConfig
from gpt2chat.core.model.compiling import compiled_graphs
from gpt2chat.core.model.device import device_name
from gpt2chat.core.model.flops import matmul_flops
from gpt2chat.core.training import memory
from gpt2chat.core.training.arguments import process_count
from gpt2chat.core.training.checks import check_inputs
from gpt2chat.core.training.job import Job, make_job, row_lengths
from gpt2chat.core.training.trainer import PackedTrainer

TIMED = 2
"""Timed steps. They follow one that is not timed: it warms up, and compiles."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would take."""

    command: str
    model: str
    parameters: int
    trainable: int
    """Parameters that are trained; fewer than `parameters` with LoRA."""
    samples: int
    """Training samples (pairs, for ORPO)."""
    left_out: int
    """Samples (pairs) dropped because they are longer than `max_length`."""
    epoch_tokens: int
    """Tokens in an epoch, prompts included."""
    trained_tokens: int
    """Tokens in an epoch that the loss covers."""
    rows: int
    row_tokens: int
    """Tokens in the fullest row."""
    steps: int
    """Optimizer steps of the whole run."""
    seconds: float
    """Time of the whole run at the pace of two steps, without warm-up and validations."""
    warm_up: float
    """Seconds of the first step, compiling included."""
    tokens_per_second: float
    """Tokens of all processes, prompts included."""
    utilisation: float
    """Operations a second as a share of what one large matrix product reaches."""
    memory: int
    """Peak memory in bytes: PyTorch's on a GPU, the whole process's on a CPU."""
    available: int
    """Memory in bytes that was free before the run."""
    device: str
    processes: int
    graphs: int
    """Number of compiled graphs."""


def plan(settings: TrainConfig) -> Plan:
    """Return what a run would take. Only the encoded samples are kept, next to the shards.

    Raises:
        As `train`; HardwareError says which setting to change if the run does not fit.
    """
    check_inputs(settings)
    job = make_job(settings)
    available = memory.available_memory(job.device)
    memory.check_fits(job, available)
    graphs = compiled_graphs()
    with memory.model_fits():
        peak = matmul_flops(job.device, job.autocast)
    with tempfile.TemporaryDirectory() as folder:
        trainer, ends = _steps(job, Path(folder), available)
    share = TIMED / (1 + TIMED) / (ends[-1] - ends[-1 - TIMED])
    speed = process_count() * trainer.tokens_seen * share
    trained = job.trained_tokens()
    tokens = [int(lengths.sum()) for lengths, _ in row_lengths(job.tokens, job.rows)]
    return Plan(
        command=settings.command,
        model=settings.model,
        parameters=sum(weight.numel() for weight in job.model.parameters()),
        trainable=memory.trainable(job),
        samples=job.samples,
        left_out=job.left_out,
        epoch_tokens=sum(tokens),
        trained_tokens=sum(trained),
        rows=len(job.rows),
        row_tokens=max(tokens),
        steps=math.ceil(settings.epochs * job.steps_per_epoch),
        seconds=settings.epochs * sum(tokens) / speed,
        warm_up=ends[1] - ends[0],
        tokens_per_second=speed,
        utilisation=trainer.flops_seen * share / peak,
        memory=memory.peak_memory(job.device),
        available=available,
        device=device_name(job.device),
        processes=process_count(),
        graphs=compiled_graphs() - graphs,
    )


class _Clock(TrainerCallback):
    """Notes when the first step began and when each step ended."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.ends.append(time.perf_counter())


def _steps(job: Job, folder: Path, available: int) -> tuple[PackedTrainer, list[float]]:
    """Train a few steps on the largest rows, and save nothing."""
    largest = sorted(job.rows, key=lambda row: -int(job.tokens.sizes[list(row)].sum()))
    count = (1 + TIMED) * job.settings.grad_accum * process_count()
    aside = replace(job, settings=replace(job.settings, out=folder, report_to=()), held_rows=())
    clock = _Clock(job.device)
    with memory.model_fits():
        trainer = aside.trainer([clock], (largest * count)[:count], max_steps=1 + TIMED)
    try:
        trainer.train()
    except torch.OutOfMemoryError as error:
        # The step needed more than there is, even if the estimate says less.
        needed = max(memory.needed_memory(job), 5 * available // 4)
        raise memory.too_large(job, available, needed) from error
    return trainer, clock.ends
