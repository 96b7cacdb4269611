"""A part is whole or not there, and comes back from the disk as it was."""

from pathlib import Path

import numpy as np
import pytest

from gpt2chat.core.data.parts import SPLITS, Entry, read_part, write_part
from gpt2chat.core.data.rows import sample_row
from gpt2chat.core.data.samples import REMARKS
from gpt2chat.core.data.shards import Sample
from gpt2chat.core.data.tally import Tally
from gpt2chat.core.text.conversations import Conversation, Message
from tests.helpers import talk


def entry(conversation: Conversation, *remarks: str) -> Entry:
    row = sample_row(Sample("id", "mine", "group", conversation), 1024)
    assert row is not None
    return Entry(("sft", "validation"), row, frozenset(remarks), 7)


def test_a_part_is_read_back_as_it_was_written(tmp_path: Path):
    tally = Tally("mine", "a.jsonl", 3, 1, "a.jsonl, line 2: not JSON")
    tally.dropped["not JSON"] += 1
    tally.lines.append("{}\n")
    entries = [entry(talk("Hi", "Hello"), REMARKS[1], REMARKS[3]), entry(talk("a", "b", "c", "d"))]
    written = write_part(tmp_path / "1", entries, tally, np.ones((2, 128), np.uint32))
    found = read_part(tmp_path / "1")
    assert found == written
    assert found is not None
    assert found.tally.dropped["never"] == 0
    index = found.index()
    rows = found.lines.read_bytes()
    for place, one in zip(index, entries, strict=True):
        assert rows[place["offset"] : place["offset"] + place["size"]] == one.row.line
        assert place["text"].ljust(16, b"\0") == one.row.text_hash
        assert SPLITS[place["key"]] == ("sft", "validation")
        assert (place["prompt"], place["length"]) == (one.row.prompt_tokens, one.row.length)
    assert index["remarks"].tolist() == [0b1010, 0]
    assert found.signatures().shape == (2, 128)


def test_a_part_without_its_tally_is_incomplete(tmp_path: Path):
    write_part(tmp_path / "1", [entry(talk("Hi", "Hello"))], Tally("mine", "a"), None)
    whole = (tmp_path / "1.json").read_bytes()
    (tmp_path / "1.json").write_bytes(whole[: len(whole) // 2])
    assert read_part(tmp_path / "1") is None
    (tmp_path / "1.json").unlink()
    assert read_part(tmp_path / "1") is None


def test_a_part_may_have_no_row(tmp_path: Path):
    write_part(tmp_path / "1", [], Tally("mine", "a", 1), None)
    found = read_part(tmp_path / "1")
    assert found is not None
    assert len(found.index()) == found.rows == 0


def test_a_row_may_contain_characters_that_json_escapes(tmp_path: Path):
    odd = Conversation((Message("user", 'a\u2028"\\\x7f'), Message("assistant", "\u0000b")))
    part = write_part(tmp_path / "1", [entry(odd)], Tally("mine", "a"), None)
    assert part.lines.read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("end", [".rows", ".npy", ".signatures.npy"])
def test_a_part_without_one_of_its_files_is_incomplete(end: str, tmp_path: Path):
    signed = np.ones((1, 128), np.uint32)
    write_part(tmp_path / "1", [entry(talk("Hi", "Hello"))], Tally("mine", "a"), signed)
    (tmp_path / f"1{end}").unlink()
    assert read_part(tmp_path / "1") is None
    (tmp_path / f"1{end}").touch()
    assert read_part(tmp_path / "1") is None
