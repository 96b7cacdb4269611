"""Threads that work until the program ends, and how it ends with them at work."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable

NAME = "gpt2chat"
"""Of each such thread."""


def work_beside(work: Callable[[], None]) -> None:
    """Do some work in a thread that leaving the program does not wait for."""
    threading.Thread(target=work, name=NAME, daemon=True).start()


def end_beside_work(code: object) -> None:
    """End the process where such a thread is there; return where there is none.

    It may be inside PyTorch, which nothing can stop; and Python, which ends as other programs do,
    would end below its feet: the process aborts.

    Args:
        code: What SystemExit holds.
    """
    if not any(thread.name == NAME for thread in threading.enumerate()):
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
