"""Run jobs in several processes and yield their results in order.

Each worker has its own pipe and one job at a time, and shares no lock, queue or thread with the
others. So anyone may kill it at any moment: the others are not affected, and its job goes to the
next one. `concurrent.futures` was rejected: after a kill of a starting worker, or a second Ctrl-C,
it made this process wait forever.
"""

import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from gpt2chat.core.errors import Gpt2ChatError, HardwareError

J = TypeVar("J")
R = TypeVar("R")

FEW = 16
"""Most jobs that run in this process: starting a worker takes as long as one or two jobs."""
AHEAD = 3
"""Jobs per worker that are read before a worker is free, which bounds the memory."""
TRIES = 2
"""Workers that may die of one job, or while they start, before the run gives up."""


def ordered(
    jobs: Iterable[J], run: Callable[[J], R], done: Callable[[J], R | None], workers: int
) -> Generator[tuple[J, R]]:
    """Yield each job with its result, in the order of the jobs.

    Args:
        done: Returns the result of a job that an earlier run finished, else None.
        workers: Number of processes; 0 for one per core, if there are enough jobs.

    Raises:
        HardwareError: Workers are killed repeatedly, as by the system when memory runs out.
    """
    jobs = iter(jobs)
    first = list(islice(jobs, FEW + 1)) if workers == 0 else []
    jobs = chain(first, jobs)
    number = (os.cpu_count() or 1) if workers == 0 else workers
    few = workers == 0 and len(first) <= FEW
    if number > 1 and not few and os.name == "posix":
        pool = _Pool[J, R](run, number)
        try:
            if pool.start():
                yield from pool.results(jobs, done)
                return
        finally:
            pool.kill()
    # Also if the system does not allow another process. The results are the same.
    for job in jobs:
        result = done(job)
        yield job, run(job) if result is None else result


class _Task(Generic[J, R]):
    def __init__(self, job: J, result: R | None):
        self.job = job
        self.result = result
        self.error: Exception | None = None
        self.workers_lost = 0

    @property
    def is_done(self) -> bool:
        return self.result is not None or self.error is not None


class _Worker(Generic[J, R]):
    def __init__(self, run: Callable[[J], R]):
        ours, theirs = socket.socketpair()
        self.pipe = Connection(ours.detach())
        self.task: _Task[J, R] | None = None
        self.ready = False
        # Not multiprocessing: its workers run the user's script again, unless the script guards
        # against that, and it needs one more process to track semaphores. The worker has its own
        # process group, because Ctrl-C goes to the whole group of the terminal.
        command = [sys.executable, "-c", _WORKER, str(theirs.fileno()), json.dumps(sys.path)]
        with theirs:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], process_group=0
            )
        with suppress(OSError):  # It was killed, which its pipe reports later.
            self.pipe.send(run)


_WORKER = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from gpt2chat.core.data.pool import serve
serve(int(sys.argv[1]))
"""


class _Pool(Generic[J, R]):
    def __init__(self, run: Callable[[J], R], number: int):
        self._run = run
        self._number = number
        self._workers: list[_Worker[J, R]] = []
        self._failed_starts = 0

    def start(self) -> bool:
        """Start the missing workers, and return whether there is at least one."""
        with suppress(OSError):  # The user's limit on processes, or too little memory.
            while len(self._workers) < self._number:
                self._workers.append(_Worker(self._run))
        return bool(self._workers)

    def kill(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
            worker.pipe.close()

    def results(self, jobs: Iterable[J], done: Callable[[J], R | None]) -> Generator[tuple[J, R]]:
        jobs = iter(jobs)
        tasks: deque[_Task[J, R]] = deque()  # In order, the next result first.
        todo: deque[_Task[J, R]] = deque()  # Those of them that no worker has.
        more = True
        while True:
            for worker in self._workers:
                if todo and worker.ready and worker.task is None:
                    worker.task = todo.popleft()
                    with suppress(OSError):  # It was killed, which its pipe reports below.
                        worker.pipe.send(worker.task.job)
            read_ahead = more and len(tasks) < self._number * (AHEAD + 1)
            self._collect(todo, block=not read_ahead and bool(tasks) and not tasks[0].is_done)
            if tasks and tasks[0].is_done:
                task = tasks.popleft()
                if task.error is not None:
                    raise task.error
                if task.result is not None:
                    yield task.job, task.result
            elif read_ahead:
                more = False
                for job in islice(jobs, 1):
                    more = True
                    tasks.append(_Task(job, done(job)))
                    if not tasks[-1].is_done:
                        todo.append(tasks[-1])
            elif not tasks:
                return

    def _collect(self, todo: deque[_Task[J, R]], *, block: bool) -> None:
        """Receive the results of the workers, and replace workers that were killed."""
        ready = wait([worker.pipe for worker in self._workers], None if block else 0)
        lost: list[_Worker[J, R]] = []
        for worker in self._workers:
            if worker.pipe not in ready:
                continue
            try:
                answer: Any = worker.pipe.recv()
            except (EOFError, OSError):
                lost.append(worker)
                continue
            if worker.task is None:
                worker.ready = True
            else:
                worker.task.result, worker.task.error = answer
                worker.task = None
        for worker in lost:
            self._workers.remove(worker)
            worker.process.wait()
            worker.pipe.close()
            if worker.task is None:
                self._failed_starts += 1
            else:
                worker.task.workers_lost += 1
                todo.appendleft(worker.task)
            tries = worker.task.workers_lost if worker.task else self._failed_starts
            if tries >= TRIES or not self.start():
                raise HardwareError(
                    "Worker processes were killed, probably because memory ran out. Run the same "
                    "again with fewer `workers` to resume.",
                    setting="workers",
                )


def serve(descriptor: int) -> None:
    """Do the jobs that come through a pipe, until the parent closes it or ends in any way."""
    pipe = Connection(descriptor)
    jobs: SimpleQueue[Any] = SimpleQueue()

    def receive() -> None:
        try:
            while True:
                jobs.put(pipe.recv())
        except (EOFError, OSError, MemoryError):
            pass
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(1)  # Even in the middle of a job.

    threading.Thread(target=receive, daemon=True).start()
    run = jobs.get()
    pipe.send(None)
    while True:
        job = jobs.get()
        try:
            answer = (run(job), None)
        except Exception as error:
            if not isinstance(error, Gpt2ChatError):  # A bug keeps its traceback.
                error.add_note("".join(traceback.format_exception(error)).rstrip())
            answer = (None, error)
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:
                text = "".join(traceback.format_exception(error)).rstrip()
                answer = (None, RuntimeError(text))
        pipe.send(answer)
