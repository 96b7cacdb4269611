"""Wrap streamed text and messages between words, to the width of the terminal."""

import os
import re
import sys
import unicodedata

from rich.cells import get_character_cell_size

COMBINING = ("Mn", "Me")
"""Unicode categories of marks that are drawn over the character before them."""
EMOJI = range(0x1F000, 0x20000)

COMMAND = re.compile(
    r"(gpt2chat [a-z]+|pip install \S+|(?<!\S)/[a-z]+ \S+)( --[\w-]+( (?!-)\S+)?)*"
)
"""Commands that a user may copy; a word after a flag may be its value."""
UNBREAKABLE_SPACE = "\0"
"""Replaces a space within a command while lines are wrapped; printed text never contains it."""


class WordWrap:
    """Breaks the line before a word that would cross the edge of the screen."""

    def __init__(self) -> None:
        self._at = 0
        """Columns of the present line that are written."""
        self._space = self._word = ""
        """Text that waits for the end of its word."""

    def add(self, text: str, columns: int) -> str:
        """Return the text to write now, which ends with the last complete word."""
        parts: list[str] = []
        for char in text:
            if char == " ":
                parts.append(self._end_word(columns))
                self._space += char
            elif char in "\n\t":
                parts += (self._end_word(columns), self._end_space(), char)
                # Terminals have a tab stop at every eighth column, and none beyond the edge.
                self._at = 0 if char == "\n" else min((self._at // 8 + 1) * 8, columns - 1)
            else:
                self._word += char
                # Scripts with characters of double width have no spaces: each is a word.
                if _columns(char) == 2 or _width(self._word) >= columns:
                    parts.append(self._end_word(columns))
        return "".join(parts)

    def rest(self, columns: int) -> str:
        """Return the last word."""
        return self._end_word(columns) + self._end_space()

    def _end_word(self, columns: int) -> str:
        if not self._word:
            return ""
        word, width = self._word, _width(self._word)
        self._word = ""
        # At the beginning of a line a break would gain nothing, however long the word is.
        if self._at and self._at + len(self._space) + width > columns:
            self._space, self._at = "", width
            return "\n" + word
        return self._end_space(width) + word

    def _end_space(self, width: int = 0) -> str:
        space, self._space = self._space, ""
        self._at += len(space) + width
        return space


def word_wrapped(text: str, columns: int) -> str:
    """Return a text with line breaks between words, and none within a command that fits a line."""
    text = COMMAND.sub(
        lambda match: (
            match[0].replace(" ", UNBREAKABLE_SPACE) if _width(match[0]) <= columns else match[0]
        ),
        text,
    )
    wrap = WordWrap()
    wrapped = wrap.add(text, columns) + wrap.rest(columns)
    return wrapped.replace(UNBREAKABLE_SPACE, " ")


def _width(text: str) -> int:
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    """Return the columns that a character takes: the most that any terminal uses."""
    if " " <= char <= "~":
        return 1
    width = get_character_cell_size(char)
    if ord(char) in EMOJI:  # some terminals draw several of them as one, and take fewer columns
        return max(width, 2)
    category = unicodedata.category(char)
    if category in COMBINING:
        # These three ask for a wide or a boxed form, and some terminals widen the character then.
        return 1 if char in "\ufe0e\ufe0f\u20e3" else 0
    if category in ("Cf", "Mc", "Co", "Cn") or (width == 0 and char != "\t"):
        return max(width, 1)
    return width


def screen_size() -> os.terminal_size | None:
    """Return the size of the terminal on stdout; None if there is none, or a dumb one."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return None
