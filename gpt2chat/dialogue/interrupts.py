"""Ctrl-C while a line is worked on, and SIGTERM at any time."""

import contextlib
import signal
from collections.abc import Generator
from threading import current_thread, main_thread
from types import FrameType
from typing import Any


class OneInterrupt:
    """Lets the first Ctrl-C through, as KeyboardInterrupt, and drops those that follow.

    A reply is stopped by one, and who presses it twice would otherwise lose what is kept of it.
    """

    def __init__(self) -> None:
        self._old: Any = None

    def __enter__(self) -> None:
        handler = signal.getsignal(signal.SIGINT)
        # Only the main thread may set one; and a program that ignores Ctrl-C goes on ignoring it.
        mine = current_thread() is main_thread() and handler is signal.default_int_handler
        self._old = handler if mine else None
        self.again()

    def __exit__(self, *_: object) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)
            self._old = None

    def again(self) -> None:
        """Let the next one through too: something else is being done that it may stop."""
        if self._old is not None:
            signal.signal(signal.SIGINT, self._once)

    def enough(self) -> None:
        """Drop those that come from here on: nothing is left that they may stop."""
        if self._old is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _once(self, _number: int, _frame: FrameType | None) -> None:
        self.enough()
        raise KeyboardInterrupt


@contextlib.contextmanager
def ended_by_sigterm() -> Generator[None]:
    """Leave as after Ctrl-D, with code 143, so that the terminal gets its keys back."""
    alone = current_thread() is main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not alone:
        yield
        return
    signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
