"""The terminal's screen while a reply streams: how many rows it takes, how it goes."""

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
"""What a user may copy; words that follow a flag may be its value."""
HELD = "\0"
"""Stands for a space that is no place to break a line at: no printed text has it."""


class Others:
    """Other programs on the same screen: the shell, while this one was stopped by Ctrl-Z."""

    times = 0
    """So often they may have written."""


OTHERS = Others()


class Streamed:
    """A text that is being written from the beginning of a line on, whole words to a row."""

    def __init__(self) -> None:
        self._size = screen_size()
        self._others = OTHERS.times
        self._text: list[str] = []
        self._written: list[str] = []
        self._wrap = WordWrap()

    @property
    def text(self) -> str:
        """All that was to be written."""
        return "".join(self._text)

    def add(self, piece: str) -> str:
        """Take what comes next and return what to write of it now: on a terminal whole words."""
        self._text.append(piece)
        size = screen_size()
        return self._note(self._wrap.add(piece, size.columns) if size else piece)

    def rest(self) -> str:
        """Return what has not been written yet."""
        size = screen_size()
        return self._note(self._wrap.rest(size.columns) if size else "")

    def erase(self) -> bool:
        """Take the text and the line break after it off the screen; return whether it is gone.

        It stays where its rows cannot be told for sure: outside a terminal, where it is taller
        than the screen, or was written on a screen that changed its size or that others wrote on.
        """
        if self._size is None or self._size != screen_size() or self._others != OTHERS.times:
            return False
        few, many = rows("".join(self._written), self._size.columns)
        if few != many or few >= self._size.lines:
            return False
        _write(f"\x1b[{few}A\r\x1b[J")
        return True

    def _note(self, text: str) -> str:
        self._written.append(text)
        return text


class WordWrap:
    """Breaks lines before a word that would stand across the edge of the screen."""

    def __init__(self) -> None:
        self._at = 0
        """Columns that are written of the row."""
        self._space = self._word = ""
        """What waits for the end of the word."""

    def add(self, text: str, columns: int) -> str:
        """Return what of the text so far can be written: up to its last whole word."""
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
        # Signs of double width are words of their own, in scripts without spaces.
        whole = _widths(char)[1] == 2 or _width(self._word) >= columns
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
    """Return a text with line breaks between words; a command that fits a line is not broken."""
    wrap = WordWrap()
    held = COMMAND.sub(lambda found: _held(found[0], columns), text)
    return (wrap.add(held, columns) + wrap.rest(columns)).replace(HELD, " ")


def _held(command: str, columns: int) -> str:
    return command.replace(" ", HELD) if _width(command) <= columns else command


def _width(text: str) -> int:
    return sum(_widths(char)[1] for char in text)


def rows(text: str, columns: int) -> tuple[int, int]:
    """Return how many rows a text takes at least and at most: terminals differ on some signs."""
    lines = text.split("\n")
    few, many = (sum(_wrapped(line, columns, most) for line in lines) for most in (0, 1))
    return few, many


def _wrapped(line: str, columns: int, most: int) -> int:
    """Return how many rows a line takes at least or `most`; no sign stands across the edge."""
    count, at = 1, 0
    for char in line:
        if char == "\t":
            stop = min((at // 8 + 1) * 8, columns - 1)
            at = max(at, stop) if most else stop  # some go back from beyond the edge
            continue
        width = _widths(char)[most]
        if at + width > columns:
            count, at = count + 1, 0
        at += width
    return count


def _widths(char: str) -> tuple[int, int]:
    """Return the least and the most columns that terminals give a character."""
    if " " <= char <= "~":
        return 1, 1
    width = get_character_cell_size(char)
    if ord(char) in PICTURES:
        return 0, max(width, 2)  # nothing where it is joined to the one before
    category = unicodedata.category(char)
    if category in MARKS:
        return 0, 1 if char in "\ufe0e\ufe0f\u20e3" else 0
    if category in ("Cf", "Mc", "Co", "Cn") or (width == 0 and char != "\t"):
        return 0, max(width, 1)
    return width, width


def screen_size() -> os.terminal_size | None:
    """Return the size of the terminal that stdout is; None where it is none that can move up."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return None


def _write(sequence: str) -> None:
    sys.stdout.write(sequence)
    sys.stdout.flush()
