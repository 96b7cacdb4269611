"""Keep what is typed while a reply streams off the screen, for the next prompt."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Generator
from threading import current_thread, main_thread
from typing import Any

from gpt2chat.report.screen import screen_size

MARK_PASTES, LEAVE_PASTES = b"\x1b[?2004h", b"\x1b[?2004l"


@contextlib.contextmanager
def quiet_keys() -> Generator[None]:
    """Keep what is typed while a reply streams off the screen, for the next prompt to read.

    Text that is pasted meanwhile stays whole. Ctrl-C works, and leaves what was typed before it.
    Ctrl-Z drops that, since the shell would read it, and after `fg` the keys are quiet again.
    """
    if screen_size() is None or not _has_keys():
        yield
        return
    import termios

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        _hush(terminal)
        with _handled({signal.SIGTSTP: _stop, signal.SIGCONT: _resume}):
            yield
    finally:
        _write(LEAVE_PASTES)
        if _has_keys():
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _has_keys() -> bool:
    """Return whether typed keys come here. A program in the background would be stopped."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        return False
    return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()


def _hush(terminal: int) -> None:
    import termios
    import tty

    tty.setcbreak(terminal, termios.TCSADRAIN)
    mode = termios.tcgetattr(terminal)
    mode[3] |= termios.NOFLSH  # or Ctrl-C drops what was typed before it
    termios.tcsetattr(terminal, termios.TCSADRAIN, mode)
    _write(MARK_PASTES)


@contextlib.contextmanager
def _handled(handlers: dict[signal.Signals, Callable[..., None]]) -> Generator[None]:
    """Handle signals that are not ignored, as far as this is the main thread."""
    mine = current_thread() is main_thread()
    old = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        if mine and signal.getsignal(number) not in (None, signal.SIG_IGN)
    }
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _stop(number: int, _: Any) -> None:
    """Stop as without this handler, and leave the shell nothing to read that was typed before."""
    import termios

    if _has_keys():
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
    handler = signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    signal.signal(number, handler)


def _resume(_number: int, _: Any) -> None:
    """Set the mode again: the shell has changed it."""
    if _has_keys():
        _hush(sys.stdin.fileno())


def _write(sequence: bytes) -> None:
    # Not by sys.stdout: a signal handler may interrupt it while it writes.
    os.write(sys.stdout.fileno(), sequence)
