"""Rows of a data folder can be picked, and are shown as the ids that training reads."""

from pathlib import Path

import pytest

from gpt2chat.core.data.shards import read_pairs, read_samples
from gpt2chat.core.data.show import pick_samples
from gpt2chat.core.text.template import render, to_text


def test_samples_are_the_text_that_training_sees(tiny_data: Path):
    for shown, sample in zip(
        pick_samples(tiny_data, 3), read_samples(tiny_data, "train"), strict=False
    ):
        assert shown.id == sample.id
        assert shown.untrained + shown.trained == to_text(render(sample.conversation))
        assert shown.untrained == to_text(render(sample.conversation.prompt))


def test_rows_are_picked_by_source_split_id_and_text(tiny_data: Path):
    pair = read_pairs(tiny_data, "validation")[0]
    (shown,) = pick_samples(tiny_data, 9, [f"id={pair.id}"])
    assert shown.trained.startswith(pair.preference.chosen)
    assert {one.id for one in pick_samples(tiny_data, 99, ["split=validation", "source=chat.jsonl"])
            } == {one.id for one in read_samples(tiny_data, "validation")}  # fmt: skip
    sample = read_samples(tiny_data, "train")[-1]
    reply = sample.conversation.reply
    assert reply is not None
    found = pick_samples(tiny_data, 99, [reply.content.upper(), "source=chat.jsonl"])
    assert sample.id in {one.id for one in found}


@pytest.mark.parametrize("pick", ["source=no", "id=no", "split=test", "no such words"])
def test_nothing_is_shown_if_nothing_matches(tiny_data: Path, pick: str):
    assert pick_samples(tiny_data, 3, [pick]) == []
