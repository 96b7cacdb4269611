"""Run jobs in several processes and yield their results in order.

Each worker has a pipe of its own and one job at a time, and shares no lock, queue or thread with
the others. So it can be killed at any moment, by us or by anyone: the others do not notice, and its
job goes to the next one. With `concurrent.futures` a worker that was killed while it started, or a
second Ctrl-C, left this process waiting for good.
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
"""Up to this many jobs run in this process: starting another costs as much as one or two jobs."""
AHEAD = 3
"""Jobs per process that are read before their turn comes; they bound the memory."""
TRIES = 2
"""Workers that one job, or the start of one worker, may cost before the run gives up."""


def ordered(
    jobs: Iterable[J], run: Callable[[J], R], done: Callable[[J], R | None], workers: int
) -> Generator[tuple[J, R]]:
    """Yield each job with its result, in the order of the jobs.

    Args:
        done: Returns the result of a job that an earlier run has finished, else None.
        workers: Processes; 0 for one per core, if there is enough to do.

    Raises:
        HardwareError: Workers are killed again and again, as the system does when memory runs out.
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
    # Also where the system allows no further process: the result is the same.
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
        # Not by multiprocessing: a worker of that runs the user's script again, unless the script
        # guards against it, and needs a process more that looks after semaphores. In a group of
        # its own, since Ctrl-C goes to all processes of the terminal's.
        command = [sys.executable, "-c", _WORKER, str(theirs.fileno()), json.dumps(sys.path)]
        with theirs:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], process_group=0
            )
        with suppress(OSError):  # it was killed; its pipe says so
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
        """Start the workers that are missing; return whether there is any."""
        with suppress(OSError):  # the user's limit of processes, or no memory for one
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
        tasks: deque[_Task[J, R]] = deque()  # in order, the next result first
        todo: deque[_Task[J, R]] = deque()  # those of them that no worker has
        more = True
        while True:
            for worker in self._workers:
                if todo and worker.ready and worker.task is None:
                    worker.task = todo.popleft()
                    with suppress(OSError):  # it was killed; its pipe says so below
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
        """Take what workers have sent, and replace those that were killed."""
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
                    "Worker processes are killed from outside, as happens when memory runs out. "
                    "Run the same again to resume, with fewer `workers`.",
                    setting="workers",
                )


def serve(descriptor: int) -> None:
    """Do the jobs that come through a pipe, until the parent closes it or ends, however it ends."""
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
            os._exit(1)  # also in the middle of a job

    threading.Thread(target=receive, daemon=True).start()
    run = jobs.get()
    pipe.send(None)
    while True:
        job = jobs.get()
        try:
            answer = (run(job), None)
        except Exception as error:
            answer = (None, _portable(error))
        pipe.send(answer)


def _portable(error: Exception) -> Exception:
    """Return an error that can be sent to another process, with the traceback of a bug."""
    if not isinstance(error, Gpt2ChatError):
        error.add_note("".join(traceback.format_exception(error)).rstrip())
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)).rstrip())
    return error
