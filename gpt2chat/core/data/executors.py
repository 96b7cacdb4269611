"""Run a function over chunks on any `concurrent.futures.Executor`, with the results in order.

The executor is this process, a pool of worker processes, or a cluster (Dask's). The function and
its results are the same for each.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain, islice
from queue import SimpleQueue
from typing import IO, Any, TypeVar, cast

from gpt2chat.core.errors import ConfigError, Gpt2ChatError, HardwareError, NetworkError

C = TypeVar("C")
R = TypeVar("R")

FEW = 16
"""Most chunks that this process does alone: starting a worker takes as long as one or two."""
AHEAD = 4
"""Chunks per worker that are read before their results are needed, which bounds the memory."""
TRIES = 2
"""Workers that may be killed at one chunk before the run gives up."""
CONNECT_SECONDS = 10


class Serial(Executor):
    """An executor that does each call at once, in this process."""

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Return a future that is done."""
        future: Future[R] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Workers(ThreadPoolExecutor):
    """A thread pool in which each thread passes its calls to a process of its own.

    Each process has one pipe and one call at a time, and shares no lock, queue or semaphore with
    the others. So anyone may kill one at any moment: another one repeats its call. In the pools of
    `concurrent.futures` and loky, a second Ctrl-C could make this process wait forever.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._of_thread = threading.local()
        self._is_closing = False

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Schedule a call in one of the processes; its arguments and result are pickled."""
        # The threads that this starts inherit the blocked signal, and so do their processes.
        with _ctrl_c_waits():
            return super().submit(self._call, fn, args, kwargs)

    def _call(self, fn: Callable[..., R], args: Any, kwargs: Any) -> R:
        for _ in range(TRIES):
            process = getattr(self._of_thread, "process", None)
            if process is None:
                # Not multiprocessing, whose processes run the user's script again unless it guards
                # against that.
                command = [sys.executable, "-c", _WORKER, json.dumps(sys.path)]
                try:
                    process = subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                    )
                except OSError:  # The user's limit on processes, or too little memory.
                    return fn(*args, **kwargs)
                self._processes.append(process)
                # `shutdown` may have killed those in the list just before.
                if self._is_closing:
                    process.kill()
            self._of_thread.process = process
            try:
                calls, answers = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
                pickle.dump((fn, args, kwargs), calls)
                calls.flush()
                result, error = pickle.load(answers)
            except (OSError, EOFError, pickle.UnpicklingError):  # It was killed.
                self._of_thread.process = None
                process.kill()
                if self._is_closing:
                    raise CancelledError from None
                continue
            if error is not None:
                raise error
            return result
        raise HardwareError(
            "Worker processes were killed, probably because memory ran out. Run the same again "
            "with fewer `workers` to resume.",
            setting="workers",
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes, even in the middle of a call."""
        with _ctrl_c_waits():
            self._is_closing = True
            # A copy, because a thread may add a process meanwhile.
            for process in list(self._processes):
                process.kill()
            super().shutdown(wait, cancel_futures=True)
            for process in self._processes:
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    with suppress(OSError):  # What was not sent is of no use.
                        cast(IO[bytes], pipe).close()


@contextmanager
def _ctrl_c_waits() -> Generator[None]:
    """Deliver Ctrl-C afterwards. Processes that are started meanwhile never receive it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_WORKER = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from gpt2chat.core.data.executors import serve
serve()
"""


def serve() -> None:
    """Do the calls that come through stdin, until the parent closes it or ends in any way."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What a library prints must not get between the answers.
    calls: SimpleQueue[Any] = SimpleQueue()

    def receive() -> None:
        try:
            while True:
                calls.put(pickle.load(sys.stdin.buffer))
        except (EOFError, OSError, MemoryError):
            pass
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(1)  # Even in the middle of a call.

    threading.Thread(target=receive, daemon=True).start()
    while True:
        fn, args, kwargs = calls.get()
        try:
            answer = pickle.dumps((fn(*args, **kwargs), None))
        except Exception as error:
            text = "".join(traceback.format_exception(error)).rstrip()
            if not isinstance(error, Gpt2ChatError):  # A bug keeps its traceback.
                error.add_note(text)
            try:
                # An exception may pickle and still not be read back, if it takes other arguments
                # than it passes on.
                answer = pickle.dumps((None, error))
                pickle.loads(answer)
            except Exception:
                answer = pickle.dumps((None, RuntimeError(text)))
        try:
            answers.write(answer)
            answers.flush()
        except OSError:  # The parent has ended.
            os._exit(1)


def in_order(
    function: Callable[[C], R], chunks: Iterable[C], workers: int = 1, cluster: str = ""
) -> Generator[R]:
    """Yield the result of each chunk, in the order of the chunks.

    Args:
        function: A function that another process can import, and whose result depends only on the
            chunk.
        workers: Number of processes; 0 for one per core, if there are enough chunks.
        cluster: Address of a Dask scheduler, whose workers are used instead.

    Raises:
        HardwareError: Workers are killed repeatedly, as by the system when memory runs out.
        NetworkError: The scheduler cannot be reached, or the connection is lost.
        ConfigError: The package of the cluster's engine is not installed.
    """
    chunks = iter(chunks)
    if workers == 0 and not cluster:
        # One more than FEW shows whether there are more.
        first = list(islice(chunks, FEW + 1))
        chunks = chain(first, chunks)
        workers = (os.cpu_count() or 1) if len(first) > FEW else 1
    if cluster:
        with _cluster(cluster) as (executor, ahead):
            yield from _results(executor, function, chunks, ahead)
    # Elsewhere there is no `pthread_sigmask` to keep Ctrl-C from the workers.
    elif workers == 1 or os.name != "posix":
        yield from _results(Serial(), function, chunks, 1)
    else:
        executor = Workers(workers)
        try:
            yield from _results(executor, function, chunks, workers * AHEAD)
        finally:
            # Not `with`: a second Ctrl-C can come before `shutdown` makes it wait, and at its end
            # Python would then wait for the workers.
            try:
                executor.shutdown()
            finally:
                executor.shutdown()


def _results(
    executor: Executor, function: Callable[[C], R], chunks: Iterator[C], ahead: int
) -> Generator[R]:
    waiting: deque[Future[R]] = deque()
    while True:
        for chunk in islice(chunks, ahead - len(waiting)):
            waiting.append(executor.submit(function, chunk))
        if not waiting:
            return
        yield waiting.popleft().result()


@contextmanager
def _cluster(address: str) -> Generator[tuple[Executor, int]]:
    try:
        from distributed import Client, KilledWorker
        from distributed.comm.core import CommClosedError
    except ImportError:
        raise ConfigError(
            "`cluster` needs Dask's package distributed. Run pip install 'gpt2chat[cluster]'.",
            setting="cluster",
        ) from None
    try:
        # Not the default client: Dask code of the caller keeps its own.
        with Client(address, timeout=CONNECT_SECONDS, set_as_default=False) as client:
            cores = sum(cast(Any, client.ncores()).values())
            # If calls were pure, Dask would hash each chunk to find calls that it has done before.
            yield client.get_executor(pure=False), max(cores, 1) * AHEAD
    except KilledWorker as error:
        raise HardwareError(
            f"Workers of the cluster were killed ({error}). Run the same again to resume.",
            setting="cluster",
        ) from error
    except (CommClosedError, OSError) as error:
        raise NetworkError(
            f"`cluster` {address}: no connection to a Dask scheduler. Check the address, and run "
            "the same again to resume.",
            setting="cluster",
        ) from error
