"""Records of every shape that others write become the same samples and pairs."""

import json
import math
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2chat.core.errors import ConfigError, RowError
from gpt2chat.core.inputs.shapes import (
    CHAT_SHAPES,
    PREFERENCE_SHAPES,
    Filtered,
    Shape,
    detect,
    read_record,
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


def chat_shape(row: dict[str, Any]) -> Shape:
    shape = detect(row, CHAT_SHAPES)
    assert shape is not None
    return shape


def samples(row: dict[str, Any]) -> list[Conversation]:
    return cast(list[Conversation], read(row, chat_shape(row)))


def pair(row: dict[str, Any]) -> Preference:
    shape = detect(row, PREFERENCE_SHAPES)
    assert shape is not None
    (content,) = read(row, shape)
    assert isinstance(content, Preference)
    return content


def read(row: dict[str, Any], shape: Shape) -> Sequence[object]:
    """Return what a record gives; raise why it gives nothing."""
    reading = read_record(row, shape)
    if not reading.contents:
        raise reading.problems[0]
    return reading.contents


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
    found = pair(row)
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


def test_a_shape_is_found_by_its_name():
    for shapes in (CHAT_SHAPES, PREFERENCE_SHAPES):
        assert [shape_named(shape.name, shapes) for shape in shapes] == list(shapes)
    names = {shape.name for shape in (*CHAT_SHAPES, *PREFERENCE_SHAPES)}
    assert names == {
        *("messages", "sharegpt", "prompt-completion", "alpaca"),
        *("preference", "chosen-rejected", "hh"),
    }


def test_an_unknown_shape_is_refused():
    with pytest.raises(ConfigError, match="sharegpt") as error:
        shape_named("hh", CHAT_SHAPES)
    assert error.value.setting == "shape"


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
def test_alpacas_input_is_the_context_of_the_message(row: dict[str, Any]):
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
def test_sharegpts_speakers_become_roles(speaker: str, role: str):
    turn = {"from": speaker, "value": "x"}
    turns = {"user": [turn, HELLO], "assistant": [HI, turn], "system": [turn, HI, HELLO]}[role]
    (sample,) = samples({"conversations": turns})
    assert [message.role for message in sample.messages if message.content == "x"] == [role]


def test_the_text_parts_of_a_message_become_its_lines():
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
def test_the_prompt_of_a_pair_is_the_common_beginning_of_its_sides(row: dict[str, Any]):
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
def test_a_pair_with_equal_scores_is_filtered(names: tuple[str, str]):
    def scored(chosen: Any, rejected: Any) -> dict[str, Any]:
        return {**PAIR, names[0]: chosen, names[1]: rejected}

    with pytest.raises(Filtered, match="score tie"):
        pair(scored(7.5, 7.5))
    with pytest.raises(Filtered, match="score tie"):
        pair(scored(7, 7.0))
    no_ties = [(7.5, 7.0), (math.nan, math.nan), (None, None), (7.5, None), ([7], [7]), ("7", "7")]
    assert all(pair(scored(*scores)) for scores in no_ties)


@pytest.mark.parametrize("prompt", [None, "Hi"])
def test_a_pair_with_equal_scores_is_filtered_in_every_shape(prompt: str | None):
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
        ({"messages": [USER, {"role": "king", "content": "x"}]}, "unknown role 'king'"),
        ({"messages": [USER, {"content": "x"}]}, "unknown role NoneType"),
        ({"messages": [USER, {"role": "tool", "content": "x"}, REPLY]}, "tool call"),
        ({"messages": [USER, {"role": "function", "content": "x"}, REPLY]}, "tool call"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "empty assistant message"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": []}]}, "empty assistant"),
        ({"messages": [{"role": "user", "content": None}]}, "empty user message"),
        ({"messages": [{"role": "user", "content": 1}]}, "message content is not text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "image"),
        ({"messages": [{"role": "user", "content": [1]}]}, "a part that is not"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "a part without text"),
        ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "a part of type 'x'"),
        ({"messages": [{"role": "user", "content": []}]}, "empty user message"),
        ({"messages": [USER]}, "no assistant message to train on"),
        ({"conversations": [{"from": "king", "value": "x"}]}, "unknown role 'king'"),
        ({"conversations": [{"from": "observation", "value": "x"}]}, "tool call"),
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
def test_a_record_that_is_not_a_conversation_is_refused(row: dict[str, Any], reason: str):
    with pytest.raises(RowError, match=reason):
        samples(row)


@pytest.mark.parametrize("shape", [*CHAT_SHAPES, *PREFERENCE_SHAPES], ids=lambda shape: shape.name)
def test_the_reason_names_a_missing_field(shape: Shape):
    with pytest.raises(RowError, match="no field"):
        read({}, shape)


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
def test_a_reason_stays_short_whatever_the_record_contains(role: Any):
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


def assert_converts(shape: Shape, row: Mapping[str, Any]) -> None:
    reading = read_record(row, shape)
    assert reading.contents or reading.problems
    assert all(len(problem.reason) < 100 for problem in reading.problems)
    pairs = [content for content in reading.contents if isinstance(content, Preference)]
    assert all(text.encode() for pair in pairs for text in (pair.chosen, pair.rejected))


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


def test_a_reply_labelled_as_bad_is_not_a_sample():
    row = {"prompt": "Hi", "completion": "Go away!"}
    assert len(samples({**row, "label": True})) == len(samples({**row, "label": None})) == 1
    with pytest.raises(Filtered, match="reply labelled as bad"):
        samples({**row, "label": False})


def shown(row: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return what a record trains: all texts of each sample, or of the pair."""
    shape = detect(row, PREFERENCE_SHAPES if "chosen" in row else CHAT_SHAPES)
    assert shape is not None
    texts: list[tuple[str, ...]] = []
    for content in read_record(row, shape).contents:
        if isinstance(content, Preference):
            prompt = tuple(message.content for message in content.prompt.messages)
            texts.append((*prompt, content.chosen, content.rejected))
        else:
            texts.append(tuple(message.content for message in content.messages))
    return texts


def reasons(row: dict[str, Any]) -> list[str]:
    shape = detect(row, PREFERENCE_SHAPES if "chosen" in row else CHAT_SHAPES)
    assert shape is not None
    return [problem.reason for problem in read_record(row, shape).problems]


SYSTEM = {"role": "system", "content": "Be brief."}
TOOL_CALLS = [{"type": "function", "function": {"name": "weather", "arguments": "{}"}}]


def replied(text: str, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **fields}


LABELLED = [
    {"messages": [USER, REPLY]},
    {"conversations": [HI, HELLO]},
    {"prompt": "Hi", "completion": "Hello!"},
    {"instruction": "Hi", "output": "Hello!"},
]


@pytest.mark.parametrize("row", LABELLED, ids=lambda row: "-".join(row))
@pytest.mark.parametrize("name", ["label", "kto_tag"])
@pytest.mark.parametrize("label", [False, 0, 0.0, -1, "false", "False", " FALSE ", "0", "bad"])
def test_a_reply_with_a_bad_label_is_filtered_in_every_shape(
    row: dict[str, Any], name: str, label: Any
):
    assert shown({**row, name: label}) == []
    assert reasons({**row, name: label}) == ["reply labelled as bad"]


@pytest.mark.parametrize("row", LABELLED, ids=lambda row: "-".join(row))
@pytest.mark.parametrize("label", [True, 1, 1.0, "true", "good", None])
def test_a_reply_with_a_good_label_is_trained_in_every_shape(row: dict[str, Any], label: Any):
    assert shown({**row, "label": label}) == [("Hi", "Hello!")]


@pytest.mark.parametrize("label", ["sports", 3, 0.5, ["false"], {"a": 0}])
def test_a_label_that_means_neither_good_nor_bad_is_reported(label: Any):
    row = {**LABELLED[0], "label": label}
    assert read_record(row, chat_shape(row)).unused == ["label"]


@pytest.mark.parametrize(
    "mark",
    [
        *({name: value} for name in ("weight", "train", "training", "loss")
          for value in (0, 0.0, False, "false")),
        {"training_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]},
        {"finish_reason": "length"},
        {"cut": True},
    ],
    ids=str,
)  # fmt: skip
def test_a_reply_marked_as_not_trained_stays_in_the_history(mark: dict[str, Any]):
    messages = [USER, replied("No idea.", **mark), USER, replied("Lima.", weight=1, train=True)]
    assert shown({"messages": messages}) == [("Hi", "No idea.", "Hi", "Lima.")]
    assert len(reasons({"messages": messages})) == 1


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"cut": True}], ids=str)
def test_a_mark_on_the_record_applies_to_all_its_messages(mark: dict[str, Any]):
    for row in (*LABELLED, {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}):
        assert shown({**row, **mark}) == []


def test_a_weight_that_is_neither_0_nor_1_is_reported():
    row = {"messages": [USER, replied("Lima.", weight=0.5)]}
    assert read_record(row, chat_shape(row)).unused == ["messages.weight"]


@pytest.mark.parametrize("name", ["system", "system_prompt"])
@pytest.mark.parametrize(
    "row",
    [*LABELLED, {"prompt": [USER], "completion": [REPLY]}, {"question": "Hi", "response": "Hello!"},
     {"messages": [{"role": "system", "content": ""}, USER, REPLY]},
     {"messages": [SYSTEM, USER, REPLY]}],
    ids=lambda row: "-".join(row),
)  # fmt: skip
def test_the_system_prompt_of_a_record_is_used_in_every_shape(name: str, row: dict[str, Any]):
    assert shown({**row, name: "Be brief."}) == [("Be brief.", "Hi", "Hello!")]


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"chosen": CHOSEN, "rejected": REJECTED},
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"},
        {"question": "Hi", "chosen": "Hello!", "rejected": "What?"},
        {"conversations": [HI], "chosen": HELLO, "rejected": {"from": "gpt", "value": "What?"}},
        {"instruction": "", "input": "Hi", "chosen": "Hello!", "rejected": "What?"},
    ],
)
def test_the_system_prompt_of_a_pair_is_used_in_every_shape(row: dict[str, Any]):
    assert shown({**row, "system": "Be brief."}) == [("Be brief.", "Hi", "Hello!", "What?")]


@pytest.mark.parametrize("empty", ["", " ", None])
def test_an_empty_system_prompt_is_the_default_one(empty: str | None):
    messages = [{"role": "system", "content": empty}, USER, REPLY]
    for row in ({"messages": messages}, {"messages": [USER, REPLY], "system": empty}):
        assert shown(row) == [("Hi", "Hello!")]


def test_an_empty_system_prompt_does_not_hide_another_field():
    row = {"messages": [USER, REPLY], "system": "", "system_prompt": "Be brief."}
    assert shown(row) == [("Be brief.", "Hi", "Hello!")]
    assert reasons({"messages": [USER, REPLY], "system": {"a": 1}}) == ["system is not text"]


def test_two_different_system_prompts_are_refused():
    assert reasons({"messages": [SYSTEM, USER, REPLY], "system": "Be kind."}) == [
        "two system prompts"
    ]


@pytest.mark.parametrize(
    "history",
    [
        [["Is it you?", "Yes."]],
        '[["Is it you?", "Yes."]]',
        [{"role": "user", "content": "Is it you?"}, {"role": "assistant", "content": "Yes."}],
    ],
    ids=["pairs", "JSON text", "messages"],
)
def test_the_history_comes_before_the_question(history: Any):
    row = {"instruction": "Sum up.", "input": "A text.", "output": "A.", "history": history}
    assert shown(row) == [("A text.", "Is it you?", "Yes.", "Sum up.", "A.")]
    assert shown({"prompt": "Sum up.", "completion": "A.", "history": history}) == [
        ("Is it you?", "Yes.", "Sum up.", "A.")
    ]


@pytest.mark.parametrize("history", ["Hi", [["Hi"]], [1], {"a": 1}, [["Hi", 1]]])
def test_a_history_that_cannot_be_read_is_refused(history: Any):
    row = {"instruction": "Sum up.", "output": "A.", "history": history}
    assert (shown(row), len(reasons(row))) == ([], 1)


@pytest.mark.parametrize(
    "document",
    ["<noinput>", "No input", "N/A", "None", "<no input>.", "No Input", "noinput", "n/a",
     "No input required.", "nan", "NULL", "(none)", " \n", float("nan")],
)  # fmt: skip
def test_alpacas_phrases_for_no_input_are_not_a_context(document: Any):
    row = {"instruction": "Name a fish.", "input": document, "output": "A cod."}
    assert shown(row) == [("Name a fish.", "A cod.")]


@pytest.mark.parametrize("document", ["None of them came.", "5", "[]", "()", "Input: no"])
def test_a_short_input_is_a_context(document: str):
    row = {"instruction": "Name a fish.", "input": document, "output": "A cod."}
    assert shown(row) == [(document, "Name a fish.", "A cod.")]


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_with_an_empty_instruction_the_input_is_the_question(empty: str | None):
    row = {"instruction": empty, "input": "Name a bird.", "output": "A robin."}
    (sample,) = read(row, shape_named("alpaca", CHAT_SHAPES))
    assert isinstance(sample, Conversation)
    assert [message.content for message in sample.messages] == ["Name a bird.", "A robin."]


@pytest.mark.parametrize(
    "prompt", ["\n\nHuman: Hi\n\nAssistant:", "Human: Hi\n\nAssistant: ", "\n\nHuman: Hi"]
)
def test_a_transcript_in_the_prompt_is_parsed(prompt: str):
    row = {"prompt": prompt, "chosen": " Hello!", "rejected": " What?"}
    assert shown(row) == [("Hi", "Hello!", "What?")]
    assert shown({"prompt": prompt, "completion": " Hello!"}) == [("Hi", "Hello!")]
    assert shown({"prompt": prompt, "chosen": CHOSEN, "rejected": REJECTED}) == shown(row)


def test_an_instruction_may_quote_a_transcript():
    asked = "Human: Hi\n\nAssistant: Hello!\n\nWho speaks first?"
    assert shown({"instruction": asked, "output": "Human."}) == [(asked, "Human.")]


PICTURE = {"type": "image_url", "image_url": {"url": "a.jpg"}}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, REPLY], "images": ["a.jpg"]},
        {"conversations": [HI, HELLO], "image": "a.jpg"},
        {"conversations": [{"from": "human", "value": "<image>\nWhat is this?"}, HELLO]},
        {"messages": [{"role": "user", "content": "What is this? <image>"}, REPLY]},
        {"messages": [{"role": "user", "content": [PICTURE]}, REPLY]},
        {"messages": [{"role": "user", "content": [*parts("Hi"), PICTURE]}, REPLY]},
        {"messages": [{**USER, "images": ["a.jpg"]}, REPLY]},
        {"prompt": "<image>Hi", "completion": "Hello!"},
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?", "images": ["a.jpg"]},
        {"instruction": "Hi", "output": "Hello!", "image": {"bytes": "x"}},
    ],
)
def test_a_record_with_an_image_a_video_or_a_sound_is_refused(row: dict[str, Any]):
    assert (shown(row), reasons(row)) == ([], ["image"])


@pytest.mark.parametrize("nothing", [None, [], "", False, {"bytes": None, "path": None}])
def test_an_empty_image_field_does_not_matter(nothing: Any):
    assert shown({"messages": [USER, REPLY], "images": nothing}) == [("Hi", "Hello!")]


def test_a_text_may_mention_the_image_tag():
    asked = {"role": "user", "content": "What does <image> mean in SVG?"}
    assert len(shown({"messages": [asked, REPLY]})) == 1


@pytest.mark.parametrize(
    "call",
    [
        replied("Let me look.", tool_calls=TOOL_CALLS),
        {"role": "assistant", "content": None, "tool_calls": TOOL_CALLS},
        {"role": "assistant", "content": "", "function_call": {"name": "weather"}},
        {"from": "function_call", "value": "{}"},
        {"role": "Tool", "content": "sunny"},
        {"from": "observation", "value": "sunny"},
        replied('<tool_call>{"name": "weather"}</tool_call>'),
        replied('<functioncall> {"name": "weather"}'),
        {"role": "assistant", "content": [{"type": "tool_use", "name": "weather"}]},
        {"role": "assistant", "content": [{"type": "python", "text": "1+1"}]},
    ],
    ids=str,
)
def test_a_tool_call_and_everything_after_it_is_refused(call: dict[str, Any]):
    row = {"messages": [USER, REPLY, USER, call, {"role": "tool", "content": "x"}, USER, WORSE]}
    assert shown(row) == [("Hi", "Hello!")]
    assert reasons(row) == ["tool call"]


def test_empty_tool_fields_are_not_a_tool_call():
    reply = {**REPLY, "tool_calls": None, "function_call": {"name": None, "arguments": None}}
    assert shown({"messages": [USER, reply], "tools": "[]"}) == [("Hi", "Hello!")]


@pytest.mark.parametrize(
    ("messages", "samples", "reason"),
    [
        ([USER, replied(""), USER, REPLY], [("Hi", "Hi", "Hello!")], "empty assistant message"),
        ([USER, REPLY, {**USER, "content": " "}, WORSE], [("Hi", "Hello!")], "empty user message"),
        ([USER, REPLY, {"role": "king", "content": "x"}, USER, WORSE], [("Hi", "Hello!")],
         "unknown role 'king'"),
        ([USER, REPLY, SYSTEM, USER, WORSE], [("Hi", "Hello!")],
         "system message not at the beginning"),
        ([USER, REPLY, WORSE], [("Hi", "Hello!")], "reply without a user message before it"),
    ],
)  # fmt: skip
def test_a_bad_turn_does_not_affect_the_samples_before_it(
    messages: list[dict[str, Any]], samples: list[tuple[str, ...]], reason: str
):
    row = {"messages": messages}
    found = shown(row)
    assert found[: len(samples)] == samples
    assert reason in reasons(row)


def test_a_reply_to_an_empty_message_is_not_trained():
    messages = [USER, {**USER, "content": ""}, REPLY, USER, WORSE]
    assert shown({"messages": messages}) == [("Hi", "Hello!", "Hi", "What?")]


@pytest.mark.parametrize(
    ("spelling", "role"),
    [
        ("developer", "system"), ("System", "system"), ("DEVELOPER", "system"),
        ("model", "assistant"), ("GPT", "assistant"), ("Assistant", "assistant"),
        ("bot", "assistant"), ("Human", "user"), ("USER", "user"), (" user ", "user"),
    ],
)  # fmt: skip
def test_roles_are_recognised_in_any_spelling_and_case(spelling: str, role: str):
    roles = {"system": spelling, "user": "user", "assistant": "assistant"}
    roles |= {role: spelling}
    turns = [{"role": roles[name], "content": name} for name in ("system", "user", "assistant")]
    for row in ({"messages": turns}, {"conversations": turns}, {"conversation": turns}):
        assert shown(row) == [("system", "user", "assistant")]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": json.dumps([USER, REPLY])},
        {"conversations": json.dumps([HI, HELLO], indent=1)},
        {"prompt": json.dumps([USER]), "completion": json.dumps([REPLY])},
        {"prompt": json.dumps(USER), "completion": json.dumps(REPLY)},
    ],
)
def test_messages_as_json_text_are_parsed(row: dict[str, Any]):
    assert shown(row) == [("Hi", "Hello!")]


def test_a_pair_as_json_text_is_parsed():
    sides = {name: json.dumps(side) for name, side in PAIR.items()}
    assert shown(sides) == [("Hi", "Hello!", "What?")]


@pytest.mark.parametrize("text", ['{"role": "king"', '["role"]', '{"name": "Bo", "role": "admin"}'])
def test_other_text_that_looks_like_json_stays_text(text: str):
    assert shown({"prompt": text, "completion": "Hello!"}) == [(text, "Hello!")]
    assert shown({"prompt": "Hi", "completion": text}) == [("Hi", text)]


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "value": "Hi"}],
        [{"type": "input_text", "text": "Hi"}],
        [{"text": "Hi"}],
        ["Hi"],
        {"type": "text", "text": "Hi"},
    ],
)
def test_content_parts_are_read_in_every_spelling(content: Any):
    assert shown({"messages": [{"role": "user", "content": content}, REPLY]}) == [("Hi", "Hello!")]


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [HI], "chosen": HELLO, "rejected": {"from": "gpt", "value": "What?"}},
        {"conversations": [HI], "chosen": [HELLO], "rejected": [{"from": "gpt", "value": "What?"}]},
        {"messages": [USER], "chosen": REPLY, "rejected": WORSE},
        {"prompt": "Hi", "chosen": REPLY, "rejected": WORSE},
        {"instruction": "Hi", "input": "", "chosen": "Hello!", "rejected": "What?"},
        {"system": "", "question": "Hi", "chosen": "Hello!", "rejected": "What?"},
        {"prompt": "Hi", "messages": [USER, REPLY], **PAIR},
        {"prompt": CHOSEN.removesuffix(" Hello!"), "chosen": CHOSEN, "rejected": REJECTED},
    ],
)
def test_the_pairs_of_known_data_sets_are_read(row: dict[str, Any]):
    shape = detect(row, PREFERENCE_SHAPES)
    assert shape is not None
    (found,) = read(row, shape)
    assert isinstance(found, Preference)
    assert (found.prompt.as_dicts(), found.chosen, found.rejected) == ([USER], "Hello!", "What?")
    assert read_record(row, shape).unused == []


def test_the_document_and_the_history_of_a_pair_are_part_of_its_prompt():
    row = {"instruction": "Sum up.", "input": "A text.", "history": [["a", "b"]]}
    assert shown({**row, "chosen": "A.", "rejected": "B."}) == [
        ("A text.", "a", "b", "Sum up.", "A.", "B.")
    ]


def test_a_prompt_next_to_two_conversations_is_their_beginning():
    assert shown({"prompt": [SYSTEM, USER], **PAIR}) == [("Be brief.", "Hi", "Hello!", "What?")]
    other = {"prompt": [{"role": "user", "content": "Bye"}], **PAIR}
    assert reasons(other) == ["the prompt is not what the sides begin with"]
