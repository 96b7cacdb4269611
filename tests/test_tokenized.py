"""Samples as ids: encoded once, found again, and never those of other shards."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from gpt2chat.core.data.shards import TOKENS, read_pairs, read_samples
from gpt2chat.core.errors import DataError, StorageError
from gpt2chat.core.text.tokens import encode_conversation
from gpt2chat.core.training import tokenized
from gpt2chat.core.training.tokenized import Side, Tokenized, load_tokenized
from tests.helpers import talk


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    shutil.copytree(tiny_data, folder, ignore=shutil.ignore_patterns(TOKENS))
    return folder


def test_the_ids_are_those_of_the_samples(data: Path):
    found = load_tokenized(data, "train", "reply")
    samples = read_samples(data, "train")
    assert list(found.names) == [sample.id for sample in samples]
    for index, sample in enumerate(samples):
        expected = encode_conversation(sample.conversation)
        assert found.tokens_of(found.samples_of([index])).tolist() == expected.ids
        assert found.prompt_lengths[index] == expected.prompt_length


def test_an_item_of_pairs_is_the_chosen_reply_and_then_the_rejected(data: Path):
    found, pairs = load_tokenized(data, "train", "pair"), read_pairs(data, "train")
    for index, pair in enumerate(pairs):
        sides = [
            encode_conversation(pair.preference.prompt.with_reply(reply)).ids
            for reply in (pair.preference.chosen, pair.preference.rejected)
        ]
        assert found.tokens_of(found.samples_of([index])).tolist() == sides[0] + sides[1]
        assert found.sizes[index] == len(sides[0]) + len(sides[1])
        assert found.longest[index] == max(map(len, sides))


def test_the_chosen_replies_alone_are_every_other_sample_of_the_pairs(data: Path):
    chosen, pairs = (load_tokenized(data, "train", side) for side in ("chosen", "pair"))
    assert chosen.lengths.tolist() == pairs.lengths[0::2].tolist()


@pytest.mark.parametrize("side", ["reply", "pair", "chosen"])
def test_what_is_kept_is_what_was_encoded(data: Path, side: Side, monkeypatch: pytest.MonkeyPatch):
    first = load_tokenized(data, "train", side)

    def never(*_: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(tokenized, "encode_conversation", never)
    again = load_tokenized(data, "train", side)
    assert np.array_equal(first.ids, again.ids)
    assert np.array_equal(first.starts, again.starts)
    assert np.array_equal(first.prompt_lengths, again.prompt_lengths)
    assert (first.names, first.sides) == (again.names, again.sides)


def test_other_shards_are_encoded_anew_and_the_old_file_goes(data: Path, tmp_path: Path):
    load_tokenized(data, "train", "reply")
    (old,) = (data / TOKENS).iterdir()
    manifest = data / "manifest.json"
    text = manifest.read_text()
    shard = next((data / "sft").glob("train-*"))
    rows = shard.read_bytes().splitlines(keepends=True)
    digest = tokenized.hashlib.sha256
    before = digest(shard.read_bytes()).hexdigest()
    shard.write_bytes(b"".join(rows[:-1]))
    manifest.write_text(text.replace(before, digest(shard.read_bytes()).hexdigest()))
    assert len(load_tokenized(data, "train", "reply")) == len(rows) - 1
    assert not old.exists()


def test_a_damaged_file_is_written_again(data: Path):
    first = load_tokenized(data, "train", "pair")
    (file,) = (data / TOKENS).iterdir()
    sound = file.read_bytes()
    cut = [sound[: len(sound) * tenths // 10] for tenths in range(10)]
    places = range(0, len(sound), len(sound) // 50)
    flipped = [sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :] for at in places]
    for content in (*cut, *flipped, b"rubbish", b"\x08" + bytes(15)):
        file.write_bytes(content)
        again = load_tokenized(data, "train", "pair")
        assert np.array_equal(again.ids, first.ids)
        assert np.array_equal(again.lengths, first.lengths)
        assert np.array_equal(again.prompt_lengths, first.prompt_lengths)
        assert (again.names, again.sides) == (first.names, first.sides)


@pytest.mark.parametrize(
    "changes",
    [
        {"lengths": np.ones(3, np.int64)},
        {"ids": np.zeros((2, 2), np.uint16)},
        {"prompt_lengths": np.ones(3)},
        {"names": np.frombuffer(b'["a"]', np.uint8)},
        {"sides": np.array([7])},
    ],
)
def test_a_file_with_other_arrays_is_written_again(data: Path, changes: dict[str, NDArray[Any]]):
    first = load_tokenized(data, "train", "pair")
    (file,) = (data / TOKENS).iterdir()
    sound = file.read_bytes()
    file.write_bytes(save({**load(sound), **changes}))
    assert np.array_equal(load_tokenized(data, "train", "pair").starts, first.starts)
    assert file.read_bytes() == sound


def test_a_link_in_place_of_the_folder_is_refused(data: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "reply-train-diary.txt").touch()
    (data / TOKENS).symlink_to(outside)
    with pytest.raises(StorageError):
        load_tokenized(data, "train", "reply")
    assert [path.name for path in outside.iterdir()] == ["reply-train-diary.txt"]


def test_ids_with_line_breaks_and_bytes_that_are_not_utf_8_are_kept(tmp_path: Path):
    names = ["a\nb.jsonl:1", "\udcff.jsonl:1"]
    samples = [encode_conversation(talk("Hi", reply)) for reply in ("Hello.", "Good day.")]
    tokenized._write(tmp_path / "x", Tokenized.of(samples, names, 1))  # pyright: ignore[reportPrivateUsage]
    again = tokenized._read(tmp_path / "x")  # pyright: ignore[reportPrivateUsage]
    assert again is not None
    assert again.names == names


def test_shards_changed_by_hand_are_refused_though_their_tokens_are_kept(data: Path):
    load_tokenized(data, "train", "reply")
    shard = next((data / "sft").glob("train-*"))
    shard.write_text(shard.read_text().replace("the", "teh"))
    with pytest.raises(DataError, match=shard.name):
        load_tokenized(data, "train", "reply")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_does_without(data: Path):
    data.chmod(0o500)
    assert len(load_tokenized(data, "train", "reply")) > 0


def test_a_file_in_place_of_the_folder_does_without(data: Path):
    (data / TOKENS).touch()
    assert len(load_tokenized(data, "train", "reply")) > 0


def test_no_validation_samples_are_an_empty_split(data: Path):
    shutil.rmtree(data / "sft")
    text = (data / "manifest.json").read_text()
    (data / "manifest.json").write_text(text.replace('"kind": "sft"', '"kind": "none"'))
    assert len(load_tokenized(data, "validation", "reply")) == 0
    with pytest.raises(DataError) as error:
        load_tokenized(data, "train", "reply")
    assert error.value.setting == "data"
