"""Rows become shards in files of a limited size, hashed and counted."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from gpt2chat.core.config.prepare import Share
from gpt2chat.core.data import writer
from gpt2chat.core.data.selection import Selection
from gpt2chat.core.data.writer import write_dropped, write_shards
from tests.test_selection import Given, select


@pytest.fixture
def selection(tmp_path: Path) -> Selection:
    """Three parts of two sources, ten training rows and two validation rows."""
    odd: list[Given] = [(f"odd {n}", "train") for n in range(5)]
    even: list[Given] = [(f"even {n}", "train") for n in range(3)]
    more: list[Given] = [("more 0", "train"), ("more 1", "train")]
    held: list[Given] = [("held 0", "validation"), ("held 1", "validation")]
    return select(tmp_path, ("odd", odd), ("even", [*even, *held]), ("odd", more))


def test_shards_contain_every_row_once_and_have_their_hash(
    selection: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(writer, "SHARD_ROWS", 4)
    order = selection.order(0, {}, seed=0)
    shards = list(write_shards(selection, 0, order, tmp_path))
    assert [shard.path for shard in shards] == [
        f"sft/train-0000{n}-of-00003.jsonl" for n in range(3)
    ]
    assert [shard.rows for shard in shards] == [4, 4, 2]
    contents = [(tmp_path / shard.path).read_bytes() for shard in shards]
    assert [(hashlib.sha256(content).hexdigest(), len(content)) for content in contents] == [
        (shard.sha256, shard.bytes) for shard in shards
    ]
    ids = [int(json.loads(line)["id"]) for content in contents for line in content.splitlines()]
    tokens = [load_file(tmp_path / shard.tokens) for shard in shards]
    # The ids of a row are its number, once for each token of a prompt of 10 and its reply.
    assert np.concatenate([part["lengths"] for part in tokens]).tolist() == [10 + n for n in ids]
    assert np.concatenate([part["ids"] for part in tokens]).tolist() == [
        n for n in ids for _ in range(10 + n)
    ]
    assert sorted(ids) == sorted([0, 1, 2, 3, 4, 0, 1, 2, 0, 1])


def test_a_row_that_a_mix_repeats_has_an_id_of_its_own(selection: Selection, tmp_path: Path):
    shares = {"even": Share(3), "odd": Share(0)}
    (shard,) = write_shards(selection, 0, selection.order(0, shares, seed=0), tmp_path)
    lines = (tmp_path / shard.path).read_text(encoding="utf-8").splitlines()
    ids = sorted(json.loads(line)["id"] for line in lines)
    assert ids == sorted(f"{n}{end}" for n in range(3) for end in ("", "#2", "#3"))


def test_an_empty_split_has_no_shard(selection: Selection, tmp_path: Path):
    assert not list(write_shards(selection, 2, selection.order(2, {}, 0), tmp_path))


def test_dropped_rows_are_written_with_place_and_reason(tmp_path: Path):
    rows: list[Given] = [("one", "train"), ("two", "train"), ("one", "train")]
    selection = select(tmp_path, ("a", rows), broken='{"reason": "not JSON"}\n')
    selection.remove_duplicates("exact")
    write_dropped(selection, tmp_path / "dropped.jsonl")
    lines = (tmp_path / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"reason": "not JSON"},
        {
            "source": "a",
            "file": "a.jsonl",
            "line": 2,
            "reason": "duplicate",
            "text": "one",
            "reply": 1,
            "like": {"file": "a.jsonl", "line": 0, "reply": 1},
        },
    ]
