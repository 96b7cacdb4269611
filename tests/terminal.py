"""A terminal with a program in it: keys go in, and what a person would see comes out."""

import contextlib
import itertools
import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pexpect
import pyte
from wcwidth import wcwidth

PATIENCE = 180
"""Seconds until a wait fails: a loaded machine is slow, a broken program is silent for ever."""
ENTER, TAB, ESCAPE = "\r", "\t", "\x1b"
CTRL_C, CTRL_D, CTRL_L, CTRL_U, CTRL_Z = "\x03", "\x04", "\x0c", "\x15", "\x1a"
ALT_ENTER = ESCAPE + ENTER
UP = ESCAPE + "[A"
METER = re.compile(r"([\d,]+)\D{1,5}1,024\b")
"""The line below the prompt: tokens in use, of the window's."""
NEW_PROMPT = b"\x1b[?2004h"
"""Asks for marked pastes: prompt_toolkit writes it as it begins to read a line."""
NO_TEXT = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ufffd]|\^[\[I]|\[\?\d+[hl]|\[\d+(;\d+)*[mKJHR~]"
)
"""What is on a screen only where an escape sequence or a half character was shown as text."""


class Screen(pyte.Screen):
    """pyte's screen, which answers questions, joins marks to letters, and shrinks as others do."""

    def __init__(self, columns: int, lines: int, answer: Callable[[str], object]):
        self.answer = answer
        super().__init__(columns, lines)

    def write_process_input(self, data: str) -> None:
        """Answer the program's question where the cursor is."""
        self.answer(data)

    def draw(self, data: str) -> None:
        """Draw text with joiners in it: pyte drops what follows the first."""
        for joins, run in itertools.groupby(data, lambda char: wcwidth(char) == 0):
            if joins:
                self._join("".join(run))
            else:
                super().draw("".join(run))

    def _join(self, marks: str) -> None:
        row, at = self.buffer[self.cursor.y], self.cursor.x - 1
        if at > 0 and not row[at].data:
            at -= 1  # the second half of a wide character
        row[at] = row[at]._replace(data=row[at].data + marks)

    def select_graphic_rendition(self, *attributes: int) -> None:
        """Keep faint text, which pyte does not know: as blinking, which nothing here does."""
        if not {38, 48} & set(attributes):  # what follows these is a colour
            attributes = tuple(5 if value == 2 else value for value in attributes)
        super().select_graphic_rendition(*attributes)

    def resize(self, lines: int | None = None, columns: int | None = None) -> None:
        """Keep the cursor's row; pyte drops rows from the top even where the screen has room."""
        lines, row = lines or self.lines, self.cursor.y
        over = max(row - lines + 1, 0)
        if over:
            column = self.cursor.x
            self.cursor_position()
            self.delete_lines(over)
            self.cursor_position(row - over + 1, column + 1)
        self.lines = lines
        super().resize(lines, columns)


class Terminal:
    """A terminal with `python -m gpt2chat`, or another command, in it.

    Between the end of a reply and the next prompt, the program ignores Ctrl-C, and what is on the
    screen is about to change. So a test presses keys at a prompt that it has waited for, by
    `enter`, `interrupt` or `clear`, and ends at one. A text on the screen is not a prompt: it may
    come before it, or be there from an earlier line.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        command: tuple[str, ...] = (sys.executable, "-m", "gpt2chat"),
        environment: Mapping[str, str] = MappingProxyType({}),
        columns: int = 100,
        lines: int = 40,
    ):
        """Start a command in a folder, which it also keeps its history and its chats in."""
        home = {"XDG_DATA_HOME": str(folder / "home"), "TERM": "xterm-256color"}
        outer = ("GPT2CHAT_HISTORY", "COLUMNS", "LINES", "NO_COLOR")
        inherited = {name: value for name, value in os.environ.items() if name not in outer}
        self.child: pexpect.spawn[bytes] = pexpect.spawn(
            command[0],
            [*command[1:], *arguments],
            cwd=str(folder),
            env={**inherited, **home, **environment},
            dimensions=(lines, columns),
        )
        self.child.delaybeforesend = None
        self.folder = folder
        self.screen = Screen(columns, lines, self.child.send)
        self.stream = pyte.ByteStream(self.screen)
        self.prompts = 0
        """How often the program has begun to read a line."""
        self._tail = b""

    @property
    def rows(self) -> list[str]:
        """The screen from its first row to its last that is not empty."""
        return self.text.split("\n")

    @property
    def text(self) -> str:
        """The screen without the space that fills its rows."""
        rows = (unicodedata.normalize("NFC", row.rstrip()) for row in self.screen.display)
        return "\n".join(rows).rstrip()

    @property
    def used(self) -> int | None:
        """Tokens that the meter shows; None where there is no meter."""
        found = METER.search(self.rows[-1])
        return int(found[1].replace(",", "")) if found else None

    def read(self, timeout: float = PATIENCE) -> bytes:
        """Show and return what the program has written, waiting where it is silent.

        Raises:
            pexpect.TIMEOUT: It stays silent.
            pexpect.EOF: It has ended.
        """
        data = self.child.read_nonblocking(65536, timeout=timeout)
        self.stream.feed(data)
        # A sequence may come in two reads.
        seen = self._tail + data
        self.prompts += seen.count(NEW_PROMPT)
        self._tail = seen[1 - len(NEW_PROMPT) :]
        return data

    def wait_until(self, shown: Callable[[], bool], what: str = "what was waited for") -> None:
        """Read until the screen is as asked for."""
        end = time.monotonic() + PATIENCE
        try:
            while not shown():
                if time.monotonic() > end:
                    raise pexpect.TIMEOUT("the program goes on writing other things")
                self.read()
        except (pexpect.TIMEOUT, pexpect.EOF) as error:
            raise AssertionError(f"No {what} on this screen:\n{self.text}") from error

    def wait(self, text: str) -> None:
        """Read until `text` stands on the screen."""
        self.wait_until(lambda: text in self.text, repr(text))

    def wait_for_prompt(self, number: int) -> None:
        """Read until the program waits for its line of this number, the meter below it."""
        self.wait_until(lambda: self.prompts >= number and self.used is not None, "new prompt")

    def press(self, *keys: str) -> None:
        """Press keys, and do not wait: the prompt may not have shown them when this returns."""
        self.child.send("".join(keys))

    def send(self, *keys: str, then: str) -> None:
        """Press keys and wait until what they bring stands on the screen."""
        self.press(*keys)
        self.wait(then)

    def type(self, text: str) -> None:
        """Type text that fits the row and wait until it stands there."""
        self.press(text)
        self.wait(unicodedata.normalize("NFC", text.strip()))

    def paste(self, text: str) -> None:
        """Paste text as terminals do: marked, and with their line ends."""
        self.press(ESCAPE, "[200~", text.replace("\n", "\r"), ESCAPE, "[201~")

    def enter(self, line: str = "") -> None:
        """Send a line and wait for the next prompt."""
        number = self.prompts + 1
        self.press(line, ENTER)
        self.wait_for_prompt(number)

    def interrupt(self) -> None:
        """Press Ctrl-C, at a prompt or in a reply, and wait for the next prompt."""
        number = self.prompts + 1
        self.press(CTRL_C)
        self.wait_for_prompt(number)

    def begin(self, message: str) -> None:
        """Send a message and wait for the first words of its reply; the model has to be loaded."""
        self.press(message, ENTER)
        # The meter goes when the message is sent; what then comes is the reply.
        self.wait_until(
            lambda: self.used is None and not self.rows[-1].endswith(message), "begun reply"
        )

    def clear(self) -> None:
        """Clear the screen at a prompt."""
        number = self.prompts + 1
        self.press(CTRL_L)
        self.wait_for_prompt(number)

    def resize(self, columns: int, lines: int) -> None:
        """Change the size as if the window were drawn; the program gets SIGWINCH."""
        self.screen.resize(lines, columns)
        self.child.setwinsize(lines, columns)

    def leave(self, *keys: str) -> int:
        """Press keys that end the program; return its exit code, 128 and more for a signal."""
        self.press(*keys)
        return self.ended()

    def ended(self) -> int:
        """Wait until the program has ended; return its exit code, 128 and more for a signal."""
        with contextlib.suppress(pexpect.EOF):
            while True:
                self.read()
        return self._code()

    def hang_up(self) -> int:
        """Close the terminal as its window is closed; return how the program ended."""
        # pexpect's own close also kills the program, which is to end by itself.
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), self.child.child_fd)
        return self._code()

    def close(self) -> None:
        """End the program, whatever it does."""
        self.child.close(force=True)

    def _code(self) -> int:
        end = time.monotonic() + PATIENCE
        while self.child.isalive():
            assert time.monotonic() < end, f"The program does not end:\n{self.text}"
            time.sleep(0.02)
        if self.child.exitstatus is not None:
            return self.child.exitstatus
        return 128 + (self.child.signalstatus or 0)
