"""Tokens to text: whole characters, stops, loops."""

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2chat.core.generation.reply import LoopWatch, ReplyStream
from gpt2chat.core.generation.sampling import Choice
from gpt2chat.core.text.tokens import ENDOFTEXT_ID, EOT_ID, encode_text


def choices(ids: Iterable[int]) -> Iterator[Choice]:
    return map(Choice, ids)


def of_text(text: str, **settings: object) -> ReplyStream:
    return ReplyStream(choices(encode_text(text)), **settings)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("stop", [EOT_ID, ENDOFTEXT_ID])
def test_a_reply_ends_before_its_stop_token(stop: int):
    stream = ReplyStream(choices([*encode_text("Yes."), stop, *encode_text("No.")]))
    assert "".join(stream) == stream.reply.text == "Yes."
    assert stream.reply.stopped
    assert list(stream.reply.ids) == encode_text("Yes.")


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.text(max_size=20), st.integers(0, 60))
def test_pieces_are_whole_characters_and_add_up_to_the_text(text: str, end: int):
    ids = encode_text(text)[:end]
    stream = ReplyStream(choices(ids))
    pieces = list(stream)
    assert all(pieces)
    assert text.startswith("".join(pieces))
    assert end < len(encode_text(text)) or "".join(pieces) == text
    assert list(stream.reply.ids) == ids


def test_bytes_that_are_no_character_are_left_out():
    smile = encode_text("🙂")
    ids = [smile[-1], *encode_text("a"), smile[0], *smile]
    assert "".join(ReplyStream(choices(ids))) == "a🙂"


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text("ab#", max_size=30), st.lists(st.text("ab#", min_size=1, max_size=4), max_size=3))
def test_a_reply_ends_before_the_first_stop_text(text: str, stops: list[str]):
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    stream = of_text(text, stop=tuple(stops))
    pieces = list(stream)
    assert "".join(pieces) == stream.reply.text
    assert all(pieces)
    assert not any(stop in stream.reply.text for stop in stops)
    assert stream.reply.stopped == bool(ends)
    if not ends:
        assert stream.reply.text == text


def test_what_may_become_a_stop_text_is_held_back_until_it_is_none():
    stream = ReplyStream(
        choices([*encode_text("a"), *encode_text("#"), *encode_text("b")]), stop=("##",)
    )
    assert list(stream) == ["a", "#b"]
    assert list(ReplyStream(choices(encode_text("b#")), stop=("##",)))[-1] == "#"


def test_a_reply_that_is_cancelled_keeps_what_came():
    stream = of_text("one two three")
    pieces = [next(stream)]
    stream.cancel()
    pieces += stream
    assert "".join(pieces) == stream.reply.text == "one"
    assert not stream.reply.stopped


def test_log_probabilities_stand_beside_the_tokens():
    tokens = [Choice(5, -0.5, ((5, -0.5),)), Choice(6, -1.0), Choice(EOT_ID, -2.0)]
    reply = ReplyStream(iter(tokens)).read()
    assert [choice.logprob for choice in reply.choices] == [-0.5, -1.0]
    assert reply.ids == (5, 6)


def looped(ids: list[int]) -> tuple[int, int] | None:
    """Return after how many tokens a loop is noticed, and how many of them repeat."""
    watch = LoopWatch()
    for count in range(1, len(ids) + 1):
        repeats = watch.repeats(ids[:count])
        if repeats is not None:
            return count, repeats
    return None


@pytest.mark.parametrize(
    ("length", "noticed"), [(1, 32), (2, 32), (10, 32), (11, 33), (40, 120), (96, 288)]
)
def test_a_passage_is_a_loop_the_third_time_if_it_is_not_short(length: int, noticed: int):
    passage = list(range(100, 100 + length))
    before = [1, 2, 3]
    found = looped(before + passage * 40)
    assert found == (len(before) + noticed, noticed - length)


@pytest.mark.parametrize(
    "text",
    [
        "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily.",
        "1. Bread\n2. Butter\n3. Cheese\n4. Wine\n5. Olives\n6. Tomatoes\n7. Basil\n8. Salt\n",
        "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n| 5 | 6 |\n| 7 | 8 |\n| 9 | 10 |\n",
        "for x in xs:\n    for y in ys:\n        for z in zs:\n            print(x, y, z)\n",
    ],
)
def test_rhymes_lists_tables_and_code_are_no_loops(text: str):
    assert looped(encode_text(text)) is None


def test_a_loop_ends_the_reply_and_its_repeats_are_not_kept():
    verse = " I like potatoes with butter and with salt, on a plate."
    stream = of_text("Well." + verse * 9, stop_loops=True)
    shown = "".join(stream)
    assert stream.reply.finish_reason == "loop"
    assert not stream.reply.stopped
    # It begins with the dot before the first verse, so the dot after it repeats already.
    assert stream.reply.text + "." == "Well." + verse
    assert shown + "." == "Well." + 3 * verse
    assert of_text("Well." + verse * 9).read().finish_reason != "loop"
