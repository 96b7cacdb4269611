"""Streamed text and messages break between words, as wide as the terminal; pyte is the terminal."""

import os
import sys
from collections.abc import Callable

import pexpect
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyte import Screen, Stream

from gpt2chat.report.screen import WordWrap, word_wrapped
from tests.terminal import PATIENCE

SIGNS = st.sampled_from(
    [*"ab .\n", "\t", "漢", "字", "🙂", "e\u0301", "é", "ש", "“", "ｱ", "👩‍👩‍👧", "❤️"]
)
TEXTS = st.lists(SIGNS | st.sampled_from(["word ", "漢" * 30, "x" * 40]), max_size=60).map("".join)
Shown = Callable[..., str]


WRITER = """
import sys
from gpt2chat.report import show_reply
print("before")
show_reply([piece for piece in sys.argv[1].split("|")])
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
            timeout=PATIENCE,
        )
        terminal = Screen(30, 12)
        Stream(terminal).feed(child.read())
        child.close()
        assert child.exitstatus == 0
        return "\n".join(line.rstrip() for line in terminal.display).rstrip()

    return write


@pytest.mark.parametrize(
    "reply",
    ["plain text\nin lines", "2 * 3 * 4 = 24", "**bold**", "- a\n- b", "a\n\n\nb"],
)
def test_a_reply_is_shown_as_it_is(shown: Shown, reply: str):
    assert shown(reply) == f"before\n{reply.rstrip()}\nafter"


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
def test_keys_are_quiet_if_the_program_owns_the_terminal(command: str, quiet: bool | None):
    code = (
        QUIET if quiet is not None else "import gpt2chat.report as r\nwith r.quiet_keys(): print(1)"
    )
    child = pexpect.spawn(
        "sh",
        ["-c", f"'{sys.executable}' -c \"$CODE\" {command}"],
        env={**os.environ, "TERM": "xterm", "CODE": code},
        encoding="utf-8",
        timeout=PATIENCE,
    )
    said = child.read()
    assert ("1" if quiet is None else f"{quiet} True") in said
    assert ("\x1b[?2004h" in said) == bool(quiet)


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
def test_no_word_that_fits_a_row_crosses_its_edge(words: list[str], columns: int):
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
def test_a_command_that_fits_a_line_is_not_broken(command: str):
    for columns in range(len(command) + 1, 60):
        assert f"\n{command}." in word_wrapped(f"{'x' * columns} {command}.", columns)
        assert command in word_wrapped(f"Type {command}. Or not.", columns)
    assert "".join(word_wrapped(f"Type {command}.", 8).split()) == f"Type{command}.".replace(
        " ", ""
    )
