"""Samples are read as the ids that `prepare` wrote, which are those of their text."""

import shutil
from pathlib import Path

import pytest

from gpt2chat.core.data.shards import TOKENS, read_pairs, read_samples
from gpt2chat.core.errors import DataError
from gpt2chat.core.text.tokens import encode_conversation
from gpt2chat.core.training.tokenized import load_tokenized


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    shutil.copytree(tiny_data, folder)
    return folder


def test_the_ids_are_those_of_the_samples(data: Path):
    found = load_tokenized(data, "train", "reply")
    samples = read_samples(data, "train")
    assert len(found) == len(samples)
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


def test_a_row_is_named_by_its_id(data: Path):
    found, samples = load_tokenized(data, "train", "reply"), read_samples(data, "train")
    assert [found.names[item] for item in range(len(found))] == [one.id for one in samples]
    assert found.fingerprint != load_tokenized(data, "validation", "reply").fingerprint


def test_a_changed_text_or_id_is_refused_by_name(data: Path):
    text, ids = next((data / "sft").glob("train-*")), next((data / TOKENS / "sft").glob("train-*"))
    for file in (text, ids):
        sound = file.read_bytes()
        file.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        with pytest.raises(DataError, match=file.name):
            load_tokenized(data, "train", "reply")
        file.unlink()
        with pytest.raises(DataError, match=file.name):
            load_tokenized(data, "train", "reply")
        file.write_bytes(sound)


def test_no_validation_samples_are_an_empty_split(data: Path):
    shutil.rmtree(data / "sft")
    text = (data / "manifest.json").read_text()
    (data / "manifest.json").write_text(text.replace('"kind": "sft"', '"kind": "none"'))
    assert len(load_tokenized(data, "validation", "reply")) == 0
    with pytest.raises(DataError) as error:
        load_tokenized(data, "train", "reply")
    assert error.value.setting == "data"
