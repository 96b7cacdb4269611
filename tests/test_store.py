"""The parts of chunks are stored completely or not at all, and found again by the next run."""

from pathlib import Path

import numpy as np
import pytest

from gpt2chat.core.data.counts import Counts
from gpt2chat.core.data.near import PERMUTATIONS
from gpt2chat.core.data.rows import CONTROLS, REMARKS, TYPED, Item, make_row
from gpt2chat.core.data.store import FILES, INDEX, SPLITS, Part, Store, make_part
from gpt2chat.core.errors import RowError
from gpt2chat.core.inputs.records import Record
from gpt2chat.core.text.conversations import Conversation, Message, Preference
from tests.helpers import talk


def part(*contents: Conversation | Preference, line: int = 1) -> Part:
    counts = Counts()
    counts.drop("mine", Record("a.jsonl", line, {}, "not JSON", "{"), RowError("not JSON"))
    rows = [
        (make_row(Item("sft", "validation", "id", "mine", "g", one, "a.jsonl", 7,
                       frozenset({TYPED, CONTROLS})), 1024), 3)
        for one in contents
    ]  # fmt: skip
    signed = np.ones((len(rows), PERMUTATIONS), np.uint32)
    return make_part("mine", "a.jsonl", 0.5, counts, [(r, n) for r, n in rows if r], signed)


def test_parts_are_found_again_as_they_were_added(tmp_path: Path):
    pair = Preference(talk("Hi"), "Hello", "Go away")
    first = Store(tmp_path)
    for made in (part(talk("Hi", "Hello"), pair), part(), part(talk("a", "b", "c", "d"))):
        first.add(made)
    store = Store(tmp_path)
    assert store.parts == first.parts
    index, lines = store.read("index", INDEX), store.read("rows").tobytes().splitlines(True)
    ids = store.read("ids", np.uint16)
    assert [one.rows for one in store.parts] == [2, 0, 1]
    assert index["size"].tolist() == list(map(len, lines))
    assert [SPLITS[key] for key in index["key"]] == [("sft", "validation")] * 3
    assert {tuple(REMARKS[bit] for bit in range(5) if remarks >> bit & 1)
            for remarks in index["remarks"].tolist()} == {(TYPED, CONTROLS)}  # fmt: skip
    assert (index["line"].tolist(), index["reply_number"].tolist()) == ([7] * 3, [3] * 3)
    assert (index["second"] > 0).tolist() == [False, True, False]
    tokens = (
        index["prompt"]
        + index["first"]
        + np.where(index["second"] > 0, index["prompt"] + index["second"], 0)
    )
    assert len(ids) == tokens.sum()


def test_a_row_may_contain_characters_that_json_escapes(tmp_path: Path):
    odd = Conversation((Message("user", 'a\u2028"\\\x7f'), Message("assistant", "\u0000b")))
    assert part(odd).contents["rows"].count(b"\n") == 1


@pytest.mark.parametrize("name", [*FILES, "chunks"])
@pytest.mark.parametrize("damage", ["cut", "zeros"])
def test_a_part_that_lost_something_is_made_again(name: str, damage: str, tmp_path: Path):
    parts = [part(talk("Hi", f"Hello {number}"), line=number) for number in range(3)]
    store = Store(tmp_path)
    for one in parts:
        store.add(one)
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    keep = len(whole[name]) - 5
    (tmp_path / name).write_bytes(whole[name][:keep] + bytes(5) * (damage == "zeros"))
    store = Store(tmp_path)
    assert len(store.parts) == 2
    store.add(part(talk("Hi", "Hello 2"), line=2))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole
