"""A journal adds up the tallies of all parts and reports the progress."""

from collections import Counter

import pytest

from gpt2chat.core.data.journal import MOST_FIELDS, Journal, Progress
from gpt2chat.core.data.tally import Tally
from gpt2chat.core.errors import DataError, RowError
from gpt2chat.core.inputs.records import Record


def tally(file: str, records: int, *broken: int) -> Tally:
    made = Tally("mine", file, records)
    for line in broken:
        made.drop(Record(file, line, {}, "not JSON", "{"), RowError("not JSON"))
    return made


def test_the_counts_of_all_parts_are_added():
    journal = Journal(strict=False, listener=lambda _: None)
    journal.add(tally("a.jsonl", 3, 2), done=0.5)
    journal.add(tally("a.jsonl", 2, 4), done=1.0)
    journal.drop("mine", "duplicate", 2)
    journal.drop("mine", "nothing", 0)
    assert journal.dropped == {"mine": {"not JSON": 2, "duplicate": 2}}


def test_strict_stops_at_the_first_bad_record():
    journal = Journal(strict=True, listener=lambda _: None)
    journal.add(tally("a.jsonl", 3), done=0.5)
    with pytest.raises(DataError, match="a.jsonl, line 5"):
        journal.add(tally("a.jsonl", 3, 5), done=1.0)


def test_a_file_without_one_usable_record_is_refused():
    journal = Journal(strict=False, listener=lambda _: None)
    journal.add(tally("a.jsonl", 1, 1), done=0.5)
    journal.add(tally("a.jsonl", 2, 2), done=1.0)
    journal.require_usable()
    journal.add(tally("b.jsonl", 2, 4, 5), done=1.0)
    with pytest.raises(DataError, match="b.jsonl, line 4"):
        journal.require_usable()


def test_progress_counts_every_record_once():
    told: list[Progress] = []
    journal = Journal(strict=False, listener=told.append)
    journal.say("mine", "a.jsonl is read")
    journal.read("mine", [tally("a.jsonl", 600)], done=0.2)
    for _ in range(2):
        journal.add(tally("a.jsonl", 617), done=0.6)
    assert [progress.note for progress in told] == ["a.jsonl is read", "", "", ""]
    assert [progress.records for progress in told] == [0, 600, 617, 1234]
    assert sum(progress.advance for progress in told) == 1234
    assert journal.notes == ["a.jsonl is read"]


def test_many_different_unused_fields_are_counted_together():
    journal = Journal(strict=False, listener=lambda _: None)
    for part in range(3):
        names = [f"field {part * 100 + n}" for n in range(100)]
        journal.add(Tally("mine", "a.jsonl", 100, unused=Counter(["tools", "tools", *names])), 0.1)
    assert len(journal.unused["mine"]) == MOST_FIELDS
    assert journal.unused["mine"]["tools"] == 6
    assert journal.unused["mine"].total() == 306
