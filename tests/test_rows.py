"""Rows fit the window by whole early turns, and none that would train wrongly is written."""

import json

import pytest

from gpt2chat.core.data.rows import (
    SHORTENED,
    TYPED,
    Item,
    Row,
    check,
    content_id,
    make_row,
    opening,
)
from gpt2chat.core.text.conversations import Conversation, Message, Preference
from gpt2chat.core.text.template import render
from gpt2chat.core.text.tokens import Encoded, encode_conversation
from tests.helpers import talk

LONG = talk("first " * 40, "second " * 40, "Hi", "Hello")
WINDOW = 64


def one(conversation: Conversation, window: int | None = WINDOW) -> Row | None:
    return make_row(Item("sft", "train", "id", "s", "g", conversation, "a.jsonl", 1), window)


def pair(prompt: Conversation, chosen: str, rejected: str) -> Row | None:
    both = Preference(prompt, chosen, rejected)
    return make_row(Item("preference", "train", "id", "s", "g", both, "a.jsonl", 1), WINDOW)


def test_a_row_has_the_messages_the_rendered_text_and_the_token_counts():
    row = one(talk("Hi", "Hello"))
    assert row is not None
    fields = json.loads(row.line)
    assert list(fields) == [
        "id", "source", "group", "conversation",
        "prompt", "completion", "prompt_tokens", "completion_tokens",
    ]  # fmt: skip
    assert fields["conversation"] == talk("Hi", "Hello").as_dicts()
    assert fields["completion"] == "Hello<|eot_id|>"
    (encoded,) = row.samples
    assert (fields["prompt_tokens"], fields["completion_tokens"]) == (encoded.prompt_length, 2)
    assert encoded == encode_conversation(talk("Hi", "Hello"))


def test_a_long_sample_loses_whole_early_turns():
    row = one(LONG)
    assert row is not None
    assert row.remarks == {SHORTENED}
    assert json.loads(row.line)["conversation"] == talk("Hi", "Hello").as_dicts()


def test_a_sample_too_long_without_its_history_is_not_a_row():
    assert one(talk("Hi", "Hello " * 80)) is None
    assert one(talk("Hi " * 80, "Hello")) is None


def test_without_a_window_any_length_is_a_row():
    row = one(LONG, window=None)
    assert row is not None
    assert not row.remarks
    assert len(row.samples[0]) > WINDOW


def test_both_sides_of_a_pair_have_the_prompt_that_fits_the_longer_reply():
    row = pair(talk("early " * 5, "turn", "Hi"), "Hello", "Hello " * 20)
    assert row is not None
    assert row.remarks == {SHORTENED}
    assert json.loads(row.line)["conversation"] == talk("Hi").as_dicts()
    assert max(map(len, row.samples)) <= WINDOW
    assert len({sample.prompt_length for sample in row.samples}) == 1


@pytest.mark.parametrize("replies", [("Hello", "Hello " * 80), ("Hello " * 80, "Hello")])
def test_a_pair_with_one_side_too_long_is_not_a_row(replies: tuple[str, str]):
    assert pair(talk("Hi"), *replies) is None


def test_a_row_notes_control_tokens_typed_as_text():
    typed, plain = one(talk("What is <|eot_id|>?", "A token.")), one(talk("Hi", "Hello"))
    assert typed is not None
    assert plain is not None
    assert (typed.remarks, plain.remarks) == ({TYPED}, frozenset())
    told = pair(talk("Hi"), "It is <|endoftext|>", "Hello")
    assert told is not None
    assert told.remarks == {TYPED}


def test_rows_with_the_same_last_exchange_share_only_that_hash():
    long, short = one(LONG, window=None), one(talk("Hi", "Hello"))
    assert long is not None
    assert short is not None
    assert long.exchange_hash == short.exchange_hash
    assert long.text_hash != short.text_hash


def test_a_conversation_far_longer_than_the_window_keeps_its_end():
    turns = [text for n in range(500) for text in (f"question {n}", "word " * 300)]
    row = one(talk(*turns, "Hi", "Hello"))
    assert row is not None
    assert row.remarks == {SHORTENED}
    assert json.loads(row.line)["conversation"] == talk("Hi", "Hello").as_dicts()
    assert one(talk("Hi", "x" * 200_000)) is None


def test_the_compared_text_is_the_last_exchange():
    row, told = one(talk("a", "b", "Hi", "Hello")), pair(talk("a", "b", "Hi"), "Hello", "Go")
    assert row is not None
    assert told is not None
    assert row.exchange == "Hi\nHello<|eot_id|>"
    long = one(talk("A question far longer than the reply is", "Hello"))
    assert long is not None
    assert long.exchange == "an the reply is\nHello<|eot_id|>"
    assert told.exchange == "Hi\nHello<|eot_id|>\nGo<|eot_id|>"


GOOD = talk("Hi", "Hello")


@pytest.mark.parametrize(
    ("ids", "prompt_length", "prompt", "rule"),
    [
        ([1, 2, 3, 50261], 3, talk("Ho"), "not the beginning"),
        ([1, 2, 3, 50261], 3, GOOD, "not the beginning"),
        ([1, 2, 3], 3, GOOD.prompt, "no token is trained"),
        ([1, 2, 3, 4], 3, GOOD.prompt, "end of turn is not trained"),
        ([1, 2, 3, 50264, 50261], 3, GOOD.prompt, "outside the vocabulary"),
        ([1, 2, 3, 4, 5, 50261], 3, GOOD.prompt, "longer than the window"),
    ],
)
def test_a_row_that_would_train_wrongly_stops_the_run(
    ids: list[int], prompt_length: int, prompt: Conversation, rule: str
):
    spans = render(GOOD)
    check("x", render(GOOD.prompt), spans, Encoded([1, 2, 3, 50261], 3), window=5)
    with pytest.raises(RuntimeError, match=f"row x: .*{rule}"):
        check("x", render(prompt), spans, Encoded(ids, prompt_length), window=5)


def test_conversations_that_begin_alike_are_one_group():
    first = talk("Hi", "Hello")
    longer = talk("Hi", "Good day", "Bye", "See you")
    told = Conversation((Message("system", "Be kind."), *first.messages))
    assert opening(first) == opening(longer) == opening(told)


def test_another_document_or_first_message_is_another_group():
    document = Message("context", "A text.")
    conversations = (
        talk("Hi"), talk("Hello"), Conversation((document, *talk("Hi").messages)),
    )  # fmt: skip
    assert len({opening(conversation) for conversation in conversations}) == 3


def test_ids_depend_only_on_the_content():
    assert content_id("a", talk("Hi", "Hello")) == content_id("a", talk(" Hi", "Hello "))
    pairs = (Preference(talk("Hi"), "x", "y"), Preference(talk("Hi"), "y", "x"))
    assert len({content_id("a", pair) for pair in pairs}) == 2
    assert content_id("my.jsonl", talk("Hi")).startswith("my.jsonl-")
