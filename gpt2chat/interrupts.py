"""Decide what Ctrl-C and SIGTERM do while a chat runs.

At a prompt Ctrl-C is a key; while a line is worked on it is the first KeyboardInterrupt and no
other; around a prompt it is passed on to the prompt. What is done about a KeyboardInterrupt is up
to the code that is interrupted.
"""

import contextlib
import signal
from collections.abc import Generator
from threading import current_thread, main_thread
from types import FrameType
from typing import Any


class OneInterrupt:
    """Let the first Ctrl-C through, as KeyboardInterrupt, and drop those that follow.

    One stops a reply; pressing it twice would otherwise lose what was said so far.
    """

    def __init__(self) -> None:
        self._old: Any = None

    def __enter__(self) -> None:
        self._old = signal.getsignal(signal.SIGINT) if _is_ours() else None
        self.again()

    def __exit__(self, *_: object) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)
            self._old = None

    def again(self) -> None:
        """Let the next one through too: there is something else to stop."""
        if self._old is not None:
            signal.signal(signal.SIGINT, self._once)

    def enough(self) -> None:
        """Drop those that come from here on: there is nothing left to stop."""
        if self._old is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _once(self, _number: int, _frame: FrameType | None) -> None:
        self.enough()
        raise KeyboardInterrupt


class PromptInterrupts:
    """Deliver SIGINT to a prompt as a Ctrl-C key press.

    A terminal that shows a prompt sends the key. Just before and just after, it sends the signal,
    which prompt_toolkit would pass on to a prompt that does not run, and fail.
    """

    def __init__(self, app: Any):
        """Deliver to a prompt_toolkit application."""
        self._app = app
        self.missed = False
        """A signal came that no prompt took."""

    @contextlib.contextmanager
    def delivered(self) -> Generator[None]:
        """Raise no KeyboardInterrupt; the prompt must be read with `handle_sigint=False`."""
        self.missed = False
        if not _is_ours():
            yield
            return
        before = signal.signal(signal.SIGINT, self._come)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def begun(self) -> None:
        """Pass on what came before the prompt ran; call this as it begins."""
        if self.missed:
            self._pass_on()

    def _come(self, *_: Any) -> None:
        self.missed = True
        if self._app.loop:
            self._app.loop.call_soon_threadsafe(self._pass_on)

    def _pass_on(self) -> None:
        if self._app.future and not self._app.future.done():
            self.missed = False
            self._app.exit(exception=KeyboardInterrupt)


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


def _is_ours() -> bool:
    """Return whether Ctrl-C may be handled here: only the main thread may, and a program that was
    started to ignore it still does."""
    is_main = current_thread() is main_thread()
    return is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
