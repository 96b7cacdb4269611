"""Define the two consoles, and print what all commands print: notes, errors and JSON.

`out` is stdout, for the result and nothing else. `err` is stderr, for notes, progress and errors.
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

# Only the first of the processes that torchrun or accelerate launch starts prints.
_QUIET = os.environ.get("RANK", "0") != "0"

# rich must not change the names of files and records: it would make an emoji of `:smile:`.
out = Console(highlight=False, emoji=False, quiet=_QUIET)
err = Console(stderr=True, highlight=False, emoji=False, quiet=_QUIET)


def show_error(error: Gpt2ChatError) -> None:
    """Print an error in one line; on a terminal, wrapped by words.

    The flag of the setting at fault comes first, unless the text mentions it.
    """
    if isinstance(error, WorkerError):
        err.quiet = False  # the process that ended may be the first one
    shown = to_command_line(str(error))
    # Most messages name the flag themselves, at the place where it reads best.
    if error.setting and flag(error.setting) not in shown:
        shown = f"{flag(error.setting)}: {shown}"
    # Ctrl-C is what the user asked for, not an error.
    label = "" if isinstance(error, Interrupted) else "error: "
    text = Text(_in_lines(f"{label}{shown}", err))
    text.stylize("red", 0, len(label))
    # rich would break the lines again, inside commands that a user may copy.
    err.print(text, soft_wrap=True)


def note(text: str) -> None:
    """Print one line about what was picked or is happening; on a terminal, wrapped by words.

    Control characters become visible signs: the text may quote a file or a message.
    """
    err.print(Text(_in_lines(text, err), style="dim"), soft_wrap=True)


def say(text: str) -> None:
    """Print one line of the result; on a terminal, wrapped by words."""
    out.print(Text(_in_lines(text, out)), soft_wrap=True)


def _in_lines(text: str, console: Console) -> str:
    """Return a printable text, wrapped on a terminal and in one line for other programs."""
    shown = printable(text)
    return word_wrapped(shown, console.width) if console.file.isatty() else shown


def show_json(value: Any) -> None:
    """Print a result for other programs to read."""
    out.print(Text(json_text(value)), soft_wrap=True)


def count(number: int) -> str:
    """Return a number with thousands separators, and a dot for 0, so that others stand out."""
    return f"{number:,}" if number else sign("·", "-")


def sign(symbol: str, ascii: str) -> str:
    """Return the symbol, or its ASCII replacement if the terminal or the locale asks for ASCII."""
    kind = os.environ.get("LC_CTYPE", "")
    kind = "" if kind == "C.UTF-8" else kind  # which Python itself sets if LANG is C
    locale = os.environ.get("LC_ALL") or kind or os.environ.get("LANG")
    # Python writes UTF-8 in these locales too, so the console alone does not tell.
    return ascii if out.options.ascii_only or locale in ("C", "POSIX") else symbol


def printable(text: str) -> str:
    """Return a text with visible signs in place of control characters, which act on a terminal."""
    chars: list[str] = []
    for char in text:
        if char in "\n\t" or unicodedata.category(char) != "Cc":
            chars.append(char)
        elif char < " ":  # U+2400 to U+241F are their pictures: U+241B is that of escape
            chars.append(chr(0x2400 + ord(char)))
        else:
            chars.append("\u2421" if char == "\x7f" else "\ufffd")
    return "".join(chars)


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds, with hours if there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
