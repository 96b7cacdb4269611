"""What is left out is counted, and kept aside where it is broken."""

import json

from gpt2chat.core.data.tally import Tally
from gpt2chat.core.errors import RowError
from gpt2chat.core.inputs.records import Record
from gpt2chat.core.inputs.shapes import Filtered

BROKEN = Record("a.jsonl", 2, {}, "not JSON", '{"text')


def test_a_broken_record_is_counted_and_listed_unchanged():
    tally = Tally("mine", "a.jsonl")
    tally.drop(BROKEN, RowError(BROKEN.problem))
    tally.drop(Record("a.jsonl", 3, {"text": 1}), RowError("text is not text"))
    assert tally.dropped == {"not JSON": 1, "text is not text": 1}
    assert (tally.bad, tally.first_bad) == (2, "a.jsonl, line 2: not JSON")
    assert [json.loads(line) for line in tally.lines] == [
        {"source": "mine", "file": "a.jsonl", "line": 2, "reason": "not JSON", "text": '{"text'},
        {
            "source": "mine",
            "file": "a.jsonl",
            "line": 3,
            "reason": "text is not text",
            "text": '{"text": 1}',
        },
    ]


def test_a_filtered_record_is_counted_and_not_listed():
    tally = Tally("mine", "a.jsonl")
    tally.drop(Record("a.jsonl", 1, {"text": "x"}), Filtered("score tie"))
    assert tally.dropped == {"score tie": 1}
    assert (tally.bad, tally.lines) == (0, [])


def test_a_record_with_half_a_surrogate_pair_is_listed():
    tally = Tally("mine", "a")
    tally.drop(Record("a", 1, {"text": "\ud83d"}), RowError("text with a lone surrogate"))
    tally.lines[0].encode()
    assert json.loads(json.loads(tally.lines[0])["text"]) == {"text": "\ud83d"}


def test_only_the_beginning_of_a_long_record_is_listed():
    tally = Tally("mine", "a")
    tally.drop(Record("a", 1, {"text": "x" * 10**6}), RowError("no user message"))
    assert len(tally.lines[0]) < 70_000
