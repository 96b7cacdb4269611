"""Broken input, of every kind that was thought of and of kinds that were not.

Never a traceback: a run ends with one clear line, or every record is a row, or is lost with its
line and reason in dropped.jsonl.
"""

import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.prepare import PrepareResult, prepare
from gpt2chat.core.data.shards import read_samples
from gpt2chat.core.errors import DataError, Gpt2ChatError
from tests.helpers import ignore

OFF: dict[str, Any] = {"oasst1": "off", "alpaca": "off", "ultrafeedback": "off"}
GOOD = b'{"prompt": "Hi", "completion": "Hello"}\n'
DEEP = 100_000


def run(folder: Path, **given: Any) -> PrepareResult:
    settings: dict[str, Any] = {"out": folder / "data", "holdout": 0.0, "workers": 1}
    return prepare(PrepareConfig(**{**OFF, **settings, **given}), ignore)


def lost(result: PrepareResult) -> list[dict[str, Any]]:
    text = (result.out / "dropped.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def row(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"


BROKEN: dict[str, tuple[bytes, str]] = {
    "a NUL byte": (b'{"prompt": "a\x00", "completion": "b"}\n', "not JSON"),
    "an escaped lone surrogate": (row(prompt="\ud800", completion="b"), "lone surrogate"),
    "bytes that are no UTF-8": (b'{"prompt": "\xff", "completion": "b"}\n', "not UTF-8"),
    "UTF-16": ('{"prompt": "a"}'.encode("utf-16-le") + b"\n", "not JSON"),
    "a line that is cut": (GOOD[:20] + b"\n", "not JSON"),
    "a number": (b"1\n", "not an object"),
    "a list": (b'["prompt"]\n', "not an object"),
    "null": (b"null\n", "not an object"),
    "deep lists": (b"[" * DEEP + b"]" * DEEP + b"\n", "nested too deep"),
    "deep objects": (b'{"prompt": ' * DEEP + b"1" + b"}" * DEEP + b"\n", "nested too deep"),
    "a number of many digits": (b'{"prompt": ' + b"9" * 5_000 + b"}\n", "a number too long"),
    "a prompt that is a number": (row(prompt=1, completion="b"), "prompt"),
    "a prompt that is null": (row(prompt=None, completion="b"), "no field prompt"),
    "a reply that is a list of texts": (row(prompt="a", completion=["b"]), "not an object"),
    "a reply of white space": (row(prompt="a", completion=" \n\u3000"), "empty assistant message"),
    "a reply of control characters": (row(prompt="a", completion="\x07\x1b"), "empty assistant"),
    "a prompt of no messages": (row(prompt=[], completion="b"), "prompt"),
    "a reply longer than the window": (row(prompt="a", completion="b " * 9_000), "longer than"),
    "10 MB of one letter": (row(prompt="a", completion="b" * 10**7), "longer than the window"),
    "10 MB of white space": (row(prompt="a", completion=" " * 10**7 + "b"), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_is_lost_with_its_reason_and_the_others_stay(tmp_path: Path, name: str):
    line, reason = BROKEN[name]
    file = tmp_path / "a.jsonl"
    file.write_bytes(GOOD + line + row(prompt="Bye", completion="See you"))
    result = run(tmp_path, chat=(str(file),))
    found = lost(result)
    if reason:
        assert [entry["line"] for entry in found] == [2]
        assert reason in found[0]["reason"]
    rows = result.manifest.counts["sft"]["a.jsonl"]["train"]
    assert rows + len(found) == 3
    assert len(read_samples(result.out, "train")) == rows


FILES: dict[str, tuple[str, bytes]] = {
    "an empty file": ("a.jsonl", b""),
    "blank lines": ("a.jsonl", b"\n \r\n\n"),
    "a gzip file cut short": ("a.jsonl.gz", gzip.compress(GOOD * 100)[:-5]),
    "a gzip file with a broken checksum": ("a.jsonl.gz", gzip.compress(GOOD)[:-8] + b"\0" * 8),
    "a gzip header alone": ("a.jsonl.gz", gzip.compress(GOOD)[:10]),
    "text that is no gzip": ("a.jsonl.gz", GOOD),
    "gzip that is no text": ("a.jsonl", gzip.compress(GOOD)),
    "a Parquet file cut short": ("a.parquet", b"PAR1" + b"\0" * 100),
    "a list without its end": ("a.json", b"[" + GOOD),
    "a deep list": ("a.json", b"[" * DEEP),
    "one object over many lines": ("a.json", json.dumps({"prompt": "a"}, indent=2).encode()),
    "a picture": ("a.json", bytes(range(256)) * 40),
}


@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_is_one_clear_line(tmp_path: Path, name: str):
    called, content = FILES[name]
    file = tmp_path / called
    file.write_bytes(content)
    with pytest.raises(DataError) as told:
        run(tmp_path, chat=(str(file),))
    assert called in str(told.value)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "data").exists()


TREES: dict[str, tuple[list[dict[str, Any]], int, str]] = {
    "an orphan": ([{"message_id": "x", "parent_id": "gone"}], 1, "no whole path"),
    "a message that is its own parent": ([{"message_id": "x", "parent_id": "x"}], 1, "no whole"),
    "a circle": (
        [{"message_id": "x", "parent_id": "y"}, {"message_id": "y", "parent_id": "x"}],
        2,
        "no whole path",
    ),
    "an id that comes twice": ([{"message_id": "a"}], 1, "message id seen before"),
    "a text that is no text": ([{"message_id": "x", "text": 7}], 1, "text is not text"),
    "an unknown role": ([{"message_id": "x", "role": "king"}], 1, "unknown role"),
    "an empty text": ([{"message_id": "x", "parent_id": "u", "text": " "}], 1, "empty"),
    "a reply to a reply": ([{"message_id": "x", "parent_id": "a"}], 1, "reply without a user"),
    "a reply to nothing": ([{"message_id": "x"}], 1, "no user message"),
    "a lone surrogate": ([{"message_id": "x", "parent_id": "u", "text": "\udfff"}], 1, "surrogate"),
}


@pytest.mark.parametrize("name", TREES)
def test_a_broken_tree_loses_what_is_broken_and_no_more(tmp_path: Path, name: str):
    rows, number, reason = TREES[name]
    common = {"parent_id": None, "text": "Hello", "role": "assistant", "lang": "en"}
    good = [
        {**common, "message_id": "a", "parent_id": "u"},  # before its parent
        {**common, "message_id": "u", "role": "prompter", "text": "Hi"},
    ]
    file = tmp_path / "a.jsonl"
    file.write_bytes(
        b"".join(row(**values) for values in [*good, *({**common, **r} for r in rows)])
    )
    result = run(tmp_path, oasst1=str(file))
    found = lost(result)
    assert [entry["line"] for entry in found] == [3, 4][:number]
    assert all(reason in entry["reason"] for entry in found)
    assert [sample.id for sample in read_samples(result.out, "train")] == ["a"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
texts = st.text(max_size=30) | st.sampled_from(["<|eot_id|>", "a" * 9_000, "\ud800", "\x00", "🙂"])
turns = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system", "tool"]) | json_values,
            "content": texts | json_values,
        }
    ),
    max_size=4,
)  # fmt: skip


