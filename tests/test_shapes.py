"""Records of every shape that others write become the same samples and pairs."""

import math
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2chat.core.errors import ConfigError, RowError
from gpt2chat.core.inputs.shapes import (
    CHAT_SHAPES,
    PREFERENCE_SHAPES,
    ChatShape,
    Filtered,
    PreferenceShape,
    detect,
    shape_named,
)
from gpt2chat.core.text.conversations import Conversation, Preference
from tests.helpers import sample_rows

USER = {"role": "user", "content": "Hi"}
REPLY = {"role": "assistant", "content": "Hello!"}
WORSE = {"role": "assistant", "content": "What?"}
HI = {"from": "human", "value": "Hi"}
HELLO = {"from": "gpt", "value": "Hello!"}
CHOSEN = "\n\nHuman: Hi\n\nAssistant: Hello!"
REJECTED = "\n\nHuman: Hi\n\nAssistant: What?"
PAIR = {"chosen": [USER, REPLY], "rejected": [USER, WORSE]}


def parts(*texts: str) -> list[dict[str, str | None]]:
    """Return message content as a list of parts, with the empty fields that a table adds."""
    return [{"type": "text", "text": text, "image_url": None} for text in texts]


def chat_shape(row: dict[str, Any]) -> ChatShape:
    shape = detect(row, CHAT_SHAPES)
    assert shape is not None
    return shape


def samples(row: dict[str, Any]) -> list[Conversation]:
    return chat_shape(row).convert(row)


def pair(row: dict[str, Any]) -> Preference:
    shape = detect(row, PREFERENCE_SHAPES)
    assert shape is not None
    return shape.convert(row)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("messages", {"messages": [USER, REPLY]}),
        ("messages", {"messages": [USER, {"role": "assistant", "content": parts("Hello!")}]}),
        ("sharegpt", {"conversations": [HI, HELLO]}),
        ("sharegpt", {"conversations": [USER, REPLY]}),
        ("sharegpt", {"conversations": [{**HI, "role": None}, {**REPLY, "from": None}]}),
        ("prompt-completion", {"prompt": "Hi", "completion": "Hello!"}),
        ("prompt-completion", {"prompt": [USER], "completion": [REPLY]}),
        ("prompt-completion", {"prompt": "Hi", "completion": [REPLY]}),
        ("alpaca", {"instruction": "Hi", "input": "", "output": "Hello!"}),
        ("alpaca", {"instruction": "Hi", "input": None, "output": "Hello!"}),
        ("alpaca", {"instruction": "Hi", "output": " Hello!\n", "text": "### Instruction: Hi"}),
        ("alpaca", {"instruction": "Hi", "response": "Hello!"}),
        ("alpaca", {"instruction": "Hi", "context": "", "response": "Hello!", "category": "qa"}),
    ],
)
def test_every_chat_shape_gives_the_same_sample(name: str, row: dict[str, Any]):
    assert chat_shape(row).name == name
    assert [sample.as_dicts() for sample in samples(row)] == [[USER, REPLY]]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("preference", {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}),
        ("preference", {"prompt": [USER], "chosen": [REPLY], "rejected": [WORSE]}),
        ("preference", {"prompt": "Hi", "prompt_id": "1", "messages": [USER, REPLY], **PAIR}),
        ("preference", {"prompt": [USER], **PAIR}),
        ("chosen-rejected", PAIR),
        ("chosen-rejected", {"prompt": None, **PAIR}),
        ("hh", {"chosen": CHOSEN, "rejected": REJECTED}),
        ("hh", {"chosen": CHOSEN.lstrip(), "rejected": REJECTED}),
    ],
)
def test_every_preference_shape_gives_the_same_pair(name: str, row: dict[str, Any]):
    shape = detect(row, PREFERENCE_SHAPES)
    assert shape is not None
    assert shape.name == name
    found = shape.convert(row)
    assert (found.prompt.as_dicts(), found.chosen, found.rejected) == ([USER], "Hello!", "What?")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("instructions.train.jsonl.gz", "alpaca"),
        ("oasst1.train.chat.jsonl.gz", "messages"),
    ],
)
def test_the_bundled_conversations_have_their_shape(file: str, name: str):
    rows = sample_rows(file, 50)
    assert {chat_shape(row).name for row in rows} == {name}
    assert sum(len(samples(row)) for row in rows) >= 50


