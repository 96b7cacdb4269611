"""The two consoles, and what any command may print.

`out` is stdout: the result, nothing else. `err` is stderr: notes, progress, errors.
"""

import os
import unicodedata
from typing import Any

from rich.console import Console
from rich.text import Text

from gpt2chat.commandline import flag, to_command_line
from gpt2chat.core.errors import Gpt2ChatError, Interrupted, WorkerError
from gpt2chat.core.files import json_text
from gpt2chat.report.screen import word_wrapped

# Of the processes that torchrun or accelerate launch starts, the first alone speaks.
_QUIET = os.environ.get("RANK", "0") != "0"

# Names of files and records are not rich's to change: it makes a picture of `:smile:`.
out = Console(highlight=False, emoji=False, quiet=_QUIET)
err = Console(stderr=True, highlight=False, emoji=False, quiet=_QUIET)


def show_error(error: Gpt2ChatError) -> None:
    """Print what the user can act on: one line, or as many as the terminal needs for its words."""
    if isinstance(error, WorkerError):
        err.quiet = False  # it may be the first process that is gone
    shown = to_command_line(str(error))
    if error.setting and flag(error.setting) not in shown:
        shown = f"{flag(error.setting)}: {shown}"
    # The user pressed Ctrl-C and got what that asks for: nothing went wrong.
    label = "" if isinstance(error, Interrupted) else "error: "
    text = Text(_in_lines(f"{label}{shown}", err))
    text.stylize("red", 0, len(label))
    err.print(text, soft_wrap=True)


def note(text: str) -> None:
    """Print one line about what was picked, or is being done; on a terminal, wrapped by words.

    It may quote a file or a message, whose control characters must not act on the terminal.
    """
    err.print(Text(_in_lines(text, err), style="dim"), soft_wrap=True)


def say(text: str) -> None:
    """Print one line of the result; on a terminal, wrapped by words."""
    out.print(Text(_in_lines(text, out)), soft_wrap=True)


def _in_lines(text: str, console: Console) -> str:
    """Return what is printed for a text; other programs read a line as it is."""
    shown = printable(text)
    return word_wrapped(shown, console.width) if console.file.isatty() else shown


def show_json(value: Any) -> None:
    """Print a result for other programs to read."""
    out.print(Text(json_text(value)), soft_wrap=True)


def count(number: int) -> str:
    """Return a number with thousands separators; a dot for none, so that the others are seen."""
    return f"{number:,}" if number else sign("·", "-")


def sign(wanted: str, plain: str) -> str:
    """Return `plain` where the terminal may lack the wanted sign."""
    return plain if out.options.ascii_only or _is_plain_locale() else wanted


def _is_plain_locale() -> bool:
    """Say whether the user asked for plain ASCII. Python itself writes UTF-8 there all the same."""
    kind = os.environ.get("LC_CTYPE", "")
    kind = "" if kind == "C.UTF-8" else kind  # Python's own doing where LANG is C
    return (os.environ.get("LC_ALL") or kind or os.environ.get("LANG")) in ("C", "POSIX")


def printable(text: str) -> str:
    """Return a text with signs in place of control characters, which act on a terminal."""
    return "".join(map(_picture, text))


def _picture(char: str) -> str:
    if char in "\n\t" or unicodedata.category(char) != "Cc":
        return char
    # U+2400 to U+2421 are pictures of these: U+241B is the one of escape.
    return chr(0x2400 + ord(char)) if char < " " else "\u2421" if char == "\x7f" else "\ufffd"