def mostly(*names: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects that have some of these fields, and others."""
    known = st.fixed_dictionaries({}, optional=dict.fromkeys(names, values))
    extra = st.dictionaries(st.text(max_size=8), json_values, max_size=2)
    return st.tuples(extra, known).map(lambda pair: {**pair[0], **pair[1]})


anything = texts | turns | json_values
RECORDS: dict[str, tuple[dict[str, Any], st.SearchStrategy[dict[str, Any]]]] = {
    "chat": (
        {"prompt": "Hi", "completion": "Hello"},
        mostly("prompt", "completion", "messages", values=anything),
    ),
    "preference": (
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"},
        mostly("prompt", "chosen", "rejected", "score_chosen", "score_rejected", values=anything),
    ),
    "alpaca": (
        {"instruction": "Hi", "output": "Hello"},
        mostly("instruction", "input", "output", values=anything),
    ),
}


@pytest.mark.parametrize("flag", RECORDS)
@settings(derandomize=True, deadline=None, max_examples=120)
@given(data=st.data())
def test_every_record_is_a_row_or_lost_with_its_reason(flag: str, data: st.DataObject):
    good, strategy = RECORDS[flag]
    records = data.draw(st.lists(strategy, max_size=6))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "a.jsonl"
        file.write_bytes(b"".join(row(**record) for record in [good, *records]))
        given = {flag: str(file) if flag == "alpaca" else (str(file),)}
        result = run(folder, **given)
        kind, source = (
            ("preference" if flag == "preference" else "sft"),
            result.notes[0].split(":")[0],
        )
        rows = result.manifest.counts[kind][source]["train"]
        # A record may be dropped for two reasons, and a filtered one is counted but not listed.
        dropped = result.manifest.dropped.get(source, {})
        places = {row["line"] for row in lost(result)}
        assert rows + len(places) <= 1 + len(records) <= rows + sum(dropped.values())
        for reason in {row["reason"] for row in lost(result)}:
            assert dropped[reason] == len([1 for row in lost(result) if row["reason"] == reason])


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.lists(st.binary(max_size=40) | st.just(GOOD), max_size=6), st.data())
def test_no_bytes_end_in_a_traceback(parts: list[bytes], data: st.DataObject):
    names: list[tuple[str, Callable[[bytes], bytes]]] = [
        ("a.jsonl", bytes), ("a.json", bytes), ("a.parquet", bytes), ("a.jsonl.gz", bytes),
        ("a.jsonl.gz", gzip.compress), ("a.jsonl.xz", bytes), ("a.jsonl.zst", bytes),
        ("a.jsonl.bz2", bytes),
    ]  # fmt: skip
    called, packed = data.draw(st.sampled_from(names))
    flag = data.draw(st.sampled_from(["oasst1", "alpaca", "ultrafeedback"]))
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / called
        file.write_bytes(packed(b"\n".join(parts)))
        try:
            run(Path(name), **{flag: str(file)})
        except Gpt2ChatError as error:
            assert "\n" not in str(error)  # noqa: PT017