def test_the_bundled_pairs_are_pairs_or_ties():
    rows = sample_rows("ultrafeedback.jsonl.gz", 100)
    scored = [row for row in rows if row["score_chosen"] != row["score_rejected"]]
    assert len(scored) == 91
    for row in scored:
        found = pair(row)
        assert found.chosen == row["chosen"][-1]["content"].strip()
        assert found.rejected == row["rejected"][-1]["content"].strip()


def test_pairs_that_hold_messages_too_are_conversations_when_read_as_such():
    row = {"prompt": "Hi", "messages": [USER, REPLY], **PAIR}
    assert chat_shape(row).name == "messages"
    assert [sample.as_dicts() for sample in samples(row)] == [[USER, REPLY]]


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": "Hello!", "rejected": "What?"},
        {"chosen": CHOSEN, "rejected": "What?"},
        {"chosen": CHOSEN, "rejected": [USER, WORSE]},
        {"chosen": 1, "rejected": {}},
        {"prompt": "Hi", "chosen": "Hello!"},
        {"prompt": "Hi", "completion": None},
        {"instruction": "Hi"},
        {"instruction": "Hi", "output": None, "response": None},
        {},
    ],
)
def test_other_records_have_no_shape(row: dict[str, Any]):
    assert detect(row, PREFERENCE_SHAPES) is detect(row, CHAT_SHAPES) is None


def test_a_shape_is_had_by_its_name():
    for shapes in (CHAT_SHAPES, PREFERENCE_SHAPES):
        assert [shape_named(shape.name, shapes) for shape in shapes] == list(shapes)
    names = {shape.name for shape in (*CHAT_SHAPES, *PREFERENCE_SHAPES)}
    assert names == {
        *("messages", "sharegpt", "prompt-completion", "alpaca"),
        *("preference", "chosen-rejected", "hh"),
    }


def test_an_unknown_name_is_refused_with_the_known_ones_in_one_line():
    with pytest.raises(
        ConfigError, match="'hh' is no known shape. Known: messages, sharegpt, "
    ) as e:
        shape_named("hh", CHAT_SHAPES)
    assert "\n" not in str(e.value)


def test_a_shape_can_be_sent_to_another_process():
    for shape in (*CHAT_SHAPES, *PREFERENCE_SHAPES):
        assert pickle.loads(pickle.dumps(shape)) == shape


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Sum up.", "input": "A text.", "output": "A."},
        {"instruction": "Sum up.", "context": "A text.", "response": "A."},
        {"instruction": "Sum up.", "input": " \n", "context": "A text.", "output": "A."},
    ],
)
def test_alpacas_input_is_the_document_that_the_message_speaks_of(row: dict[str, Any]):
    (sample,) = samples(row)
    assert sample.as_dicts()[0] == {"role": "context", "content": "A text."}


@pytest.mark.parametrize(
    ("speaker", "role"),
    [
        *((name, "user") for name in ("human", "user", "prompter")),
        *((name, "assistant") for name in ("gpt", "assistant", "bing", "chatgpt", "bard")),
        ("system", "system"),
    ],
)
def test_sharegpts_speakers_have_their_roles(speaker: str, role: str):
    turn = {"from": speaker, "value": "x"}
    turns = {"user": [turn, HELLO], "assistant": [HI, turn], "system": [turn, HI, HELLO]}[role]
    (sample,) = samples({"conversations": turns})
    assert [message.role for message in sample.messages if message.content == "x"] == [role]


def test_the_text_parts_of_a_message_are_lines_of_it():
    asked = {"role": "user", "content": parts("Sum up:", "A text.")}
    (sample,) = samples({"messages": [asked, REPLY]})
    assert sample.user.content == "Sum up:\nA text."
    found = pair({"prompt": [asked], "chosen": [REPLY], "rejected": [WORSE]})
    assert found.prompt.user.content == "Sum up:\nA text."


def test_each_reply_of_a_conversation_is_one_sample():
    found = samples({"messages": [USER, REPLY, USER, WORSE, USER]})
    assert [len(sample.messages) for sample in found] == [2, 4]


