"""Rows become shards: without duplicates, in a drawn order, in files of a limited size."""

import hashlib
from collections.abc import Generator
from pathlib import Path

import pytest

from gpt2chat.core import writer
from gpt2chat.core.rows import Row
from gpt2chat.core.shards import Kind
from gpt2chat.core.writer import Spool


def row(number: int, exchange: int | None = None) -> Row:
    """Return a row whose text and last exchange are numbers."""
    return Row(
        source="odd" if number % 2 else "even",
        line=b"%d\n" % number,
        text_hash=bytes([number]),
        exchange_hash=bytes([number if exchange is None else exchange]),
        prompt_tokens=10,
        trained_tokens=number,
        length=10 + number,
        shortened=False,
        typed_control=False,
    )


@pytest.fixture
def spool(tmp_path: Path) -> Generator[Spool]:
    opened = Spool(tmp_path, "sft", "train")
    yield opened
    opened.close()


def test_a_text_is_kept_once(spool: Spool):
    assert [spool.add(row(n)) for n in (1, 2, 1)] == [True, True, False]
    assert spool.counts() == {"odd": 1, "even": 1}


def test_the_reference_set_keeps_what_it_has_twice(tmp_path: Path):
    kind: Kind = "reference"
    spool = Spool(tmp_path, kind, "validation")
    assert [spool.add(row(1)) for _ in range(2)] == [True, True]
    spool.close()


def test_rows_that_are_measured_on_leave_the_training_rows(spool: Spool, tmp_path: Path):
    other = Spool(tmp_path, "sft", "validation")
    other.add(row(2))
    other.add(row(40, exchange=3))
    for number in range(1, 6):
        spool.add(row(number))
    assert spool.without(other) == {"even": 1, "odd": 1}
    assert [entry.trained_tokens for entry in spool.entries] == [1, 4, 5]
    other.close()


def test_shards_hold_every_row_once_and_say_what_they_are(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(writer, "SHARD_ROWS", 4)
    for number in range(10):
        spool.add(row(number))
    shards = list(spool.write(tmp_path, seed=0))
    assert [shard.path for shard in shards] == [
        f"sft/train-0000{n}-of-00003.jsonl" for n in range(3)
    ]
    assert [shard.rows for shard in shards] == [4, 4, 2]
    contents = [(tmp_path / shard.path).read_bytes() for shard in shards]
    assert [hashlib.sha256(content).hexdigest() for content in contents] == [
        shard.sha256 for shard in shards
    ]
    numbers = [int(line) for content in contents for line in content.split()]
    assert sorted(numbers) == list(range(10))
    assert numbers != list(range(10))


def test_validation_rows_keep_their_order(tmp_path: Path):
    spool = Spool(tmp_path, "sft", "validation")
    for number in range(9):
        spool.add(row(number))
    (shard,) = spool.write(tmp_path, seed=0)
    assert (tmp_path / shard.path).read_text().split() == [str(n) for n in range(9)]
    spool.close()


def test_lengths_are_counted_by_eighths_of_the_window(spool: Spool):
    for number in (0, 6, 7, 54, 99):
        spool.add(row(number))
    assert spool.lengths(window=64) == [0, 2, 1, 0, 0, 0, 0, 2]
    assert spool.tokens() == {"prompt": 50, "trained": 166}


def test_nothing_is_left_of_a_spool(tmp_path: Path):
    Spool(tmp_path, "sft", "train").close()
    assert not list(tmp_path.iterdir())
