"""Estimate the memory of a training step, and refuse a run that does not have it."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from gpt2chat.core.errors import HardwareError
from gpt2chat.core.training.groups import GROUPS, ROOT, control_groups
from gpt2chat.core.training.job import Job

ACTIVATION_BYTES = {True: 75, False: 115}
"""Bytes that a layer saves for its backward pass, per token and unit of width: True in bf16
autocast, False in float32. Measured on a CPU (docs/log.md)."""
GPU_ACTIVATION_BYTES = 45
"""The same on a GPU in bf16, where varlen attention saves no weights. Counted on tensors without
values (docs/log.md), not measured."""
CERTAIN_FAILURE = 0.75
"""Share of the estimate below which a run certainly fails. Only that is refused: an estimate that
is a little too high must not stop a run that would fit."""
GROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Files of a control group, version 2 and 1: its limit and its usage; and the entry of memory.stat
with the part of the usage that the system frees on demand."""


def available_memory(device: torch.device) -> int:
    """Return the free memory in bytes: the GPU's, or what the machine and its container allow."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = int(psutil.virtual_memory().available)
    limit = group_memory(ROOT, GROUPS)
    return free if limit is None else min(free, limit)


def group_memory(root: Path, groups: Path) -> int | None:
    """Return how many bytes the control groups of this process may still use; None without a limit.

    A container has such a limit, which the machine's own figures do not show.

    Args:
        root, groups: ROOT and GROUPS, except in tests.
    """
    free: list[int] = []
    for group in control_groups("memory", root, groups):
        for limit, usage, reclaimable in GROUP_FILES:
            try:
                most, used = (int((group / file).read_text()) for file in (limit, usage))
                stat = map(str.split, (group / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # no such file, or the limit is the word "max"
                continue
            cache = sum(int(entry[1]) for entry in stat if entry[0] == reclaimable)
            free.append(max(0, most - used + cache))
            break
    return min(free, default=None)


@contextmanager
def model_fits() -> Generator[None]:
    """Turn a lack of memory for the model itself into an error that says what to change.

    Raises:
        HardwareError: The device has too little memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise HardwareError(
            "Not enough device memory to load the model. Choose a smaller `model`, try "
            "`lora_r=16`, or stop other programs that use the device.",
            setting="model",
        ) from error


def peak_memory(device: torch.device) -> int:
    """Return the peak memory so far in bytes; on a CPU that of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    # In KiB on Linux, in bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def trainable(job: Job) -> int:
    """Return the number of trained weights."""
    return sum(weight.numel() for weight in job.model.parameters() if weight.requires_grad)


def needed_memory(job: Job) -> int:
    """Estimate the bytes that a step on the largest sequence adds to those of the loaded model, in
    all processes that share the memory.

    gradients and AdamW's two moments, in float32   12 · trained weights (a GPU: + 4 · all)
    activations saved by the layers                 tokens · layers · width · ACTIVATION_BYTES
                                                (a GPU in bf16: GPU_ACTIVATION_BYTES)
    the logits, overwritten by their gradient       trained tokens · vocab · bytes
    """
    config = job.model.config
    each = ACTIVATION_BYTES[job.autocast]
    if job.autocast and job.device.type == "cuda":
        each = GPU_ACTIVATION_BYTES
    layers = _sequence_tokens(job) * config.n_layer * config.n_embd * each
    logits = max(job.trained_tokens()) * config.vocab_size * (2 if job.autocast else 4)
    return _sharing(job) * (_fixed(job) + layers + logits)


def _fixed(job: Job) -> int:
    """Return the bytes of one process that do not depend on the sequence."""
    weights = sum(weight.numel() for weight in job.model.parameters())
    return 12 * trainable(job) + 4 * weights * (job.device.type == "cuda")


def _sequence_tokens(job: Job) -> int:
    return max(int(job.tokens.sizes[list(sequence)].sum()) for sequence in job.sequences)


def _sharing(job: Job) -> int:
    """Return how many processes share the memory: on a CPU, all of the run on this machine."""
    return 1 if job.device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def check_fits(job: Job, available: int, share: float = 1.0) -> None:
    """Refuse a job that does not fit a CPU's memory: the system would kill it without a message.

    Args:
        available: Free bytes.
        share: Part of the estimate that must be free.

    Raises:
        HardwareError: The job does not fit; the text says which setting to change.
    """
    needed = needed_memory(job)
    if job.device.type != "cuda" and share * needed > available:
        raise too_large(job, available, needed)


def too_large(job: Job, available: int, needed: int) -> HardwareError:
    """Return the error that names the setting to change so that a job fits."""
    fixed, tokens = _sharing(job) * _fixed(job), _sequence_tokens(job)
    # A tenth is left free: the estimate counts the large tensors only.
    fitting = int(0.9 * (available - fixed) / max(needed - fixed, 1) * tokens) // 256 * 256
    longest = max(
        int(job.tokens.longest[list(sequence)].max(initial=0)) for sequence in job.sequences
    )
    if fitting >= job.tokens.sides * longest:
        # A sequence must have room for the longest sample, or for both samples of a pair.
        length = fitting // job.tokens.sides
        lower = f", max_length={length}" * (length < job.settings.max_length)
        setting, change = (
            "batch_tokens",
            f"`batch_tokens={fitting}{lower}` and a higher `grad_accum`",
        )
    elif not job.settings.lora_r and fixed > available / 2:
        setting, change = "lora_r", "`lora_r=16`, or a smaller `model`"
    else:
        setting, change = "max_length", "a lower `max_length`, or a smaller `model`"
    return HardwareError(
        f"A step on {tokens:,} tokens needs about {needed / 2**30:.1f} GiB, and "
        f"{available / 2**30:.1f} GiB are free. Try {change}.",
        setting=setting,
    )
