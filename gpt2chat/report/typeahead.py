"""Hide keys that are typed while a reply streams, and leave them for the next prompt."""

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
    """Do not echo what is typed in this block; the next prompt reads it.

    Pasted text stays in one piece. Ctrl-C works, and does not drop what was typed before it. Ctrl-Z
    drops that, since the shell would read it; after `fg` the keys are quiet again.
    """
    if screen_size() is None or not _has_keys():
        yield
        return
    import termios

    terminal = sys.stdin.fileno()
    mode_before = termios.tcgetattr(terminal)
    try:
        _set_quiet_mode(terminal)
        # The shell sets its own mode while the program is stopped, so SIGCONT sets this one again.
        with _handled(
            {signal.SIGTSTP: _stop, signal.SIGCONT: lambda *_: _set_quiet_mode(terminal)}
        ):
            yield
    finally:
        _write(LEAVE_PASTES)
        if _has_keys():
            termios.tcsetattr(terminal, termios.TCSADRAIN, mode_before)


def _has_keys() -> bool:
    """Return whether this process reads the keyboard.

    The system stops a background process that changes the terminal's mode.
    """
    if sys.platform == "win32" or not sys.stdin.isatty():
        return False
    return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()


def _set_quiet_mode(terminal: int) -> None:
    if not _has_keys():  # `bg` continues the program too, and the keys are then the shell's
        return
    import termios
    import tty

    # TCSADRAIN, since Python's default would drop the keys that are typed already.
    tty.setcbreak(terminal, termios.TCSADRAIN)
    mode = termios.tcgetattr(terminal)
    mode[3] |= termios.NOFLSH  # otherwise Ctrl-C drops what was typed before it
    termios.tcsetattr(terminal, termios.TCSADRAIN, mode)
    _write(MARK_PASTES)


@contextlib.contextmanager
def _handled(handlers: dict[signal.Signals, Callable[..., None]]) -> Generator[None]:
    """Handle these signals unless they are ignored; only the main thread can."""
    # A handler that is not Python's, for which getsignal returns None, could not be put back.
    is_main = current_thread() is main_thread()
    handlers_before = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        if is_main and signal.getsignal(number) not in (None, signal.SIG_IGN)
    }
    try:
        yield
    finally:
        for number, handler in handlers_before.items():
            signal.signal(number, handler)


def _stop(number: int, _: Any) -> None:
    """Stop as without this handler, after dropping typed keys, which the shell would read."""
    import termios

    if _has_keys():
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
    handler = signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)  # returns when the shell continues the program
    signal.signal(number, handler)


def _write(sequence: bytes) -> None:
    # sys.stdout is not safe here: the signal handler may have interrupted one of its writes.
    os.write(sys.stdout.fileno(), sequence)
