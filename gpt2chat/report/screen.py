"""Break streamed text and messages between words, as wide as the terminal."""

import os
import re
import sys
import unicodedata

from rich.cells import get_character_cell_size

MARKS = ("Mn", "Me")
PICTURES = range(0x1F000, 0x20000)
"""Emoji: several of them may be one picture, in some terminals."""


COMMAND = re.compile(
    r"(gpt2chat [a-z]+|pip install \S+|(?<!\S)/[a-z]+ \S+)( --[\w-]+( (?!-)\S+)?)*"
)
"""Commands that a user may copy; a word after a flag may be its value."""
HELD = "\0"
"""Replaces a space that no line may break at: printed text never has it."""


class WordWrap:
    """Breaks lines before a word that would cross the edge of the screen."""

    def __init__(self) -> None:
        self._at = 0
        """Columns of the row that are written."""
        self._space = self._word = ""
        """Text that waits for the end of the word."""

    def add(self, text: str, columns: int) -> str:
        """Return the part of the text that can be written now: up to its last whole word."""
        return "".join(self._next(char, columns) for char in text)

    def rest(self, columns: int) -> str:
        """Return the last word."""
        return self._end_word(columns) + self._end_space()

    def _next(self, char: str, columns: int) -> str:
        if char == " ":
            ended = self._end_word(columns)
            self._space += char
            return ended
        if char in "\n\t":
            ended = self._end_word(columns) + self._end_space()
            self._at = 0 if char == "\n" else min((self._at // 8 + 1) * 8, columns - 1)
            return ended + char
        self._word += char
        # Characters of double width are words of their own: their scripts have no spaces.
        whole = _columns(char) == 2 or _width(self._word) >= columns
        return self._end_word(columns) if whole else ""

    def _end_word(self, columns: int) -> str:
        if not self._word:
            return ""
        word, width = self._word, _width(self._word)
        self._word = ""
        if self._at and self._at + len(self._space) + width > columns:
            self._space, self._at = "", width
            return "\n" + word
        return self._end_space(width) + word

    def _end_space(self, width: int = 0) -> str:
        space, self._space = self._space, ""
        self._at += len(space) + width
        return space


def word_wrapped(text: str, columns: int) -> str:
    """Return a text with line breaks between words, and none in a command that fits a line."""
    wrap = WordWrap()
    held = COMMAND.sub(lambda found: _held(found[0], columns), text)
    return (wrap.add(held, columns) + wrap.rest(columns)).replace(HELD, " ")


def _held(command: str, columns: int) -> str:
    return command.replace(" ", HELD) if _width(command) <= columns else command


def _width(text: str) -> int:
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    """Return the columns that a character takes; the most, if terminals differ."""
    if " " <= char <= "~":
        return 1
    width = get_character_cell_size(char)
    if ord(char) in PICTURES:
        return max(width, 2)
    category = unicodedata.category(char)
    if category in MARKS:
        return 1 if char in "\ufe0e\ufe0f\u20e3" else 0
    if category in ("Cf", "Mc", "Co", "Cn") or (width == 0 and char != "\t"):
        return max(width, 1)
    return width


def screen_size() -> os.terminal_size | None:
    """Return the size of the terminal that stdout is; None if it has no cursor to move."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return None
