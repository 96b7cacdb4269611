"""Decide what Ctrl-C and SIGTERM do while a chat runs.

At a prompt, Ctrl-C is a key. While a line is worked on, the first one raises KeyboardInterrupt and
further ones do nothing. Just before and after a prompt, it is passed on to the prompt. Whoever is
interrupted decides what a KeyboardInterrupt means.
"""

import contextlib
import signal
import sys
from collections.abc import Generator
from threading import current_thread, main_thread
from types import FrameType
from typing import Any


class OneInterrupt:
    """Raise KeyboardInterrupt at the first Ctrl-C, and ignore those that follow.

    One stops a reply; a second would otherwise lose the text of the reply so far.
    """

    def __init__(self) -> None:
        self._handler_before: Any = None
        """None where the signal is not handled here."""

    def __enter__(self) -> None:
        self._handler_before = signal.getsignal(signal.SIGINT) if _may_handle_sigint() else None
        self.allow_one()

    def __exit__(self, *_: object) -> None:
        if self._handler_before is not None:
            signal.signal(signal.SIGINT, self._handler_before)
            self._handler_before = None

    def allow_one(self) -> None:
        """Let the next Ctrl-C raise: there is something to stop."""
        if self._handler_before is not None:
            signal.signal(signal.SIGINT, self._raise_once)

    def ignore(self) -> None:
        """Ignore Ctrl-C from here on: there is nothing left to stop.

        It was meant for the reply, which ended a moment too soon. As a key at the next prompt it
        would drop what the user typed during the reply.
        """
        if self._handler_before is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _raise_once(self, _number: int, _frame: FrameType | None) -> None:
        self.ignore()
        raise KeyboardInterrupt


class PromptInterrupts:
    """Deliver SIGINT to a prompt as a Ctrl-C key press.

    While a prompt runs, the terminal sends the key. Just before and after, it sends the signal, and
    prompt_toolkit fails as it passes that on to a prompt that does not run.
    """

    def __init__(self, app: Any):
        """Deliver to a prompt_toolkit application."""
        self._app = app
        self.missed = False
        """Whether a signal came while no prompt was active to take it."""

    @contextlib.contextmanager
    def delivered(self) -> Generator[None]:
        """Raise no KeyboardInterrupt; the prompt must be read with `handle_sigint=False`."""
        self.missed = False
        if not _may_handle_sigint():
            yield
            return
        handler_before = signal.signal(signal.SIGINT, self._receive)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, handler_before)

    def prompt_started(self) -> None:
        """Pass on a signal that came before the prompt ran; call this as the prompt starts."""
        if self.missed:
            self._pass_on()

    def _receive(self, *_: Any) -> None:
        self.missed = True
        # The handler may run between any two instructions; the prompt's loop does the rest.
        if self._app.loop:
            self._app.loop.call_soon_threadsafe(self._pass_on)

    def _pass_on(self) -> None:
        if self._app.future and not self._app.future.done():
            self.missed = False
            self._app.exit(exception=KeyboardInterrupt)


@contextlib.contextmanager
def ended_by_sigterm() -> Generator[None]:
    """Leave at SIGTERM as after Ctrl-D, with exit code 143, so that the terminal is restored."""
    is_main = current_thread() is main_thread()
    # A program around this one that handles SIGTERM itself keeps its handler.
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _may_handle_sigint() -> bool:
    """Return whether Ctrl-C may be handled here: only in the main thread, and not in a program that
    was started to ignore it."""
    is_main = current_thread() is main_thread()
    return is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
