"""Typed lines: quotes that hold several lines together, paths, and how a text is shown in one."""

import os.path
from pathlib import Path

from gpt2chat.core.errors import ConfigError, DataError

QUOTES = '"""'


def is_open(text: str) -> bool:
    """Return whether a message or a command's text has begun with three quotes and not ended."""
    text = text.strip()
    if text.startswith("/"):
        text = text.partition(" ")[2].lstrip()
    return _begins(text) and not _ends(text)


def unquoted(text: str) -> str:
    """Return a text without white space and a pair of three quotes around it."""
    text = text.strip()
    return text[3:-3].strip() if _begins(text) and _ends(text) else text


def _begins(text: str) -> bool:
    """Say whether three quotes open a text, and are not those of its first line alone."""
    first = text.removesuffix(QUOTES) if _ends(text) else text
    return text.startswith(QUOTES) and QUOTES not in first[3:].partition("\n")[0]


def _ends(text: str) -> bool:
    """Say whether three quotes end a text, beside those that may open it."""
    return len(text) >= 2 * len(QUOTES) and text.endswith(QUOTES)


def as_typed(message: str) -> str:
    """Return the line that sends a message: one with a slash begins with a space."""
    line = f" {message}" if message.startswith("/") else message
    plain = not is_open(message) and unquoted(message) == message
    return line if plain else f"{QUOTES}\n{message}\n{QUOTES}"


def given_path(command: str, name: str, example: str = "chat.json") -> Path:
    """Return the path that a command was given.

    Args:
        example: What could have been given.

    Raises:
        ConfigError: It was given none.
    """
    if not name:
        raise ConfigError(f"{command} needs a file, such as {command} {example}.")
    # Unlike Path.expanduser, this leaves the ~ of an unknown user as it is.
    return Path(os.path.expanduser(name))


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        DataError: It cannot be read, or is no UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}.") from error


def shortened(text: str, most: int = 60) -> str:
    """Return a text on one line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
