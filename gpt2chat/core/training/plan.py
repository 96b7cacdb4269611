"""Plan a run: measure real steps on its largest sequences, and write nothing."""

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
from gpt2chat.core.training.job import Job, make_job, sequence_lengths
from gpt2chat.core.training.trainer import PackedTrainer

TIMED_STEPS = 2
"""Timed steps, after one untimed step that warms up and compiles."""


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
    sequences: int
    sequence_tokens: int
    """Tokens in the fullest sequence."""
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
    """Measure what a run would take. It writes only the encoded samples, next to the shards.

    Raises:
        HardwareError: The run does not fit; the error says which setting to change.
        Gpt2ChatError: Any other error that `train` lists for data, model and settings.
    """
    check_inputs(settings)
    job = make_job(settings)
    available = memory.available_memory(job.device)
    memory.check_fits(job, available)
    graphs = compiled_graphs()
    with memory.model_fits():
        peak = matmul_flops(job.device, job.autocast)
    # The trainer wants a folder to write to, and a plan must leave no trace in the run's.
    with tempfile.TemporaryDirectory() as folder:
        trainer, ends = _steps(job, Path(folder), available)
    share = TIMED_STEPS / (1 + TIMED_STEPS) / (ends[-1] - ends[-1 - TIMED_STEPS])
    speed = process_count() * trainer.tokens_seen * share
    trained = job.trained_tokens()
    tokens = [int(lengths.sum()) for lengths, _ in sequence_lengths(job.tokens, job.sequences)]
    return Plan(
        command=settings.command,
        model=settings.model,
        parameters=sum(weight.numel() for weight in job.model.parameters()),
        trainable=memory.trainable(job),
        samples=job.samples,
        left_out=job.left_out,
        epoch_tokens=sum(tokens),
        trained_tokens=sum(trained),
        sequences=len(job.sequences),
        sequence_tokens=max(tokens),
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
        if self.device.type == "cuda":  # which is still at work when Python is done with the step
            torch.cuda.synchronize(self.device)
        self.ends.append(time.perf_counter())


def _steps(job: Job, folder: Path, available: int) -> tuple[PackedTrainer, list[float]]:
    """Train a few steps on the largest sequences, and save nothing."""
    # The largest decide whether the run fits.
    largest = sorted(
        job.sequences, key=lambda sequence: -int(job.tokens.sizes[list(sequence)].sum())
    )
    count = (1 + TIMED_STEPS) * job.settings.grad_accum * process_count()
    trial = replace(
        job, settings=replace(job.settings, out=folder, report_to=()), held_out_sequences=()
    )
    clock = _Clock(job.device)
    with memory.model_fits():
        trainer = trial.trainer([clock], (largest * count)[:count], max_steps=1 + TIMED_STEPS)
    try:
        trainer.train()
    except torch.OutOfMemoryError as error:
        # The step needed more than is free, even if the estimate is lower.
        needed = max(memory.needed_memory(job), 5 * available // 4)
        raise memory.too_large(job, available, needed) from error
    return trainer, clock.ends
