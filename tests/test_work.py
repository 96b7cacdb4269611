"""A job is one chunk of records, and its part is the same wherever it is done."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.samples import Sides
from gpt2chat.core.data.tally import Tally
from gpt2chat.core.data.work import Job, Records, finished, run
from gpt2chat.core.inputs.records import Chunk
from gpt2chat.core.inputs.shapes import CHAT_SHAPES, PREFERENCE_SHAPES, shape_named

MESSAGES = shape_named("messages", CHAT_SHAPES)
CHOSEN = shape_named("preference", PREFERENCE_SHAPES)
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def job(stem: Path, *rows: dict[str, Any] | str, shape: Any = MESSAGES, window: int = 64) -> Job:
    lines = [
        (number, (row if isinstance(row, str) else json.dumps(row)).encode())
        for number, row in enumerate(rows, start=1)
    ]
    task = Records(Chunk("a.jsonl", 0, 1.0, lines=lines), shape)
    return Job(stem, "mine", Sides("train", 0.0, 0), task, PrepareConfig(max_length=window), 1.0)


def test_each_record_becomes_rows_or_is_counted(tmp_path: Path):
    long = [*TURNS[:1], {"role": "assistant", "content": "word " * 200}]
    part = run(job(tmp_path / "1", {"messages": TURNS}, "{", {"messages": long}, {"messages": 1}))
    assert part.rows == 1
    assert (part.tally.records, part.tally.bad) == (4, 2)
    assert part.tally.dropped == {
        "not JSON": 1,
        "longer than the window": 1,
        "field messages is not a list of messages": 1,
    }
    lost = [json.loads(line) for line in part.dropped.read_text().splitlines()]
    assert sorted(row["line"] for row in lost) == [2, 3, 4]
    row = json.loads(part.lines.read_bytes())
    assert row["conversation"] == TURNS
    assert part.index()["line"].tolist() == [1]


def test_a_record_with_two_problems_counts_once(tmp_path: Path):
    asked = {"messages": [{"role": "user", "content": ""}]}
    part = run(job(tmp_path / "1", {"messages": TURNS}, asked))
    assert (part.tally.records, part.tally.bad) == (2, 1)
    assert len(part.tally.dropped) == 2


def test_records_that_cannot_be_read_need_no_shape(tmp_path: Path):
    part = run(job(tmp_path / "1", "{", "[", shape=None))
    assert (part.rows, part.tally.bad) == (0, 2)


def test_records_of_one_chunk_may_have_different_shapes(tmp_path: Path):
    row = {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}
    part = run(job(tmp_path / "1", row, {**row, "rejected": "Hello"}, shape=CHOSEN))
    assert part.rows == 1
    assert part.tally.dropped == {"chosen and rejected replies are the same": 1}


def test_a_row_has_its_remarks(tmp_path: Path):
    typed = {"role": "assistant", "content": "It ends with <|eot_id|>\x07."}
    part = run(job(tmp_path / "1", {"messages": [TURNS[0], typed]}))
    # Control token names are the second remark, removed control characters the fourth.
    assert part.index()["remarks"].tolist() == [0b1010]


def test_a_tally_makes_a_part_without_rows(tmp_path: Path):
    done = replace(job(tmp_path / "1"), task=Tally("mine", "a.jsonl", 7))
    part = run(done)
    assert (part.rows, part.tally.records) == (0, 7)


def test_a_finished_job_is_found_again(tmp_path: Path):
    asked = job(tmp_path / "1", {"messages": TURNS})
    assert finished(asked) is None
    part = run(asked)
    assert finished(asked) == part
