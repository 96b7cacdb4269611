"""No field of a record is ignored without a word."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pyarrow import parquet

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.prepare import PrepareResult, prepare
from gpt2chat.core.inputs.fields import IRRELEVANT, Fields, is_empty
from gpt2chat.core.inputs.shapes import (
    CHAT_SHAPES,
    PREFERENCE_SHAPES,
    Reading,
    detect,
    read_record,
)
from gpt2chat.report.prepare import show_prepare
from tests.helpers import ignore

USER = {"role": "user", "content": "Hi"}
REPLY = {"role": "assistant", "content": "Hello!"}
WORSE = {"role": "assistant", "content": "What?"}
CHAT: list[dict[str, Any]] = [
    {"messages": [USER, REPLY]},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
    {"prompt": "Hi", "completion": "Hello!"},
    {"prompt": [USER], "completion": [REPLY]},
    {"instruction": "Hi", "input": "", "output": "Hello!"},
]
PAIRS: list[dict[str, Any]] = [
    {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"},
    {"chosen": [USER, REPLY], "rejected": [USER, WORSE]},
    {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!",
        "rejected": "\n\nHuman: Hi\n\nAssistant: What?",
    },
    {"conversations": [USER], "chosen": REPLY, "rejected": WORSE},
]
RECORDS = [*CHAT, *PAIRS]

# Values with which a field of these names changes what a record gives, so it is not ignored.
TELLING: dict[str, Any] = {
    **dict.fromkeys(("system", "system_prompt", "system_message"), "Be brief."),
    **dict.fromkeys(("input", "context"), "A document."),
    "history": [["Is it you?", "Yes."]],
    **dict.fromkeys(("label", "kto_tag", "weight", "train", "training"), 0),
    **dict.fromkeys(("cut", "truncated"), True),
    **dict.fromkeys(("finish_reason", "stop_reason"), "length"),
    **dict.fromkeys(("image", "images", "image_path", "image_url"), ["a.jpg"]),
    **dict.fromkeys(("video", "videos", "audio", "audios"), ["a.mp4"]),
}
NAMES = st.sampled_from([*TELLING, "tools", "margin", "notes", "rubric", *sorted(IRRELEVANT)])
VALUES = (
    st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
    | st.lists(st.text(max_size=4), max_size=2)
    | st.dictionaries(st.text(max_size=4), st.integers(), max_size=2)
)  # fmt: skip


def read(row: dict[str, Any]) -> Reading:
    shape = detect(row, PREFERENCE_SHAPES if "chosen" in row else CHAT_SHAPES)
    assert shape is not None
    return read_record(row, shape)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: "-".join(record))
@given(name=NAMES | st.text(min_size=1, max_size=12), value=VALUES)
def test_a_field_is_used_or_irrelevant_or_empty_or_reported(
    record: dict[str, Any], name: str, value: Any
):
    row = {**record, name: value}
    assume(name not in record)
    reading = read(row)
    is_used = reading.contents != read(record).contents or name in TELLING
    repeats = isinstance(value, str) and value.strip() in ("Hi", "Hello!", "What?")
    reported = name[:40] in reading.unused
    assert is_used or reported or name in IRRELEVANT or is_empty(value) or repeats


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: "-".join(record))
@pytest.mark.parametrize("name", TELLING)
def test_a_field_that_changes_the_meaning_is_never_ignored(record: dict[str, Any], name: str):
    reading, plain = read({**record, name: TELLING[name]}), read(record)
    assert reading.contents != plain.contents or name in reading.unused


@given(
    st.dictionaries(st.text(max_size=8), VALUES, max_size=4),
    st.sampled_from(["user", "assistant"]),
)
def test_the_fields_of_a_message_are_reported_too(extra: dict[str, Any], role: str):
    reserved = {"role", "from", "content", "value", "text", *TELLING}
    extra = {name: value for name, value in extra.items() if name not in reserved}
    messages = [{**entry, **(extra if entry["role"] == role else {})} for entry in (USER, REPLY)]
    reading = read({"messages": messages})
    missed = {name for name, value in extra.items() if not is_empty(value)} - IRRELEVANT
    assert {f"messages.{name}" for name in missed} == set(reading.unused)


def test_a_field_of_a_content_part_is_reported():
    part = {"type": "text", "text": "Hi", "annotations": ["x"], "image_url": None}
    reading = read({"messages": [{"role": "user", "content": [part]}, REPLY]})
    assert reading.unused == ["messages.content.annotations"]


def test_an_empty_cell_of_a_table_is_not_reported():
    empty = {"a": None, "b": "", "c": [], "d": {"x": None}, "e": float("nan"), "f": "[]"}
    assert read({**CHAT[0], **empty}).unused == []


@pytest.mark.parametrize(
    "extra",
    [
        {"prompt": "Hi", "prompt_id": "1"},
        {"text": "### Instruction: Hi ### Response: Hello!"},
        {"question": " Hi\n"},
    ],
)
def test_a_field_that_repeats_the_texts_is_not_reported(extra: dict[str, str]):
    assert read({**CHAT[0], **extra}).unused == []


def test_a_long_text_that_contains_the_used_ones_by_chance_is_reported():
    assert read({**CHAT[0], "rubric": "Answer Hi with Hello!, not with What?"}).unused == ["rubric"]


def test_a_second_spelling_with_another_text_is_reported():
    assert read({**CHAT[4], "response": "Hello!"}).unused == []
    assert read({**CHAT[4], "response": "Go away!"}).unused == ["response"]


def test_take_uses_the_first_field_that_is_present():
    fields = Fields({"a": None, "b": 1, "c": 2})
    assert fields.take("a", "b", "c") == 1
    assert list(fields.unused()) == ["c"]


def write(file: Path, rows: Sequence[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def run(folder: Path, *rows: dict[str, Any]) -> PrepareResult:
    return run_on(folder, chat=(write(folder / "a.jsonl", rows),))


def run_on(folder: Path, **sources: Any) -> PrepareResult:
    off = dict.fromkeys(("oasst1", "alpaca", "ultrafeedback"), "off")
    settings: dict[str, Any] = {**off, "out": folder / "data", "holdout": 0, "workers": 1}
    return prepare(PrepareConfig(**{**settings, **sources}), ignore)


def test_the_manifest_counts_unused_fields(tmp_path: Path):
    tools = {"tools": [{"name": "weather"}]}
    rows = [{"prompt": f"Say {n}.", "completion": f"{n}!", **tools} for n in range(3)]
    result = run(tmp_path, *rows, {"prompt": "Hi", "completion": "", "notes": "lost anyway"})
    assert result.manifest.unused == {"a.jsonl": {"tools": 3}}
    assert result.manifest.counts["sft"]["a.jsonl"]["train"] == 3


def test_the_summary_names_unused_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    result = run(tmp_path, {"prompt": "Hi", "completion": "Hello!", "tools": ["x"], "margin": 1})
    show_prepare(result, json=False)
    shown = capsys.readouterr().out.partition("fields that were not used")[2]
    assert "tools" in shown
    assert "margin" in shown


def test_a_record_with_a_bad_reply_is_listed_and_its_other_replies_are_trained(tmp_path: Path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "x"}}]}
    result = run(tmp_path, {"messages": [USER, REPLY, USER, call, {"role": "tool"}, USER, WORSE]})
    assert result.manifest.counts["sft"]["a.jsonl"]["train"] == 1
    assert result.manifest.dropped == {"a.jsonl": {"tool call": 1}}
    (lost,) = (result.out / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
    assert (json.loads(lost)["line"], json.loads(lost)["reason"]) == (1, "tool call")


def test_a_table_of_messages_with_empty_tool_calls_is_read(tmp_path: Path):
    call = [{"function": {"name": "weather", "arguments": "{}"}}]
    rows = [
        {"messages": [{**USER, "tool_calls": None}, {**REPLY, "tool_calls": None}]},
        {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": call}]},
    ]
    file = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), file)
    result = run_on(tmp_path, chat=(str(file),))
    assert result.manifest.counts["sft"]["a.parquet"]["train"] == 1
    assert result.manifest.dropped == {"a.parquet": {"tool call": 1}}


def test_feedback_on_a_cut_reply_is_not_trained(tmp_path: Path):
    prompt = [USER]
    rows = [
        {"prompt": prompt, "completion": "Once upon a", "label": True, "cut": True},
        {"prompt": prompt, "chosen": "Once upon a", "rejected": "No.", "cut": True},
        {"prompt": prompt, "completion": "Hello!", "label": True, "cut": False},
        {"prompt": prompt, "completion": "Go!", "label": False},
    ]
    result = run_on(tmp_path, feedback=(write(tmp_path / "f.jsonl", rows),))
    assert result.manifest.counts == {"sft": {"f.jsonl": {"train": 1}}}
    assert result.manifest.dropped == {
        "f.jsonl": {"reply cut at the limit": 2, "reply labelled as bad": 1}
    }


def test_one_file_may_have_records_of_several_shapes(tmp_path: Path):
    rows = [
        {"prompt": "Hi", "completion": "Hello!"},
        {"messages": [{"role": "user", "content": "Who is it?"}, REPLY]},
        {"instruction": "Name a bird.", "output": "A robin."},
    ]
    assert run(tmp_path, *rows).manifest.counts["sft"]["a.jsonl"]["train"] == 3
    forced = run_on(tmp_path, chat=(str(tmp_path / "a.jsonl"),), shape=("alpaca",))
    assert forced.manifest.counts["sft"]["a.jsonl"]["train"] == 1
