"""All records become chunks in an order that never changes, and a chunk becomes rows or counts."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.chunks import Chunk, Holdout, all_chunks, convert
from gpt2chat.core.data.counts import Counts
from gpt2chat.core.data.rows import CONTROLS, REMARKS, REPAIRED, TYPED
from gpt2chat.core.data.store import INDEX, SPLITS, Part, make_part
from gpt2chat.core.errors import DataError
from gpt2chat.core.inputs import records
from gpt2chat.core.inputs.sources import find_sources, open_sources
from tests.helpers import sample_rows

HI = {"prompt": "Hi", "completion": "Hello"}
OFF: dict[str, Any] = {"oasst1": "off", "alpaca": "off", "ultrafeedback": "off"}
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "CHUNK_ROWS", 4)


def write(name: str, *rows: Any) -> str:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    Path(name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return name


def chunks(notes: list[str] | None = None, **given: Any) -> list[Chunk]:
    settings = PrepareConfig(**{**OFF, **given})
    opened = list(open_sources(find_sources(settings), streaming=False))
    heard: list[str] = [] if notes is None else notes

    def report(source: str, note: str = "", done: float = 0.0) -> None:
        heard.extend([note] if note else [])

    return list(all_chunks(opened, settings, report))


def parts(**given: Any) -> list[Part]:
    return [convert(chunk) for chunk in chunks(**given)]


def rows(*made: Part) -> list[dict[str, Any]]:
    return [json.loads(line) for part in made for line in part.contents["rows"].splitlines()]


def index(part: Part) -> Any:
    import numpy as np

    return np.frombuffer(part.contents["index"], INDEX)


def test_each_chunk_has_the_shape_of_its_files_first_record():
    notes: list[str] = []
    other = {"messages": [{"role": "user", "content": "a"}]}
    files = (write("a.jsonl", *[HI] * 6), write("b.jsonl", "broken", other, HI))
    made = chunks(notes, chat=files)
    names = [chunk.shape.name for chunk in made if chunk.shape]
    assert names == ["prompt-completion", "prompt-completion", "messages"]
    assert [chunk.source for chunk in made] == ["a.jsonl", "a.jsonl", "b.jsonl"]
    assert notes == ["a.jsonl: shape prompt/completion", "b.jsonl: shape messages"]


def test_a_forced_shape_is_not_detected():
    row = {"instruction": "Hi", "output": "Hello", "messages": []}
    (chunk,) = chunks(chat=(write("a.jsonl", row),), shape=("alpaca",))
    assert chunk.shape is not None
    assert (chunk.shape.name, chunk.others) == ("alpaca", ())


def test_chunks_before_the_first_readable_record_have_no_shape():
    made = chunks(chat=(write("a.jsonl", *["broken"] * 5, HI),))
    assert [chunk.shape is None for chunk in made] == [True, False]
    part = convert(made[0])
    assert (part.rows, part.counts.bad["a.jsonl"]["a.jsonl"]) == (0, 4)


def test_a_first_record_that_lacks_a_field_does_not_decide_the_shape():
    (chunk,) = chunks(chat=(write("a.jsonl", {"prompt": "Hi", "completion": None}, HI),))
    assert chunk.shape is not None
    assert chunk.shape.name == "prompt-completion"


def test_chunks_know_the_share_that_has_been_read():
    files = (write("a.jsonl", *[HI] * 10), write("b.jsonl", *[HI] * 10))
    shares = [chunk.done for chunk in chunks(chat=files)]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert 0 < shares[0] < 0.5


@pytest.mark.parametrize("flag", ["chat", "oasst1"])
def test_an_empty_file_is_refused(flag: str):
    Path("a.jsonl").touch()
    with pytest.raises(DataError, match="a.jsonl is empty"):
        chunks(None, **{flag: ("a.jsonl",) if flag == "chat" else "a.jsonl"})


def test_trees_given_as_conversations_are_refused():
    tree = {"message_tree_id": "t", "prompt": {"text": "Hi"}}
    with pytest.raises(DataError, match="`oasst1`"):
        chunks(chat=(write("a.jsonl", tree),))


def test_each_record_becomes_rows_or_is_counted():
    long = [*TURNS[:1], {"role": "assistant", "content": "word " * 200}]
    file = write("a.jsonl", {"messages": TURNS}, "{", {"messages": long}, {"messages": 1})
    (part,) = parts(chat=(file,), max_length=64, holdout=0)
    assert (part.rows, part.counts.records[file], part.counts.bad[file]) == (
        1, {file: 4}, {file: 2},
    )  # fmt: skip
    assert part.counts.dropped[file] == {
        "not JSON": 1,
        "longer than the window": 1,
        "field messages is not a list of messages": 1,
    }
    lost = [json.loads(line) for line in part.contents["dropped"].splitlines()]
    assert sorted(row["line"] for row in lost) == [2, 3, 4]
    assert rows(part)[0]["conversation"] == TURNS
    assert index(part)["line"].tolist() == [1]


def test_a_record_with_two_problems_counts_once():
    asked = {"messages": [{"role": "user", "content": ""}]}
    (part,) = parts(chat=(write("a.jsonl", {"messages": TURNS}, asked),))
    assert part.counts.bad["a.jsonl"] == {"a.jsonl": 1}
    assert len(part.counts.dropped["a.jsonl"]) == 2


def test_records_of_one_chunk_may_have_different_shapes():
    row = {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}
    file = write("a.jsonl", row, {**row, "rejected": "Hello"})
    (part,) = parts(preference=(file,))
    assert part.rows == 1
    assert part.counts.dropped[file] == {"chosen and rejected replies are the same": 1}


def test_a_row_has_its_remarks():
    typed = {"role": "assistant", "content": "It ends with <|eot_id|>\x07."}
    (part,) = parts(chat=(write("a.jsonl", {"messages": [TURNS[0], typed]}),))
    bits = {REMARKS.index(TYPED), REMARKS.index(CONTROLS)}
    assert index(part)["remarks"].tolist() == [sum(1 << bit for bit in bits)]


def test_the_share_that_is_held_out_depends_on_group_and_seed_alone():
    groups = [f"group {n}" for n in range(4000)]

    def held_out(share: float, seed: int = 0) -> set[str]:
        rule = Holdout("train", share, seed)
        return {group for group in groups if rule.split_of(group) == "validation"}

    assert 0.18 < len(held_out(0.2)) / len(groups) < 0.22
    assert held_out(0.0) == set()
    assert held_out(0.1) < held_out(0.2) != held_out(0.2, seed=1)


def message(name: str, parent: str | None, text: str, **fields: Any) -> dict[str, Any]:
    role = "prompter" if name.startswith("u") else "assistant"
    row = {"message_id": name, "parent_id": parent, "message_tree_id": "t", "role": role}
    return {**row, "text": text, "lang": "en", "deleted": False, **fields}


def of_kind(kind: str, *made: Part) -> list[dict[str, Any]]:
    keys = [SPLITS[entry["key"]][0] for part in made for entry in index(part)]
    return [row for row, own in zip(rows(*made), keys, strict=True) if own == kind]


def test_threads_become_samples_then_the_reference_set_then_pairs():
    file = write("valid.jsonl", *sample_rows("oasst1.validation.jsonl.gz", 100))
    made = chunks(oasst1=file, oasst1_pairs=True)
    assert [chunk.kind for chunk in made] == ["sft", "reference", "preference"]
    assert made[0].counts.records == {"oasst1": {file: 100}}
    assert made[-1].done == pytest.approx(1)
    assert convert(made[1]).rows == len(made[1].threads)


def test_ranks_select_training_replies_only():
    replies = [message("a1", "u", "Good", rank=0), message("a2", "u", "Bad", rank=1)]
    for name, number in (("train.jsonl", 1), ("valid.jsonl", 2)):
        file = write(name, message("u", None, "Hi"), *replies)
        made = parts(oasst1=file, oasst1_rank="best", holdout=0)
        assert len(of_kind("sft", *made)) == number
    assert sum(part.counts.dropped["oasst1"]["not the best-ranked reply"] for part in made) == 0


def test_broken_texts_are_repaired_in_samples_and_unchanged_in_the_reference_set():
    broken = "Ein schÃ¶ner Tag"
    file = write("valid.jsonl", message("u", None, "Hi"), message("a", "u", broken))
    made = parts(oasst1=file)
    (sample,), (reference,) = of_kind("sft", *made), of_kind("reference", *made)
    assert sample["conversation"][-1]["content"] == "Ein schöner Tag"
    assert reference["conversation"][-1]["content"] == broken
    assert index(made[0])["remarks"].tolist() == [1 << REMARKS.index(REPAIRED)]


def nested(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the message rows of one tree as the tree export has them."""
    nodes = {row["message_id"]: {**row, "replies": []} for row in rows}
    for row in rows[1:]:
        nodes[row["parent_id"]]["replies"].append(nodes[row["message_id"]])
    root = nodes[rows[0]["message_id"]]
    return {"message_tree_id": root["message_id"], "tree_state": "ready", "prompt": root}


