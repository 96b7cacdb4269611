"""Records of every shape that others write become the same samples and pairs."""

from typing import Any

import pytest

from gpt2chat.core.conversations import Conversation, Preference
from gpt2chat.core.errors import RowError
from gpt2chat.core.shapes import CHAT_SHAPES, PREFERENCE_SHAPES, Filtered, detect

USER = {"role": "user", "content": "Hi"}
REPLY = {"role": "assistant", "content": "Hello!"}
WORSE = {"role": "assistant", "content": "What?"}


def samples(row: dict[str, Any]) -> list[Conversation]:
    shape = detect(row, CHAT_SHAPES)
    assert shape is not None
    return shape.convert(row)


def pair(row: dict[str, Any]) -> Preference:
    shape = detect(row, PREFERENCE_SHAPES)
    assert shape is not None
    return shape.convert(row)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, REPLY]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
        {"prompt": "Hi", "completion": "Hello!"},
        {"prompt": [USER], "completion": [REPLY]},
        {"instruction": "Hi", "input": "", "output": "Hello!"},
        {"instruction": "Hi", "input": None, "output": "Hello!"},
        {"instruction": "Hi", "output": " Hello!\n", "other": 1},
    ],
)
def test_every_chat_shape_gives_the_same_sample(row: dict[str, Any]):
    assert [sample.as_dicts() for sample in samples(row)] == [[USER, REPLY]]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"},
        {"prompt": [USER], "chosen": [REPLY], "rejected": [WORSE]},
        {"chosen": [USER, REPLY], "rejected": [USER, WORSE]},
        {"prompt": "Hi", "chosen": [USER, REPLY], "rejected": [USER, WORSE]},
    ],
)
def test_every_preference_shape_gives_the_same_pair(row: dict[str, Any]):
    found = pair(row)
    assert (found.prompt.as_dicts(), found.chosen, found.rejected) == ([USER], "Hello!", "What?")


def test_alpacas_input_is_the_document_that_the_message_speaks_of():
    (sample,) = samples({"instruction": "Sum up.", "input": "A text.", "output": "A."})
    assert sample.as_dicts()[0] == {"role": "context", "content": "A text."}


def test_each_reply_of_a_conversation_is_one_sample():
    found = samples({"messages": [USER, REPLY, USER, WORSE, USER]})
    assert [len(sample.messages) for sample in found] == [2, 4]


def test_the_prompt_of_a_pair_is_what_both_sides_begin_with():
    found = pair({"chosen": [USER, REPLY, USER, REPLY], "rejected": [USER, REPLY, USER, WORSE]})
    assert found.prompt.as_dicts() == [USER, REPLY, USER]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": [USER, REPLY], "rejected": [USER, REPLY]}, "are the same"),
        ({"chosen": [USER, REPLY], "rejected": [USER, USER]}, "does not end with an assistant"),
        (
            {"chosen": [USER, REPLY, USER, REPLY], "rejected": [USER, WORSE, USER, WORSE]},
            "differ before the last reply",
        ),
        ({"prompt": "Hi", "chosen": "", "rejected": "What?"}, "empty chosen reply"),
        ({"prompt": [USER, REPLY], "chosen": "A", "rejected": "B"}, "prompt ends with"),
        ({"prompt": "Hi", "chosen": 1, "rejected": "B"}, "chosen is neither text nor"),
    ],
)
def test_a_pair_that_would_break_training_is_refused(row: dict[str, Any], reason: str):
    with pytest.raises(RowError, match=reason):
        pair(row)


def test_a_tie_in_score_is_left_out_and_is_no_mistake():
    row = {"chosen": [USER, REPLY], "rejected": [USER, WORSE]}
    with pytest.raises(Filtered, match="score tie"):
        pair({**row, "score_chosen": 7.5, "score_rejected": 7.5})
    assert pair({**row, "score_chosen": 7.5, "score_rejected": 7.0})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": "Hi"}, "messages are not a list"),
        ({"messages": [USER, {"role": "tool", "content": "x"}]}, "unknown role 'tool'"),
        ({"messages": [USER]}, "no assistant message to train on"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "unknown speaker 'bot'"),
        ({"conversations": "Hi"}, "conversations are not a list"),
        ({"prompt": "Hi", "completion": " "}, "empty assistant message"),
        ({"instruction": "Hi", "output": ""}, "empty assistant message"),
        ({"instruction": ["Hi"], "output": "x"}, "instruction is not text"),
    ],
)
def test_a_record_that_is_no_conversation_is_refused(row: dict[str, Any], reason: str):
    with pytest.raises(RowError, match=reason):
        samples(row)
