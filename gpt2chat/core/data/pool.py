"""Jobs over several processes, their results in order, whatever the number of processes."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from typing import TypeVar

from gpt2chat.core.errors import HardwareError

J = TypeVar("J")
R = TypeVar("R")

FEW = 16
"""As many jobs or fewer are done here: starting a process takes as long as one or two of them."""
AHEAD = 3
"""Jobs for each process that are read before their turn comes; they bound the memory."""


def ordered(
    jobs: Iterable[J], run: Callable[[J], R], done: Callable[[J], R | None], workers: int
) -> Generator[tuple[J, R]]:
    """Yield each job with its result, in the order of the jobs.

    Args:
        done: Returns the result of a job that an earlier run has finished, else None.
        workers: Processes; 0 for as many as there are cores, where there is enough to do.

    Raises:
        HardwareError: A process was killed, as the system does where memory runs out.
    """
    jobs = iter(jobs)
    first = list(islice(jobs, FEW + 1)) if workers == 0 else []
    jobs = chain(first, jobs)
    number = (os.cpu_count() or 1) if workers == 0 else workers
    if number == 1 or (workers == 0 and len(first) <= FEW):
        for job in jobs:
            result = done(job)
            yield job, run(job) if result is None else result
        return
    with _executor(number) as executor:
        yield from _in_order(jobs, run, done, executor, number * AHEAD)


def _in_order(
    jobs: Iterator[J],
    run: Callable[[J], R],
    done: Callable[[J], R | None],
    executor: ProcessPoolExecutor,
    ahead: int,
) -> Iterator[tuple[J, R]]:
    waiting: deque[tuple[J, Future[R]]] = deque()
    for job in jobs:
        result = done(job)
        waiting.append((job, executor.submit(run, job) if result is None else _finished(result)))
        if len(waiting) > ahead:
            job, future = waiting.popleft()
            yield job, future.result()
    for job, future in waiting:
        yield job, future.result()


def _finished(result: R) -> "Future[R]":
    future: Future[R] = Future()
    future.set_result(result)
    return future


@contextmanager
def _executor(number: int) -> Generator[ProcessPoolExecutor]:
    # Started anew, not forked: a fork copies the locks of threads that it does not copy.
    executor = ProcessPoolExecutor(number, get_context("spawn"), initializer=_begin)
    try:
        yield executor
    except BrokenProcessPool as error:
        raise HardwareError(
            "A worker was ended from outside, as happens where memory runs out. Type the same "
            "command again to go on, with fewer --workers."
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """Prepare a worker: Ctrl-C is its parent's to handle, and it ends when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
