"""Set the number of training threads to the number of cores that other programs leave free."""

import os
import time
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

FIRST_LOOK = 0.3
"""Seconds to watch other programs before the first step. The system counts their time in
hundredths of a second."""
LOOK = 1.0
"""Least seconds between two later looks."""


class SpareCores(TrainerCallback):
    """Sets the number of threads, between two steps, to the number of cores that are free.

    The threads of a matrix product wait for the slowest of them. If one shares its core with
    another program, all the others wait for its turn: next to two busy programs on two cores, two
    threads trained 468 tokens/s and one thread 785 (docs/log.md). With this callback the speed
    falls only by the share of the machine that the other programs use.

    The number of threads decides the order of additions, and so the last bits of a loss. A number
    that the user sets as OMP_NUM_THREADS stays as it is, and results repeat bit for bit.
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
        busy = (others - self._others) / (seconds - self._seconds)
        self._seconds, self._others = seconds, others
        # A container or taskset may allow this process fewer cores than the machine has.
        affinity = hasattr(os, "sched_getaffinity")
        cores = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
        torch.set_num_threads(max(1, min(self.most, round(cores - busy))))


def _usage() -> tuple[float, float]:
    """Return the time, and the processor time of other programs on our cores, both in seconds."""
    cores = psutil.cpu_times(percpu=True)
    if hasattr(os, "sched_getaffinity"):
        allowed = [cores[number] for number in os.sched_getaffinity(0) if number < len(cores)]
        cores = allowed or cores
    # "steal" is time that a virtual machine's host gives to other machines. Not all systems have
    # all of these kinds.
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")
    busy = sum(getattr(core, kind, 0.0) for core in cores for kind in kinds)
    return time.perf_counter(), busy - time.process_time()
