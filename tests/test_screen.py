"""What is told of the screen is what a terminal does: pyte is the terminal."""

import os
import sys
from collections.abc import Callable

import pexpect
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyte import Screen, Stream
from wcwidth import wcwidth

from gpt2chat.report import screen
from gpt2chat.report.screen import Streamed, WordWrap, rows, word_wrapped

SIGNS = st.sampled_from(
    [*"ab .\n", "\t", "漢", "字", "🙂", "e\u0301", "é", "ש", "“", "ｱ", "👩‍👩‍👧", "❤️"]
)
TEXTS = st.lists(SIGNS | st.sampled_from(["word ", "漢" * 30, "x" * 40]), max_size=60).map("".join)
Shown = Callable[..., str]


class Edge(Screen):
    """pyte, but at the edge of a row as tmux and xterm are: a wide sign goes to the next row as a
    whole, and a mark stays with its letter.
    """

    def draw(self, data: str) -> None:
        for char in data:
            if wcwidth(char) == 0 and self.cursor.x == self.columns:
                continue
            if wcwidth(char) == 2 and self.cursor.x == self.columns - 1:
                self.carriage_return()
                self.linefeed()
            super().draw(char)


def drawn(text: str, columns: int) -> int:
    """The rows that a terminal moves down for a text and the line break after it."""
    terminal = Edge(columns, 2000)
    Stream(terminal).feed(text.replace("\n", "\r\n") + "\r\n")
    return terminal.cursor.y


@settings(max_examples=400)
@given(TEXTS, st.integers(8, 60))
def test_the_rows_of_a_text_are_told_as_a_terminal_draws_them(text: str, columns: int):
    few, many = rows(text, columns)
    assert few <= drawn(text, columns) <= many


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 1),
        ("a" * 20, 1),
        ("a" * 21, 2),
        ("a\n" + "b" * 41, 4),
        ("漢" * 10, 1),
        ("a" + "漢" * 10, 2),
        ("a" + "漢" * 20, 3),
        ("e\u0301" * 20, 1),
        ("\t\t\t\tab", 2),
    ],
)
def test_wide_and_combining_signs_wrap_as_they_are_seen(text: str, expected: int):
    assert rows(text, 20) == (expected, expected) == (drawn(text, 20), expected)


def test_signs_that_terminals_draw_in_their_own_way_leave_it_open():
    few, many = rows("👩‍👩‍👧" * 5, 20)
    assert few < many
    assert rows("👩‍👩‍👧 family", 20) == (1, 1)


WRITER = """
import sys
from gpt2chat.report import show_reply
print("before")
show_reply([piece for piece in sys.argv[1].split("|")], markdown=True)
print("after")
"""


@pytest.fixture
def shown() -> Shown:
    """Writes a reply in a terminal of 30 columns and 12 lines; returns its screen."""

    def write(reply: str, term: str = "xterm", **environment: str) -> str:
        child = pexpect.spawn(
            sys.executable,
            ["-c", WRITER, reply],
            env={**os.environ, "TERM": term, **environment},
            dimensions=(12, 30),
            encoding="utf-8",
            timeout=60,
        )
        terminal = Screen(30, 12)
        Stream(terminal).feed(child.read())
        child.close()
        assert child.exitstatus == 0
        return "\n".join(line.rstrip() for line in terminal.display).rstrip()

    return write


def test_markdown_takes_the_place_of_its_signs(shown: Shown):
    wide = "漢字" * 7
    seen = shown(f"Some **bold** and `code`:|\n- one\n- {wide} more\n|```\nx = 1\n```")
    assert seen.startswith("before\nSome bold and code:\n\n • one\n")
    assert seen.endswith(" x = 1\n\nafter")
    assert not set("*`") & set(seen)


@pytest.mark.parametrize(
    "reply",
    ["plain text\nin lines", "2 * 3 * 4 = 24", "snake_case_name", "- ", "a\n\n\nb"],
)
def test_plain_text_stays_as_it_streamed(shown: Shown, reply: str):
    assert shown(reply) == f"before\n{reply.rstrip()}\nafter"


def test_lines_stay_lines_and_tags_stay_text(shown: Shown):
    assert shown("**Roses**\nare <b>red</b> &amp; \\* [a](b)") == (
        "before\nRoses\nare <b>red</b> &amp; \\* a (b)\nafter"
    )


def test_a_reply_that_is_taller_than_the_screen_stays_as_it_streamed(shown: Shown):
    lines = "\n".join(f"**{number}**" for number in range(11))
    assert shown(lines).splitlines()[-2:] == ["10", "after"]
    lines = "\n".join(f"**{number}**" for number in range(12))
    assert shown(lines).splitlines()[-2:] == ["**11**", "after"]


def test_a_wrapped_reply_is_taken_off_whole_and_nothing_else(shown: Shown):
    words = "word " * 20
    assert shown(f"{words}**end**").splitlines()[:2] == ["before", ("word " * 6).strip()]
    assert "**" not in shown(f"{words}**end**")


