"""Run work in background threads, and end the program while they are busy."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue

NAME = "gpt2chat"
"""Name of every background thread."""


def start_thread(work: Callable[[], None]) -> None:
    """Do some work in a thread that the end of the program does not wait for."""
    threading.Thread(target=work, name=NAME, daemon=True).start()


def exit_without_waiting(code: object) -> None:
    """End the process at once if a background thread runs; otherwise return.

    Interpreter shutdown would free state that PyTorch still uses in that thread, and the process
    would abort.

    Args:
        code: The `code` of SystemExit.
    """
    if not any(thread.name == NAME for thread in threading.enumerate()):
        return
    # os._exit flushes nothing.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


class Background:
    """A thread that does one piece of work after the other. It starts with the first one."""

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Callable[[], None], threading.Event]] = SimpleQueue()
        self._started = False

    def do(self, work: Callable[[], None]) -> threading.Event:
        """Do some work after everything before it; return the event that is set at its end."""
        if not self._started:
            start_thread(self._do_all)
            self._started = True
        done = threading.Event()
        self._work.put((work, done))
        return done

    def _do_all(self) -> None:
        while True:
            work, done = self._work.get()
            # An error here occurs again, and is reported, when the reply is computed.
            with contextlib.suppress(BaseException):
                work()
            done.set()
