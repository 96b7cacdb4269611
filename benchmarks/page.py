"""Write the tables of docs/measurements.md, and describe the machine and the commit."""

import os
import platform
import subprocess
from pathlib import Path

import torch

from gpt2chat import __version__

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "measurements.md"
UNBOUNDED: dict[str, str] = dict.fromkeys(
    ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"), "1024"
)
"""PyTorch's own bounds on the kernels it keeps, for other programs: they run as they are."""


def marks(script: str) -> tuple[str, str]:
    """Return the lines that begin and end a script's block."""
    return f"<!-- benchmarks/{script}: begin -->", f"<!-- benchmarks/{script}: end -->"


def page_around(script: str) -> tuple[str, str]:
    """Return the page up to the first mark, and from the second one to the end."""
    begin, end = marks(script)
    before, first, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    _, second, after = rest.partition(end)
    if not (first and second):
        raise SystemExit(f"{PAGE} lacks {begin} and {end}: add them, or give --no-write.")
    return before + first, second + after


def write_block(around: tuple[str, str], text: str) -> None:
    """Put a text between the marks."""
    PAGE.write_text(f"{around[0]}\n{text}\n{around[1]}", encoding="utf-8")


def markdown(rows: list[tuple[str, ...]]) -> str:
    """Return rows as a Markdown table. The first row is its head."""
    head, *body = rows
    lines = [head, ("---",) * len(head), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def commit() -> str:
    """Return the commit of the code, with `-dirty` if files changed; the version without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return __version__


def cpu_name() -> str:
    """Return the processor's name, the number of cores, and PyTorch's number of threads."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
