"""Markdown's looks: ordinary replies get them, and none loses anything by them."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from gpt2chat.report import markdown
from gpt2chat.report.markdown import markdown_lines

LANGUAGE = "c"
"""Its name may vanish where it opens a fence: no other piece has this letter."""
PIECES = [
    *("word", "**bold**", "*a*", "_b_", "`x = 1`", "__init__", "2*3*4", "(2)*(3)", "~~no~~"),
    *("- item", "* item", "1. one", "1. two", "7) ten", "007. bond", "# Head", "## Head", "> said"),
    *("```", "```c", "``` word", "~~~", "```zz", "| a | b |", "|---|---|", "| 1 | 2 | 3 |"),
    *("[a](http://x.y)", '[a](u "title")', "<http://x.y>", "![i](u)", "[r]: u", "&amp;", "<b>"),
    *("    four", "  two", "\t", "---", "===", "***", "\\*", "日本語", "x" * 30, "é", "e\u0301"),
]
TEXTS = st.lists(
    st.tuples(st.sampled_from(PIECES), st.sampled_from(["\n", "\n\n", " ", "", "\n   "])),
    max_size=14,
).map(lambda pieces: "".join(piece + end for piece, end in pieces).strip())


def shown(text: str, width: int = 60) -> str:
    """Return a text in its looks; nothing where it is to stay as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(markdown, "out", Console(width=width, force_terminal=True))
        lines = markdown_lines(text)
    return "\n".join("".join(segment.text for segment in line) for line in lines).rstrip()


def letters(text: str) -> str:
    return "".join(char for char in text if char.isalnum() and char != LANGUAGE)


@settings(max_examples=600)
@given(TEXTS, st.sampled_from([8, 20, 60]))
def test_no_letter_or_digit_is_lost_or_added_or_moved(text: str, narrow: int):
    assert letters(shown(text, 2000)) in ("", letters(text))
    assert Counter(letters(shown(text, narrow))) in (Counter(), Counter(letters(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Some **bold**, *slanted* and `code`.", "Some bold, slanted and code."),
        ("# Title\n\ntext", " " * 27 + "Title\n\ntext"),
        ("- a\n- b\n    - c", " • a\n • b\n    • c"),
        ("1. one\n2. two\n3. three", " 1 one\n 2 two\n 3 three"),
        ("1. one\n1. two\n2. three", " 1 one\n 1 two\n 2 three"),
        ("3. three\n1. one\n17. more", " 3 three\n 1 one\n 17 more"),
        ("1) one\n\n5) five", " 1 one\n 5 five"),
        ("Try:\n```python\nif x:\n    y = 1\n```", "Try:\n\n\n if x:\n     y = 1"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", " a  b\n ────\n 1  2"),
        ("The **method** __init__", "The method __init__"),
        ("1. **Do** this\n   and that\n   - x", " 1 Do this\n   and that\n    • x"),
    ],
)
def test_ordinary_replies_get_their_looks(text: str, expected: str):
    assert shown(text).strip("\n") == expected


def test_a_table_gets_its_looks_also_where_its_cells_are_wrapped():
    wide = "words that are wrapped " * 4
    assert "|" not in shown(f"| name | meaning |\n|---|---|\n| two words | {wide} |", 40)
    assert shown(f"| name | meaning |\n|---|---|\n| {'x' * 40} | {wide} |", 40) == ""


@pytest.mark.parametrize(
    "text",
    [
        "def f(x):\n    if x:\n        return 1\n\n**Note**: it works",
        "class A:\n    def __init__(self):\n        pass\n\nand `f`",
        "**Note**\n\n    an indented line",
        "**Note**\n\n  an indented line",
        "```import numpy as np\nx = 1\n```",
        "``` This is how:\nx = 1\n```",
        "Use ```\nx = 1\ny = 2\n``` there",
        "| a | b |\n|---|---|\n| 1 | 2 | three |",
        '**See** [a](http://x.y "the title")',
        "2*3*4 = 24",
        "(1+2)*(3) = 9 and (4)*(5) = 20",
        "007. James\n8. Bill",
    ],
)
def test_a_reply_that_would_lose_something_stays_as_it_is(text: str):
    assert shown(text) == ""