def test_a_broken_message_of_a_tree_affects_no_other():
    found = sample_rows("oasst1.validation.jsonl.gz", 2022)
    tree = [row for row in found if row["message_tree_id"] == found[0]["message_tree_id"]]
    whole = parts(oasst1=write("valid.jsonl", nested(tree)))
    leaf = next(row for row in tree if row["message_id"] not in {r["parent_id"] for r in tree}
                and row["role"] == "assistant")  # fmt: skip
    leaf["text"] = None
    made = parts(oasst1=write("valid.jsonl", nested(tree)))
    assert made[0].counts.dropped["oasst1"] == {"text is not text": 1}
    kept = {row["id"] for row in of_kind("sft", *made)}
    assert kept == {row["id"] for row in of_kind("sft", *whole)} - {leaf["message_id"]}


def test_a_repeated_message_is_dropped_with_its_line():
    row = sample_rows("oasst1.validation.jsonl.gz", 1)[0]
    (part,) = parts(oasst1=write("a.jsonl", row, row))
    assert part.counts.dropped["oasst1"] == {"message id seen before": 1}
    assert json.loads(part.contents["dropped"])["line"] == 2


def test_a_part_may_have_no_rows():
    assert make_part("mine", "a.jsonl", 1.0, Counts(), [], None).rows == 0
