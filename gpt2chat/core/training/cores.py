"""Set the number of training threads to the number of cores that other programs leave free."""

import math
import os
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from gpt2chat.core.training.groups import GROUPS, ROOT, control_groups

FIRST_LOOK = 0.3
"""Seconds to watch other programs before the first step. The system counts their time in
hundredths of a second."""
LOOK = 1.0
"""Least seconds between two later looks."""
QUIET = 0.25
"""Share of a core that other programs may use when a thread is added for it. One is taken away at
0.5: between the two the number stays, or it would change with every look."""


class SpareCores(TrainerCallback):
    """Sets the number of threads, between two steps, to the number of cores that are free.

    The threads of a matrix product wait for the slowest of them. If one shares its core with
    another program, all the others wait for its turn: next to two busy programs on two cores, two
    threads trained 468 tokens/s and one thread 785 (docs/log.md). With this callback the speed
    falls only by the share of the machine that the other programs use. Each process of a run
    decides for itself, and counts the others as other programs.

    The number of threads decides the order of additions, and so the last bits of a loss. A number
    that the user sets as OMP_NUM_THREADS stays as it is, and results repeat bit for bit. The number
    also stays where the system does not report processor time.
    """

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        # With more threads than its control group allows cores, all of them use up the group's
        # share of a period early, and stand still until the next.
        limit = core_limit(ROOT, GROUPS)
        self.most = threads if limit is None else max(1, min(threads, math.ceil(limit)))
        fixed = threads == 1 or "OMP_NUM_THREADS" in os.environ
        self._usage = None if fixed else _usage()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        if self._usage is not None:
            torch.set_num_threads(self.most)
            time.sleep(FIRST_LOOK)
            self._look(self._usage)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if self._usage is not None and time.perf_counter() - self._usage[0] >= LOOK:
            self._look(self._usage)

    def _look(self, before: tuple[float, float]) -> None:
        self._usage = now = _usage()
        if now is not None:
            # A container or taskset may allow this process fewer cores than the machine has.
            affinity = hasattr(os, "sched_getaffinity")
            cores = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
            free = cores - (now[1] - before[1]) / (now[0] - before[0])
            torch.set_num_threads(spare_threads(torch.get_num_threads(), self.most, free))


def spare_threads(threads: int, most: int, free: float) -> int:
    """Return the number of threads to use.

    Args:
        threads: Threads in use.
        most: Threads to use on a machine of our own.
        free: Cores that other programs leave.
    """
    fewer, more = round(free), math.floor(free + QUIET)
    return max(1, min(most, max(more, min(fewer, threads))))


def core_limit(root: Path, groups: Path) -> float | None:
    """Return how many cores the process's control groups allow; None without a limit.

    Args:
        root, groups: ROOT and GROUPS, except in tests.
    """
    limits: list[float] = []
    for group in control_groups("cpu", root, groups):
        for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):  # versions 2 and 1
            try:
                words = " ".join((group / file).read_text() for file in files).split()
                limits.append(int(words[0]) / int(words[1]))
            except (OSError, ValueError):  # no such file, or the limit is the word "max"
                continue
    return min((limit for limit in limits if limit > 0), default=None)


def _usage() -> tuple[float, float] | None:
    """Return the time, and the processor time of other programs on our cores, both in seconds; None
    where the system does not report it."""
    try:
        cores = psutil.cpu_times(percpu=True)
    except (OSError, psutil.Error, NotImplementedError):  # such as /proc that is not mounted
        return None
    if hasattr(os, "sched_getaffinity"):
        allowed = [cores[number] for number in os.sched_getaffinity(0) if number < len(cores)]
        cores = allowed or cores
    # "steal" is time that a virtual machine's host gives to other machines. Not all systems have
    # all of these kinds.
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")
    busy = sum(getattr(core, kind, 0.0) for core in cores for kind in kinds)
    # process_time counts all threads of this process.
    return time.perf_counter(), busy - time.process_time()
