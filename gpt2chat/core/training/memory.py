"""What memory a training step takes, and whether it is there."""

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
"""Bytes that a layer keeps for its backward pass, by token and unit of width: in bf16 autocast, and
in float32. Measured on a CPU (docs/log.md); compiled on a GPU it is less."""
SURE = 0.75
"""Share of the estimate that a run needs for certain."""
LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Files of a control group, version 2 and 1: its limit, what is taken, and the name of what the
system gives back of that."""


def available_memory(device: torch.device) -> int:
    """Return the bytes that a run may take: of the GPU, or what machine and container have free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = int(psutil.virtual_memory().available)
    limit = group_memory(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    return free if limit is None else min(free, limit)


def group_memory(root: Path, groups: Path) -> int | None:
    """Return the bytes that Linux lets this process's control groups take yet; None for no limit.

    A container has such a limit, of which the machine's own figures say nothing.

    Args:
        root: Where the groups are mounted.
        groups: Names those of the process.
    """
    free = [_free_in(folder) for folder in _groups(root, groups)]
    return min((bytes_ for bytes_ in free if bytes_ is not None), default=None)


def _groups(root: Path, groups: Path) -> Iterator[Path]:
    """Yield the folders of the process's groups, and of those that these are in."""
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
        except (OSError, ValueError):  # no such file, or the word "max"
            continue
        return max(0, most - now + sum(int(line[1]) for line in lines if line[0] == given_back))
    return None


@contextmanager
def model_fits() -> Generator[None]:
    """Say in one line that there is no room for the model itself, before any step.

    Raises:
        HardwareError: There is none.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise HardwareError(
            "The device has not the memory for the model. Give a smaller --model, --lora-r 16, or "
            "end what else takes its memory."
        ) from error


def peak_memory(device: torch.device) -> int:
    """Return the bytes taken at the highest so far: on a CPU by the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def trainable(job: Job) -> int:
    """Return the number of weights that are trained."""
    return sum(weight.numel() for weight in job.model.parameters() if weight.requires_grad)


def needed_memory(job: Job) -> int:
    """Return an estimate of the bytes that steps on the largest row take beside the loaded model,
    by all processes that share the memory.

    gradients and AdamW's two moments, in float32   12 · trained weights (a GPU: + 4 · all)
    what the layers keep                            tokens · layers · width · SAVED
    the logits, and their gradient in their place   trained tokens · vocab · bytes
    """
    config = job.model.config
    layers = _row_tokens(job) * config.n_layer * config.n_embd * SAVED[job.autocast]
    logits = max(job.trained_tokens()) * config.vocab_size * (2 if job.autocast else 4)
    return _sharing(job) * (_fixed(job) + layers + logits)


def _fixed(job: Job) -> int:
    """Return the bytes of one process that hang on no row."""
    weights = sum(weight.numel() for weight in job.model.parameters())
    return 12 * trainable(job) + 4 * weights * (job.device.type == "cuda")


def _row_tokens(job: Job) -> int:
    return max(int(job.tokens.sizes[list(row)].sum()) for row in job.rows)


def _sharing(job: Job) -> int:
    """Return how many processes of the run share the memory: on a CPU all on the machine."""
    return 1 if job.device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def check_fits(job: Job, available: int, share: float = 1.0) -> None:
    """Refuse a job that a CPU has not the memory for: the system would kill it without a word.

    Args:
        available: Bytes that there are.
        share: Of the estimate, that has to be there.

    Raises:
        HardwareError: It does not fit, and which flag to change.
    """
    needed = needed_memory(job)
    if job.device.type != "cuda" and share * needed > available:
        raise too_large(job, available, needed)


def too_large(job: Job, available: int, needed: int) -> HardwareError:
    """Return the error that names the flag by which a job comes to fit."""
    fixed, tokens = _sharing(job) * _fixed(job), _row_tokens(job)
    fitting = int(0.9 * (available - fixed) / max(needed - fixed, 1) * tokens) // 256 * 256
    longest = max(int(job.tokens.longest[list(row)].max(initial=0)) for row in job.rows)
    if fitting >= job.tokens.sides * longest:
        mend = f"{_rows_of(fitting, job)} (and a higher --grad-accum)"
    elif not job.settings.lora_r and fixed > available / 2:
        mend = "--lora-r 16, or a smaller --model"
    else:
        mend = "a lower --max-length, or a smaller --model"
    return HardwareError(
        f"A step on {tokens:,} tokens needs about {needed / 2**30:.1f} GiB, and "
        f"{available / 2**30:.1f} are free. Give {mend}."
    )


def _rows_of(tokens: int, job: Job) -> str:
    """Return the flags for rows of so many tokens; a row has to hold an item of --max-length."""
    length = tokens // job.tokens.sides
    lower = f" --max-length {length}" * (length < job.settings.max_length)
    return f"--batch-tokens {tokens}{lower}"
