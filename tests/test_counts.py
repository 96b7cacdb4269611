"""What is left out is counted, and listed where it is broken."""

import json

from gpt2chat.core.data.counts import MOST_FIELDS, Counts
from gpt2chat.core.errors import RowError
from gpt2chat.core.inputs.records import Record
from gpt2chat.core.inputs.shapes import Filtered

BROKEN = Record("a.jsonl", 2, {}, "not JSON", '{"text')


def test_a_broken_record_is_counted_and_listed_unchanged():
    counts = Counts()
    counts.drop("mine", BROKEN, RowError(BROKEN.problem))
    counts.drop("mine", Record("a.jsonl", 3, {"text": 1}), RowError("text is not text"))
    assert counts.dropped == {"mine": {"not JSON": 1, "text is not text": 1}}
    assert counts.bad == {"mine": {"a.jsonl": 2}}
    assert counts.first_bad == {"a.jsonl": "a.jsonl, line 2: not JSON"}
    assert [json.loads(line) for line in counts.lines] == [
        {"source": "mine", "file": "a.jsonl", "line": line, "reason": reason, "text": text}
        for line, reason, text in (
            (2, "not JSON", '{"text'),
            (3, "text is not text", '{"text": 1}'),
        )
    ]


def test_a_filtered_record_is_counted_and_not_listed():
    counts = Counts()
    counts.drop("mine", Record("a.jsonl", 1, {"text": "x"}), Filtered("score tie"))
    assert counts.dropped == {"mine": {"score tie": 1}}
    assert (counts.bad, counts.lines) == ({}, [])


def test_a_record_with_half_a_surrogate_pair_is_listed():
    counts = Counts()
    record = Record("a", 1, {"text": "\ud83d"})
    counts.drop("mine", record, RowError("text with a lone surrogate"))
    counts.lines[0].encode()
    assert json.loads(json.loads(counts.lines[0])["text"]) == {"text": "\ud83d"}


def test_only_the_beginning_of_a_long_record_is_listed():
    counts = Counts()
    counts.drop("mine", Record("a", 1, {"text": "x" * 10**6}), RowError("no user message"))
    assert len(counts.lines[0]) < 70_000


def test_the_counts_of_chunks_are_added():
    counts, other = Counts(), Counts()
    for line in (2, 4):
        chunk = Counts()
        chunk.records["mine"]["a.jsonl"] += 3
        chunk.drop("mine", Record("a.jsonl", line, {}, "not JSON"), RowError("not JSON"))
        counts.add(Counts.of(json.loads(json.dumps(chunk.as_dict()))))
    other.dropped["mine"]["duplicate"] += 2
    counts.add(other)
    assert counts.dropped == {"mine": {"not JSON": 2, "duplicate": 2}}
    assert (counts.records, counts.bad) == ({"mine": {"a.jsonl": 6}}, {"mine": {"a.jsonl": 2}})
    assert counts.first_bad == {"a.jsonl": "a.jsonl, line 2: not JSON"}


def test_many_different_unused_fields_are_counted_together():
    counts = Counts()
    for part in range(3):
        chunk = Counts()
        names = [f"field {part * 100 + n}" for n in range(100)]
        chunk.unused["mine"].update(["tools", "tools", *names])
        counts.add(chunk)
    assert len(counts.unused["mine"]) == MOST_FIELDS
    assert counts.unused["mine"]["tools"] == 6
    assert counts.unused["mine"].total() == 306
