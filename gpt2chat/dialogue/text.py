"""Parse typed lines: messages of several lines in quotes, and file names; shorten texts."""

import os.path
import shlex
from pathlib import Path

from gpt2chat.core.errors import ConfigError, DataError

QUOTES = '"""'


def is_open(text: str) -> bool:
    """Return whether a message or a command's text begins with three quotes that are not closed."""
    text = text.strip()
    if text.startswith("/"):
        text = text.partition(" ")[2].lstrip()
    return _begins(text) and not _ends(text)


def unquoted(text: str) -> str:
    """Return a text without the white space and the three quotes around it."""
    text = text.strip()
    return text[3:-3].strip() if _begins(text) and _ends(text) else text


def _begins(text: str) -> bool:
    """Return whether three quotes open a text, and are not closed again in its first line."""
    first = text.removesuffix(QUOTES) if _ends(text) else text
    return text.startswith(QUOTES) and QUOTES not in first[3:].partition("\n")[0]


def _ends(text: str) -> bool:
    """Return whether three quotes end a text, other than those that open it."""
    return len(text) >= 2 * len(QUOTES) and text.endswith(QUOTES)


def as_typed(message: str) -> str:
    """Return the line that sends a message: one with a slash begins with a space."""
    line = f" {message}" if message.startswith("/") else message
    # A message that would read as a command, or as an open quote, is put in quotes.
    plain = not is_open(message) and unquoted(message) == message
    return line if plain else f"{QUOTES}\n{message}\n{QUOTES}"


def parse_path(command: str, name: str, example: str = "chat.json") -> Path:
    """Return the path that a command names. Quotes and backslashes work as in a shell.

    Unlike in a shell, a name with spaces or with an apostrophe does not need them.

    Args:
        example: A name for the error message.

    Raises:
        ConfigError: The name is empty.
    """
    try:
        words = shlex.split(name)
    except ValueError:  # a quote that is not closed belongs to the name
        words = []
    name = words[0] if len(words) == 1 else name
    if not name:
        raise ConfigError(f"{command} needs a file, such as {command} {example}.")
    # Unlike Path.expanduser, this does not raise for the ~ of an unknown user.
    return Path(os.path.expanduser(name))


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        DataError: The file cannot be read, or is not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}.") from error


def shortened(text: str, most: int = 60) -> str:
    """Return a text on one line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
