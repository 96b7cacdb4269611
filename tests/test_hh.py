"""Anthropic HH's transcripts become conversations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2chat.core.errors import RowError
from gpt2chat.core.inputs.hh import is_transcript, parse_transcript
from tests.helpers import talk


def transcript(*contents: str) -> str:
    names = ("Human", "Assistant")
    return "".join(f"\n\n{names[i % 2]}: {content}" for i, content in enumerate(contents))


@pytest.mark.parametrize(
    "text",
    [
        "\n\nHuman: Hi\n\nAssistant: Hello!",
        "Human: Hi\n\nAssistant: Hello!",
        "\n\n\n\nHuman:Hi \n\n\n\nAssistant:  Hello!\n\n",
    ],
)
def test_turns_begin_after_an_empty_line_or_at_the_beginning(text: str):
    assert parse_transcript(text) == talk("Hi", "Hello!")


@pytest.mark.parametrize(
    "said",
    [
        "He said Human: no",
        "A list\nHuman: one line break",
        "Assistant: twice",
        "two\n\nparagraphs",
        "\n \nHuman: a blank in the empty line",
    ],
)
def test_a_speakers_name_within_a_line_is_part_of_the_message(said: str):
    assert parse_transcript(transcript("Hi", said)) == talk("Hi", said)


@given(st.lists(st.text("Human: A\n", min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_a_transcript_is_read_back_as_it_was_written(contents: list[str]):
    contents = [" ".join(content.split()) for content in contents]
    assert parse_transcript(transcript(*contents)) == talk(*contents)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Hi\n\nHuman: Hi", "does not begin with Human"),
        ("", "does not begin with Human"),
        ("\n\nHuman: \n\nAssistant: Hello!", "empty user message"),
        ("\n\nHuman: Hi\n\nAssistant:", "empty assistant message"),
        ("\n\nAssistant: Hello!", "no user message"),
        ("\n\nHuman: a\n\nAssistant: b\n\nAssistant: c", "reply without a user message"),
        ("\n\nHuman: \ud83d", "lone surrogate"),
    ],
)
def test_a_transcript_that_is_not_a_conversation_is_refused(text: str, reason: str):
    with pytest.raises(RowError, match=reason):
        parse_transcript(text)


def test_a_long_run_of_white_space_is_read_in_linear_time():
    blank = "\n" * 1_000_000
    assert not is_transcript(blank)
    assert parse_transcript(f"{blank}Human: Hi{blank}Assistant: Hello!") == talk("Hi", "Hello!")


@pytest.mark.parametrize("value", [None, 1, ["Human: Hi"], "human: Hi", "The Human: Hi"])
def test_other_values_are_not_transcripts(value: object):
    assert not is_transcript(value)
