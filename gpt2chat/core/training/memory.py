"""Estimate the memory of a training step, and refuse a run that does not have it."""

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from gpt2chat.core.errors import HardwareError
from gpt2chat.core.training.job import Job

SAVED = {True: 75, False: 115}
"""Bytes that a layer saves for its backward pass, per token and unit of width: in bf16 autocast,
and in float32. Measured on a CPU (docs/log.md); a compiled model on a GPU saves less."""
SURE = 0.75
"""Share of the estimate below which a run certainly fails."""
LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Files of a control group, version 2 and 1: its limit and its usage; and the entry of memory.stat
with the part of the usage that the system frees on demand."""


def available_memory(device: torch.device) -> int:
    """Return the free bytes of the GPU, or those that the machine and its container have free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = int(psutil.virtual_memory().available)
    limit = group_memory(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    return free if limit is None else min(free, limit)


def group_memory(root: Path, groups: Path) -> int | None:
    """Return the bytes that this process's control groups may still take; None without a limit.

    A container has such a limit, and the machine's own figures do not show it.

    Args:
        root: Folder that the groups are mounted in.
        groups: File that names the groups of the process.
    """
    free = [_free_in(folder) for folder in _groups(root, groups)]
    return min((bytes_ for bytes_ in free if bytes_ is not None), default=None)


def _groups(root: Path, groups: Path) -> Iterator[Path]:
    """Yield the folders of the process's groups, and of the groups around them."""
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        folder = top / name.lstrip("/")
        yield from (group for group in (folder, *folder.parents) if group.is_relative_to(top))


def _free_in(group: Path) -> int | None:
    for limit, taken, given_back in LIMITS:
        try:
            most, now = (int((group / file).read_text()) for file in (limit, taken))
            lines = map(str.split, (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such file, or the limit is the word "max"
            continue
        return max(0, most - now + sum(int(line[1]) for line in lines if line[0] == given_back))
    return None


@contextmanager
def model_fits() -> Generator[None]:
    """Turn running out of memory for the model itself into one line.

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

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def trainable(job: Job) -> int:
    """Return the number of trained weights."""
    return sum(weight.numel() for weight in job.model.parameters() if weight.requires_grad)


def needed_memory(job: Job) -> int:
    """Return an estimate of the bytes that steps on the largest row take in addition to the loaded
    model, in all processes that share the memory.

    gradients and AdamW's two moments, in float32   12 · trained weights (a GPU: + 4 · all)
    activations saved by the layers                 tokens · layers · width · SAVED
    the logits, overwritten by their gradient       trained tokens · vocab · bytes
    """
    config = job.model.config
    layers = _row_tokens(job) * config.n_layer * config.n_embd * SAVED[job.autocast]
    logits = max(job.trained_tokens()) * config.vocab_size * (2 if job.autocast else 4)
    return _sharing(job) * (_fixed(job) + layers + logits)


def _fixed(job: Job) -> int:
    """Return the bytes of one process that do not depend on the row."""
    weights = sum(weight.numel() for weight in job.model.parameters())
    return 12 * trainable(job) + 4 * weights * (job.device.type == "cuda")


def _row_tokens(job: Job) -> int:
    return max(int(job.tokens.sizes[list(row)].sum()) for row in job.rows)


def _sharing(job: Job) -> int:
    """Return how many processes of the run share the memory: on a CPU all those of the machine."""
    return 1 if job.device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def check_fits(job: Job, available: int, share: float = 1.0) -> None:
    """Refuse a job that does not fit the memory of a CPU: the system would kill it without a word.

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
    fixed, tokens = _sharing(job) * _fixed(job), _row_tokens(job)
    fitting = int(0.9 * (available - fixed) / max(needed - fixed, 1) * tokens) // 256 * 256
    longest = max(int(job.tokens.longest[list(row)].max(initial=0)) for row in job.rows)
    if fitting >= job.tokens.sides * longest:
        # A row must have room for the longest sample that is allowed, or for both of a pair.
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
