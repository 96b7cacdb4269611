"""Ctrl-C that comes as a signal, around a prompt: while it begins, and once it has ended."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any

from prompt_toolkit import PromptSession


class Interrupts:
    """Gives a signal of Ctrl-C to a prompt as the key that it is; `missed` says that it was none's.

    A terminal that shows a prompt sends the key. Just before and just after, it sends the signal,
    which prompt_toolkit would pass on to a prompt that is not there, and fail.
    """

    def __init__(self, session: "PromptSession[str]"):
        self._app = session.app
        self.missed = False

    @contextmanager
    def held(self) -> Generator[None]:
        """Raise no KeyboardInterrupt; the prompt has to be read with `handle_sigint=False`."""
        self.missed = False
        before = signal.getsignal(signal.SIGINT)
        # Only the main thread may set one; and a program that ignores Ctrl-C goes on ignoring it.
        if current_thread() is not main_thread() or before is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._come)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def begun(self) -> None:
        """Pass on what came before the prompt was there: to be called as it begins."""
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
