"""Run all ways in turn, round by round, and measure the load of other programs."""

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil

from decoding.tasks import Task, Timing
from decoding.ways import WAYS
from decoding.workers import Worker

TRIES = 8
"""Most tries of a run that other programs disturb."""
PATIENCE = 60.0
"""Most seconds to wait before a try for other programs to end."""


@dataclass
class Found:
    """The measurements."""

    timings: dict[tuple[str, Task], list[Timing]] = field(
        default_factory=dict[tuple[str, Task], list[Timing]]
    )
    failures: dict[tuple[str, Task], str] = field(default_factory=dict[tuple[str, Task], str])
    others: list[float] = field(default_factory=list[float])
    """Cores that other programs used during each run that counts."""

    def values(self, way: str, task: Task, figure: Callable[[Task, Timing], float]) -> list[float]:
        """Return a figure of each run of a task."""
        return [figure(task, timing) for timing in self.timings.get((way, task), [])]


def measure_all(
    workers: dict[str, Worker], tasks: Sequence[Task], repeats: int, quiet: float
) -> Found:
    """Time every task on every way, in `repeats` rounds after one for warm-up.

    What has failed is not tried again.

    Args:
        quiet: Cores that other work may take during a run, else it is done again; 0 for no limit.
    """
    found = Found()
    watch = Watch(workers)
    for turn, task in itertools.product(range(repeats + 1), tasks):
        for way, worker in workers.items():
            if (way, task) in found.failures:
                continue
            run = watch.measure(worker, task, turn, quiet if turn else 0)
            if isinstance(run, str):
                found.failures[way, task] = run
                say(f"{task}, {WAYS[way].title}: {run}")
            elif turn:
                found.timings.setdefault((way, task), []).append(run[0])
                found.others.append(run[1])
                said = f"{run[0].first:.3f} s, {run[0].last:.3f} s, {run[1]:.2f} cores elsewhere"
                say(f"{turn} of {repeats}, {task}, {WAYS[way].title}: {said}")
    return found


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Watch:
    """Runs tasks, and measures how many cores other programs use."""

    def __init__(self, workers: dict[str, Worker]):
        self.workers = workers

    def measure(
        self, worker: Worker, task: Task, turn: int, quiet: float
    ) -> tuple[Timing, float] | str:
        """Return a run's times and the cores that other programs used, or the reason of a failure.

        Where all tries were disturbed, the least disturbed one counts.
        """
        best: tuple[Timing, float] | None = None
        for attempt in range(TRIES if quiet else 1):
            if quiet:
                self.wait(quiet)
            before, begun = self.other_seconds(), time.perf_counter()
            timing = worker.measure(task, seed=turn * TRIES + attempt)
            if isinstance(timing, str):
                return timing
            cores = (self.other_seconds() - before) / (time.perf_counter() - begun)
            if best is None or cores < best[1]:
                best = timing, max(cores, 0.0)
            if cores <= quiet:
                break
        assert best is not None
        return best

    def wait(self, quiet: float) -> None:
        """Wait until other programs use few cores."""
        end = time.perf_counter() + PATIENCE
        while time.perf_counter() < end:
            before, begun = self.other_seconds(), time.perf_counter()
            time.sleep(0.5)
            if (self.other_seconds() - before) / (time.perf_counter() - begun) <= quiet:
                return

    def other_seconds(self) -> float:
        """Return the CPU seconds that other programs have used."""
        times = psutil.cpu_times()
        # A guest's seconds are among the user's too.
        left_out = ("idle", "iowait", "guest", "guest_nice")
        busy = sum(times) - sum(getattr(times, name, 0.0) for name in left_out)
        own = psutil.Process().cpu_times()
        ours = sum(worker.cpu_seconds() for worker in self.workers.values())
        return busy - own.user - own.system - ours
