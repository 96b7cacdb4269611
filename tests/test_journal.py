"""What is left out is counted, and kept aside where it is broken."""

import io
import json

import pytest

from gpt2chat.core.errors import DataError, RowError
from gpt2chat.core.journal import Journal, Progress
from gpt2chat.core.records import Record
from gpt2chat.core.shapes import Filtered

GOOD = Record("a.jsonl", 1, {"text": "x"})
BROKEN = Record("a.jsonl", 2, {}, "not JSON", '{"text')


class Kept(io.StringIO):
    @property
    def rows(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


def journal(kept: Kept, *, strict: bool = False, told: list[Progress] | None = None) -> Journal:
    heard = [] if told is None else told
    return Journal(kept, strict=strict, listener=heard.append)


def test_a_broken_record_is_counted_and_kept_aside_as_it_stands():
    kept = Kept()
    made = journal(kept)
    assert list(made.sound("mine", "a.jsonl", [GOOD, BROKEN])) == [GOOD]
    assert made.dropped == {"mine": {"not JSON": 1}}
    assert kept.rows == [
        {"source": "mine", "file": "a.jsonl", "line": 2, "reason": "not JSON", "text": '{"text'}
    ]


def test_what_is_sound_and_not_wanted_is_counted_only():
    kept = Kept()
    made = journal(kept, strict=True)
    made.reject("mine", GOOD, Filtered("score tie"))
    assert made.dropped == {"mine": {"score tie": 1}}
    assert kept.rows == []


def test_half_a_surrogate_pair_can_be_kept_aside():
    kept = Kept()
    journal(kept).reject("mine", Record("a", 1, {"text": "\ud83d"}), RowError("surrogate"))
    assert json.loads(str(kept.rows[0]["text"])) == {"text": "\ud83d"}


def test_strict_stops_at_the_place():
    made = journal(Kept(), strict=True)
    with pytest.raises(
        DataError, match="a.jsonl, line 2: not JSON. Mend it, or leave out --strict"
    ):
        list(made.sound("mine", "a.jsonl", [GOOD, BROKEN]))


@pytest.mark.parametrize(
    ("records", "said"),
    [([], "a.jsonl is empty"), ([BROKEN, BROKEN], "none of its 2 records.*a.jsonl, line 2")],
)
def test_a_file_without_one_usable_record_is_refused(records: list[Record], said: str):
    with pytest.raises(DataError, match=said):
        list(journal(Kept()).sound("mine", "a.jsonl", records))


def test_progress_counts_every_record_once():
    told: list[Progress] = []
    made = journal(Kept(), told=told)
    for _ in range(2):
        list(made.sound("mine", "a.jsonl", [GOOD] * 1234))
    assert sum(progress.advance for progress in told) == 2468
    assert told[-1].records == 2468
