"""`--dry-run`: what a run would take, from real steps on its largest rows."""

import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from gpt2chat.core.config.training import OrpoConfig, SftConfig
from gpt2chat.core.model.compiling import compiled_graphs
from gpt2chat.core.model.device import device_name
from gpt2chat.core.model.flops import matmul_flops
from gpt2chat.core.training import memory
from gpt2chat.core.training.arguments import PROCESSES
from gpt2chat.core.training.job import Job, orpo_job, row_lengths, sft_job
from gpt2chat.core.training.trainer import PackedTrainer

TIMED = 2
"""Steps that are timed, after one that is not: it warms up, and compiles."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would take."""

    command: str
    model: str
    parameters: int
    trainable: int
    """Of these; fewer where LoRA is trained."""
    samples: int
    """Samples (pairs, for ORPO)."""
    left_out: int
    """Longer than --max-length."""
    epoch_tokens: int
    """Prompts included."""
    trained_tokens: int
    """Of these: what the loss is taken of."""
    rows: int
    row_tokens: int
    """In the fullest row."""
    steps: int
    """Optimizer steps of the whole run."""
    seconds: float
    """Of the whole run, by the pace of two steps; warm-up and validations not counted."""
    warm_up: float
    """Seconds of the first step, compiling included."""
    tokens_per_second: float
    """Of all processes."""
    utilisation: float
    """Share of the operations a second that one large matrix product reaches."""
    memory: int
    """Bytes at the highest: on a GPU of PyTorch's, on a CPU of the whole process."""
    available: int
    """Bytes that there were to take."""
    device: str
    processes: int
    graphs: int
    """Graphs that were compiled."""


def plan_sft(settings: SftConfig) -> Plan:
    """Return what `sft` would take; nothing is written but the tokens kept beside the shards.

    Raises:
        As `train_sft`; HardwareError says which flag to change where it does not fit.
    """
    return plan(sft_job(settings))


def plan_orpo(settings: OrpoConfig) -> Plan:
    """Return what `orpo` would take.

    Raises:
        As `plan_sft`.
    """
    return plan(orpo_job(settings))


def plan(job: Job) -> Plan:
    """Return what a job would take.

    Raises:
        HardwareError: It does not fit, and which flag to change.
    """
    available = memory.available_memory(job.device)
    memory.check_fits(job, available)
    graphs = compiled_graphs()
    with memory.model_fits():
        peak = matmul_flops(job.device, job.autocast)
    with tempfile.TemporaryDirectory() as folder:
        trainer, ends = _steps(job, Path(folder), available)
    share = TIMED / (1 + TIMED) / (ends[-1] - ends[-1 - TIMED])
    speed = PROCESSES * trainer.tokens_seen * share
    settings, trained = job.settings, job.trained_tokens()
    tokens = [int(lengths.sum()) for lengths, _ in row_lengths(job.tokens, job.rows)]
    return Plan(
        command=job.command,
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
        processes=PROCESSES,
        graphs=compiled_graphs() - graphs,
    )


class _Clock(TrainerCallback):
    """When the steps began and each of them ended."""

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
    """Train some steps on the largest rows, and save nothing."""
    largest = sorted(job.rows, key=lambda row: -int(job.tokens.sizes[list(row)].sum()))
    count = (1 + TIMED) * job.settings.grad_accum * PROCESSES
    aside = replace(job, settings=replace(job.settings, out=folder, report_to=()), held_rows=())
    clock = _Clock(job.device)
    with memory.model_fits():
        trainer = aside.trainer([clock], (largest * count)[:count], max_steps=1 + TIMED)
    try:
        trainer.train()
    except torch.OutOfMemoryError as error:
        # It was more than there is, whatever the estimate says.
        needed = max(memory.needed_memory(job), 5 * available // 4)
        raise memory.too_large(job, available, needed) from error
    return trainer, clock.ends
