"""Which rows stay: duplicates go, what is measured on is not trained on, a mix is kept to."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from gpt2chat.core.config.prepare import Share
from gpt2chat.core.data.counts import Counts
from gpt2chat.core.data.near import signatures
from gpt2chat.core.data.rows import Item, Row
from gpt2chat.core.data.selection import Selection
from gpt2chat.core.data.shards import Kind
from gpt2chat.core.data.store import SPLITS, Store, make_part
from gpt2chat.core.inputs.datafiles import Split
from gpt2chat.core.text.tokens import Encoded
from tests.helpers import talk

Given = tuple[str, ...]
"""The text of a row, its split, and its kind if that is not `sft`."""
STORY = "the quick brown fox jumps over the lazy dog and runs into the dark wood where it sleeps "


def made_row(number: int, text: str, split: str, kind: str = "sft") -> Row:
    """Return a row with a prompt of 10 tokens and a reply of `number` tokens."""
    digest = hashlib.sha256(text.encode()).digest()[:16]
    values = {
        "id": f"{number}",
        "source": "s",
        "conversation": [{"role": "user", "content": text}],
        "completion": f"{text}<|eot_id|>",
    }
    key = cast(tuple[Kind, Split], (kind, split))
    return Row(
        Item(*key, f"{number}", "s", "g", talk("Hi", "Hello"), "a.jsonl", number),
        line=json.dumps(values).encode() + b"\n",
        samples=[Encoded([number] * (10 + number), 10)],
        text_hash=digest,
        exchange_hash=digest,
        exchange=text,
        remarks=frozenset(),
    )


def select(folder: Path, *parts: tuple[str, Sequence[Given]], broken: str = "") -> Selection:
    """Return the rows of parts, given by source and what each row has."""
    folder.mkdir(exist_ok=True)
    store = Store(folder)
    for source, given in parts:
        rows = [made_row(place, *row) for place, row in enumerate(given)]
        signed = signatures([row.exchange for row in rows])
        numbered = [(row, 1) for row in rows]
        counts = Counts(lines=[broken])
        store.add(make_part(source, "a.jsonl", 1.0, counts, numbered, signed))
    return Selection(store, Counts())


def counted(selection: Selection) -> dict[str, dict[str, int]]:
    dropped = selection.counts.dropped
    return {source: dict(counter) for source, counter in dropped.items()}


def test_only_the_first_of_several_duplicates_in_a_split_stays(tmp_path: Path):
    selection = select(
        tmp_path,
        ("a", [("one", "train"), ("two", "train"), ("four", "validation")]),
        ("b", [("two", "train"), ("three", "train"), ("two", "train")]),
    )
    selection.remove_duplicates("exact")
    assert selection.is_selected.tolist() == [True, True, True, False, True, False]
    assert counted(selection) == {"b": {"duplicate": 2}}
    assert [removal.reason for removal in selection.removals] == ["duplicate"]


def test_the_reference_set_keeps_its_duplicates(tmp_path: Path):
    rows: list[Given] = [("one", "validation", "reference")] * 2
    selection = select(tmp_path, ("a", rows))
    selection.remove_duplicates("near")
    assert selection.is_selected.all()


def test_with_dedup_off_all_rows_stay(tmp_path: Path):
    selection = select(tmp_path, ("a", [("one", "train")] * 3))
    selection.remove_duplicates("off")
    assert selection.is_selected.all()


def test_near_duplicates_are_removed_from_training_only(tmp_path: Path):
    nearly = STORY + "deeply"
    rows: list[Given] = [(STORY, "train"), (nearly, "train"), ("else " * 30, "train")]
    held: list[Given] = [(STORY + "a", "validation"), (STORY + "b", "validation")]
    selection = select(tmp_path, ("a", rows), ("b", held))
    selection.remove_duplicates("near")
    assert selection.is_selected.tolist() == [False, False, True, True, True]
    assert counted(selection)["a"] == {"near-duplicate": 1, "nearly also in validation": 1}


def test_a_training_row_that_is_also_in_validation_is_removed(tmp_path: Path):
    rows: list[Given] = [("one", "train"), ("two", "train"), ("two", "train", "preference")]
    held: list[Given] = [("two", "validation", "reference")]
    selection = select(tmp_path, ("a", rows), ("b", held))
    selection.remove_duplicates("off")
    assert selection.is_selected.tolist() == [True, False, False, True]
    assert counted(selection) == {"a": {"also in validation": 2}}


def test_a_training_row_that_is_nearly_in_validation_is_removed(tmp_path: Path):
    selection = select(
        tmp_path,
        ("a", [("A: " + STORY, "train"), ("else " * 30, "train")]),
        ("b", [(STORY, "validation", "reference")]),
    )
    selection.remove_duplicates("exact")
    assert selection.is_selected.all()
    selection.remove_duplicates("near")
    assert selection.is_selected.tolist() == [False, True, True]
    assert counted(selection) == {"a": {"nearly also in validation": 1}}


def test_training_rows_are_shuffled_and_validation_rows_keep_their_order(tmp_path: Path):
    rows: list[Given] = [(f"text {n}", "train") for n in range(50)]
    rows += [(f"text {n}", "validation") for n in range(50)]
    selection = select(tmp_path, ("a", rows))
    first, again, other = (selection.order(0, {}, seed).places.tolist() for seed in (0, 0, 1))
    assert sorted(first) == list(range(50))
    assert first == again
    assert first != other
    assert first != sorted(first)
    assert selection.order(1, {}, 0).places.tolist() == list(range(50, 100))


def test_removing_rows_keeps_the_order_of_the_others(tmp_path: Path):
    rows: list[Given] = [(f"text {n}", "train") for n in range(50)]
    all_rows = select(tmp_path / "a", ("a", rows)).order(0, {}, 0).places.tolist()
    fewer = select(tmp_path / "b", ("a", rows[:30])).order(0, {}, 0).places.tolist()
    assert fewer == [place for place in all_rows if place < 30]


@pytest.mark.parametrize(
    ("share", "number"),
    [
        (Share(0.5), 20),
        (Share(2.0), 80),
        (Share(2.5), 100),
        (Share(1.0, 7), 7),
        (Share(3.0, 50), 50),
        (Share(0), 0),
    ],
)
def test_a_mix_takes_its_share_of_each_source(tmp_path: Path, share: Share, number: int):
    rows: list[Given] = [(f"text {n}", "train") for n in range(40)]
    selection = select(tmp_path, ("a", rows), ("b", [("other", "train")]))
    order = selection.order(0, {"a": share}, 0)
    assert sorted(order.places.tolist()).count(40) == 1
    mine = order.places[order.places < 40]
    assert len(mine) == number
    often = np.bincount(mine, minlength=40)
    assert often.max() - often.min() <= 1
    pairs = {(place, again) for place, again in zip(*order, strict=True)}
    assert len(pairs) == number + 1
    dropped = {"a": {"left out by the mix": 40 - number}} if number < 40 else {}
    assert counted(selection) == dropped


def test_every_split_has_a_key():
    assert len(SPLITS) == len(set(SPLITS)) == 5