def test_a_prompt_of_several_messages_is_one_sample():
    (sample,) = samples({"prompt": [USER, WORSE, USER], "completion": [REPLY]})
    assert sample.as_dicts() == [USER, WORSE, USER, REPLY]


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [USER, REPLY, USER, REPLY], "rejected": [USER, REPLY, USER, WORSE]},
        {
            "chosen": f"{CHOSEN}\n\nHuman: Hi\n\nAssistant: Hello!",
            "rejected": f"{CHOSEN}\n\nHuman: Hi\n\nAssistant: What?",
        },
    ],
)
def test_the_prompt_of_a_pair_is_what_both_sides_begin_with(row: dict[str, Any]):
    assert pair(row).prompt.as_dicts() == [USER, REPLY, USER]


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
        ({"prompt": "Hi", "chosen": [REPLY], "rejected": [USER]}, "rejected is neither text nor"),
        ({"prompt": "Hi", "chosen": "\ud83d", "rejected": "B"}, "lone surrogate"),
        ({"prompt": "Hi", "chosen": "A", "rejected": "\ud83d"}, "lone surrogate"),
        ({"chosen": CHOSEN, "rejected": CHOSEN}, "are the same"),
        ({"chosen": CHOSEN, "rejected": "\n\nHuman: Hi"}, "does not end with an assistant"),
        ({"chosen": CHOSEN, "rejected": "\n\nHuman: Hi\n\nAssistant: "}, "empty assistant"),
        ({"chosen": CHOSEN, "rejected": "Human: Oh\n\nAssistant: What?"}, "differ before"),
        ({"chosen": CHOSEN, "rejected": f"{CHOSEN}\n\nHuman: a\n\nAssistant: b"}, "differ before"),
    ],
)
def test_a_pair_that_would_break_training_is_refused(row: dict[str, Any], reason: str):
    with pytest.raises(RowError, match=reason):
        pair(row)


@pytest.mark.parametrize(
    "names",
    [
        ("score_chosen", "score_rejected"),
        ("chosen_score", "rejected_score"),
        ("chosen-rating", "rejected-rating"),
        ("chosen_rating", "rejected_rating"),
    ],
)
def test_a_tie_in_score_is_left_out_and_is_no_mistake(names: tuple[str, str]):
    def scored(chosen: Any, rejected: Any) -> dict[str, Any]:
        return {**PAIR, names[0]: chosen, names[1]: rejected}

    with pytest.raises(Filtered, match="score tie"):
        pair(scored(7.5, 7.5))
    with pytest.raises(Filtered, match="score tie"):
        pair(scored(7, 7.0))
    no_ties = [(7.5, 7.0), (math.nan, math.nan), (None, None), (7.5, None), ([7], [7]), ("7", "7")]
    assert all(pair(scored(*scores)) for scores in no_ties)


@pytest.mark.parametrize("prompt", [None, "Hi"])
def test_a_tie_in_score_is_one_in_every_shape(prompt: str | None):
    row = {"prompt": prompt, "chosen": CHOSEN, "rejected": REJECTED, "score_chosen": 1}
    with pytest.raises(Filtered, match="score tie"):
        pair({**row, "score_rejected": 1})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": "Hi"}, "field messages is not a list of messages"),
        ({"messages": []}, "field messages is not a list of messages"),
        ({"messages": [USER] * 2001}, "more than 2,000 messages"),
        ({"messages": [USER, "Hi"]}, "message is not an object"),
        ({"messages": [USER, {"role": "bot", "content": "x"}]}, "unknown role 'bot'"),
        ({"messages": [USER, {"content": "x"}]}, "unknown role NoneType"),
        ({"messages": [USER, {"role": "tool", "content": "x"}, REPLY]}, "tool message"),
        ({"messages": [USER, {"role": "function", "content": "x"}, REPLY]}, "tool message"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "without content"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": []}]}, "without content"),
        ({"messages": [{"role": "user", "content": None}]}, "message content is not text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "a part that is not"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "a part that is not"),
        ({"messages": [{"role": "user", "content": []}]}, "empty user message"),
        ({"messages": [USER]}, "no assistant message to train on"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "unknown role 'bot'"),
        ({"conversations": [{"from": "observation", "value": "x"}]}, "tool message"),
        ({"conversations": "Hi"}, "field conversations is not a list of messages"),
        ({"prompt": "Hi", "completion": " "}, "empty assistant message"),
        ({"prompt": [USER, REPLY], "completion": "x"}, "prompt ends with an assistant"),
        ({"prompt": "Hi", "completion": [REPLY, REPLY]}, "completion is neither text nor"),
        ({"instruction": "Hi", "output": ""}, "empty assistant message"),
        ({"instruction": ["Hi"], "output": "x"}, "instruction is not text"),
        ({"instruction": "Hi", "input": 1, "output": "x"}, "input is not text"),
        ({"instruction": "Hi", "output": 1}, "output is not text"),
    ],
)
def test_a_record_that_is_no_conversation_is_refused(row: dict[str, Any], reason: str):
    with pytest.raises(RowError, match=reason):
        samples(row)


