"""Texts become messages that Telegram accepts, without a letter lost."""

from hypothesis import given
from hypothesis import strategies as st

from gpt2chat.telegram.text import split, units


def test_a_message_is_counted_in_utf16_units():
    assert [units("a"), units("é"), units("😀"), units("𝄞𝄞")] == [1, 1, 2, 4]


@given(st.text(alphabet="ab .\n😀é\u0301\u200d🏽", max_size=200), st.integers(4, 40))
def test_no_part_is_empty_or_too_long_and_no_letter_is_lost(text: str, most: int):
    parts = list(split(text, most))
    assert all(part.strip() and units(part) <= most for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(units(part) == len(part.encode("utf-16-le")) // 2 for part in parts)


def test_a_text_is_cut_after_a_paragraph_or_else_a_line_a_sentence_or_a_word():
    assert list(split("One. Two\nthree.\n\nFour five.", 20)) == ["One. Two\nthree.", "Four five."]
    assert list(split("One. Two three.\nFour five.", 20)) == ["One. Two three.", "Four five."]
    assert list(split("One two three. Four five", 20)) == ["One two three.", "Four five"]
    assert list(split("One two three four five", 20)) == ["One two three four", "five"]
    assert list(split("One.\nTwo three four five", 20)) == ["One.\nTwo three four", "five"]


def test_a_long_word_is_cut_between_characters():
    assert list(split("😀" * 5, 5)) == ["😀😀", "😀😀", "😀"]
    assert list(split("abcde\u0301fgh", 5)) == ["abcd", "e\u0301fgh"]