def test_where_no_cursor_can_be_moved_it_stays_as_it_streamed(shown: Shown):
    assert "**bold**" in shown("**bold**", term="dumb")
    assert "**bold**" in shown("**bold**", PYTHONIOENCODING="ascii")


def test_a_screen_that_changed_its_size_keeps_what_streamed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(screen, "screen_size", lambda: os.terminal_size((80, 24)))
    streamed = Streamed()
    streamed.add("**bold**")
    monkeypatch.setattr(screen, "screen_size", lambda: os.terminal_size((60, 24)))
    assert not streamed.erase()
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(screen, "screen_size", lambda: os.terminal_size((80, 24)))
    assert streamed.erase()
    assert capsys.readouterr().out == "\x1b[1A\r\x1b[J"


QUIET = """
import sys, termios, time
from gpt2chat.report import quiet_keys
def mode():
    return termios.tcgetattr(0)
before = mode()
with quiet_keys():
    quiet = not mode()[3] & termios.ECHO
print(quiet, mode() == before)
"""


@pytest.mark.parametrize(
    ("command", "quiet"), [("", True), ("| cat", False), ("< /dev/null", None)]
)
def test_keys_are_quiet_where_the_screen_is_this_programs_own(command: str, quiet: bool | None):
    code = (
        QUIET if quiet is not None else "import gpt2chat.report as r\nwith r.quiet_keys(): print(1)"
    )
    child = pexpect.spawn(
        "sh",
        ["-c", f"'{sys.executable}' -c \"$CODE\" {command}"],
        env={**os.environ, "TERM": "xterm", "CODE": code},
        encoding="utf-8",
        timeout=60,
    )
    said = child.read()
    assert ("1" if quiet is None else f"{quiet} True") in said
    assert ("\x1b[?2004h" in said) == bool(quiet)


STOPPED = """
import signal
from gpt2chat.report import quiet_keys, show_reply
def pieces():
    yield "**bold** "
    signal.raise_signal(signal.SIGCONT)
    yield "end"
with quiet_keys():
    show_reply(pieces(), markdown=True)
default = {signal.getsignal(number) for number in (signal.SIGCONT, signal.SIGTSTP)}
print(default == {signal.SIG_DFL})
"""


def test_a_reply_that_the_shell_wrote_below_stays_as_it_streamed():
    child = pexpect.spawn(
        sys.executable,
        ["-c", STOPPED],
        env={**os.environ, "TERM": "xterm"},
        encoding="utf-8",
        timeout=60,
    )
    said = child.read()
    assert "**bold** end\r\n" in said
    assert said.count("end") == 1
    assert "True" in said


def wrapped(pieces: list[str], columns: int) -> str:
    wrap = WordWrap()
    return "".join(wrap.add(piece, columns) for piece in pieces) + wrap.rest(columns)


@settings(max_examples=300)
@given(st.lists(TEXTS, max_size=8), st.integers(8, 60))
def test_words_are_wrapped_whatever_the_pieces_and_nothing_is_lost(pieces: list[str], columns: int):
    text = "".join(pieces)
    shown = wrapped(pieces, columns)
    assert shown == wrapped(list(text), columns)
    assert shown.replace("\n", "").replace(" ", "") == text.replace("\n", "").replace(" ", "")


@settings(max_examples=300)
@given(st.lists(st.text("abcdefgh", min_size=1, max_size=8), max_size=40), st.integers(8, 30))
def test_no_word_that_fits_a_row_stands_across_its_edge(words: list[str], columns: int):
    shown = wrapped([" ".join(words)], columns)
    assert shown.split() == words
    assert all(len(row) <= columns for row in shown.split("\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three", "one two\nthree"),
        ("    indented code", "    indented\ncode"),
        ("x" * 14 + " y", "x" * 12 + "\n" + "xx y"),
        ("漢字漢字漢字漢字", "漢字漢字漢字\n漢字"),
        ("a\n\nb  \n c", "a\n\nb  \n c"),
    ],
)
def test_lines_break_between_words(text: str, expected: str):
    assert wrapped([text], 12) == expected


@pytest.mark.parametrize(
    "command",
    [
        "gpt2chat prepare --sample",
        "gpt2chat sft --max-length 512",
        "pip install trackio",
        "/compare runs/orpo",
        "/a/path/of/a/file.jsonl",
    ],
)
def test_a_command_is_not_broken_where_it_fits_a_line(command: str):
    for columns in range(len(command) + 1, 60):
        assert f"\n{command}." in word_wrapped(f"{'x' * columns} {command}.", columns)
        assert command in word_wrapped(f"Type {command}. Or not.", columns)
    assert "".join(word_wrapped(f"Type {command}.", 8).split()) == f"Type{command}.".replace(
        " ", ""
    )