@pytest.mark.parametrize("shape", [*CHAT_SHAPES, *PREFERENCE_SHAPES], ids=lambda shape: shape.name)
def test_a_field_that_is_missing_is_named(shape: ChatShape | PreferenceShape):
    with pytest.raises(RowError, match="no field"):
        shape.convert({})


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [{"content": value}]
    return value


HUGE = 10**5000
"""Python refuses to write it out, so nothing may try."""


@pytest.mark.parametrize(
    "role",
    ["x" * 1000, "\ud83d" * 1000, "a\0b\n" * 99, nested(5000), HUGE],
    ids=["long", "surrogates", "control", "deep", "huge"],
)
def test_a_reason_stays_short_whatever_stands_in_the_record(role: Any):
    with pytest.raises(RowError) as error:
        samples({"messages": [{"role": role, "content": "x"}]})
    assert len(error.value.reason) <= len("unknown role ") + 20
    assert error.value.reason.isprintable()


NAMES = ("prompt", "completion", "chosen", "rejected", "messages", "conversations")
OTHERS = ("instruction", "input", "output", "context", "response", "score_chosen", "score_rejected")
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.sampled_from([CHOSEN, REJECTED, "user", "assistant", "system", "tool", "gpt", "text"])
    | st.text(st.characters(exclude_categories=()), max_size=8)
    | st.sampled_from(["\ud83d", "a\0b", "Human:", "\n\nHuman: \ud83d\n\nAssistant: a"])
)
FIELDS = st.sampled_from(["role", "content", "from", "value", "type", "text"])
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS, inner),
    max_leaves=12,
)
ROLE = st.sampled_from(["user", "assistant", "system", "context", "human", "gpt", "tool"])
TURN = st.fixed_dictionaries(
    {}, optional={"role": ROLE, "from": ROLE, "content": JSON, "value": JSON}
)
ROWS = st.dictionaries(st.sampled_from(NAMES + OTHERS), JSON | st.lists(TURN, max_size=4))


def assert_only_row_errors(row: Mapping[str, Any]) -> None:
    for shapes in (CHAT_SHAPES, PREFERENCE_SHAPES):
        detect(row, shapes)
        for shape in shapes:
            assert_converts(shape, row)


def assert_converts(shape: ChatShape | PreferenceShape, row: Mapping[str, Any]) -> None:
    try:
        found = shape.convert(row)
    except RowError as error:
        assert len(error.reason) < 100  # noqa: PT017
        return
    texts = [found.chosen, found.rejected] if isinstance(found, Preference) else []
    assert all(text.encode() for text in texts)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS)
def test_any_json_object_is_converted_or_refused(row: dict[str, Any]):
    assert_only_row_errors(row)


@pytest.mark.parametrize(
    "value",
    [nested(3000), HUGE, "a\0b", "\ud83d", math.nan, math.inf, {}],
    ids=["deep", "huge", "nul", "surrogate", "nan", "infinite", "empty"],
)
def test_no_value_of_any_field_breaks_the_conversion(value: Any):
    assert_only_row_errors(dict.fromkeys(NAMES + OTHERS, value))
    assert_only_row_errors({name: [{"role": value, "from": value}] for name in NAMES})
    assert_only_row_errors({name: [{"role": "user", "content": value}, REPLY] for name in NAMES})


def test_a_reply_that_is_labelled_as_bad_is_no_sample():
    row = {"prompt": "Hi", "completion": "Go away!"}
    assert len(samples({**row, "label": True})) == len(samples({**row, "label": None})) == 1
    with pytest.raises(Filtered, match="reply labelled as bad"):
        samples({**row, "label": False})
