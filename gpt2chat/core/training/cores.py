"""Train with as many threads as other programs leave cores for."""

import os
import time
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

FIRST_LOOK = 0.3
"""Seconds for which other programs are watched before the first step. The system counts their time
in hundredths of a second."""
LOOK = 1.0
"""Seconds at least between two looks afterwards."""


class SpareCores(TrainerCallback):
    """Sets the number of threads, between two steps, to the number of cores that are free.

    The threads of a matrix product wait for the slowest of them. If one shares its core with
    another program, all the others wait for its turn: next to two busy programs on two cores two
    threads trained 468 tokens/s and one thread 785 (docs/log.md). So the speed falls with the share
    of the machine that is left, and no further.

    The number of threads decides the order of additions, and so the last bits of a loss. A number
    that the user sets as OMP_NUM_THREADS is left as it is, and results repeat bit for bit.
    """

    def __init__(self) -> None:
        self.most = torch.get_num_threads()
        self._seconds, self._others = _usage()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        if self._adapts():
            time.sleep(FIRST_LOOK)
            self._look()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if self._adapts() and time.perf_counter() - self._seconds >= LOOK:
            self._look()

    def _adapts(self) -> bool:
        return self.most > 1 and "OMP_NUM_THREADS" not in os.environ

    def _look(self) -> None:
        seconds, others = _usage()
        taken = (others - self._others) / (seconds - self._seconds)
        self._seconds, self._others = seconds, others
        torch.set_num_threads(spare_threads(self.most, taken))


def spare_threads(most: int, taken: float) -> int:
    """Return the number of threads to use.

    Args:
        most: Threads to use on a machine of our own.
        taken: Cores that other programs keep busy.
    """
    return max(1, min(most, round(_cores() - taken)))


def _cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _usage() -> tuple[float, float]:
    """Return the time, and the processor time of other programs on our cores, both in seconds."""
    cores = psutil.cpu_times(percpu=True)
    if hasattr(os, "sched_getaffinity"):
        ours = [cores[number] for number in os.sched_getaffinity(0) if number < len(cores)]
        cores = ours or cores
    # Time that a virtual machine's host spends elsewhere ("steal") is taken from us too. Not all
    # systems have all of these.
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")
    busy = sum(getattr(core, kind, 0.0) for core in cores for kind in kinds)
    return time.perf_counter(), busy - time.process_time()
