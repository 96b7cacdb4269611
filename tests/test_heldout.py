"""The choice of held-out samples for an evaluation."""

from pathlib import Path

import pytest

from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.data.shards import Sample, read_samples
from gpt2chat.core.errors import CheckpointError, DataError
from gpt2chat.core.evaluation.heldout import draw, read_material, strided_windows
from gpt2chat.core.text.tokens import Encoded
from tests.helpers import talk


def sample(number: int) -> Sample:
    return Sample(str(number), "oasst1", "tree", talk("hi", f"reply {number}"))


SAMPLES = [sample(number) for number in range(20)]


def test_the_order_of_the_samples_does_not_change_which_are_drawn():
    assert draw(SAMPLES, 5, seed=0) == draw(SAMPLES[::-1], 5, seed=0)
    assert draw(SAMPLES, 5, seed=0) != draw(SAMPLES, 5, seed=1)


def test_a_higher_limit_adds_samples_to_those_of_a_lower_one():
    assert draw(SAMPLES, 9, seed=0)[:5] == draw(SAMPLES, 5, seed=0)


@pytest.mark.parametrize("limit", [None, 20, 1000])
def test_all_samples_are_drawn_if_there_are_at_most_as_many_as_the_limit(limit: int | None):
    assert draw(SAMPLES, limit, seed=0) == SAMPLES


def test_each_prompt_is_drawn_once(sample_data: Path):
    settings = EvalConfig(ppl=False, preferences=False, generations=9_999)
    prompts = read_material(settings, sample_data, window=1024).prompts
    assert len(set(prompts)) == len(prompts) < len(read_samples(sample_data, "validation"))


def test_the_reference_construction_has_1831_conversations(sample_data: Path):
    counts = read_material(EvalConfig(), sample_data, window=1024).counts()
    assert counts.conversations == 1831
    assert counts.different_conversations < 1831
    assert 0 < counts.long_conversations <= counts.cut_conversations
    assert counts.sources == ("oasst1",)
    assert counts.pairs > 100


def test_reference_conversations_come_from_the_188_trees_with_an_english_root(sample_data: Path):
    # Of the split's 191 trees three have a root in another language.
    trees = {sample.group for sample in read_samples(sample_data, "validation", kind="reference")}
    assert len(trees) == 188


def test_reference_conversations_are_cut_to_the_window(sample_data: Path):
    settings = EvalConfig(limit=50, preferences=False, generations=0)
    material = read_material(settings, sample_data, window=1024)
    assert max(map(len, material.reference_ids)) <= 1024
    assert len(material.reference_ids) == len(material.replies) == 50


def test_a_long_conversation_is_seen_as_in_a_chat_and_in_windows(sample_data: Path):
    settings = EvalConfig(preferences=False, generations=0)
    material = read_material(settings, sample_data, window=1024)
    for rolling, windows in zip(material.rolling_ids, material.strided, strict=True):
        assert len(rolling) <= 1024
        reply = [token for ids, start in windows for token in ids[start:]]
        assert reply == rolling.ids[rolling.prompt_length :]
        assert all(len(ids) <= 1024 for ids, _ in windows)


def test_each_token_of_a_long_reply_is_scored_once_after_half_a_window_at_least():
    sample = Encoded(list(range(25)), prompt_length=7)
    windows = strided_windows(sample, window=10)
    assert [ids[start:] for ids, start in windows] == [
        [7, 8, 9], [10, 11, 12, 13, 14], [15, 16, 17, 18, 19], [20, 21, 22, 23, 24]
    ]  # fmt: skip
    assert all(ids == list(range(ids[0], ids[0] + len(ids))) for ids, _ in windows)
    assert all(start >= 5 for _, start in windows)


def test_a_limit_draws_the_same_conversations_from_both_sets(sample_data: Path):
    settings = EvalConfig(limit=200, preferences=False, generations=0)
    material = read_material(settings, sample_data, window=1024)
    replies = {tuple(encoded.ids) for encoded in material.reply_ids}
    reference = {tuple(ids) for ids in material.reference_ids}
    assert len(reference & replies) > len(reference) / 2


def test_data_without_oasst1_is_measured_on_its_other_sources(tiny_data: Path):
    material = read_material(EvalConfig(), tiny_data, window=1024)
    assert material.replies
    assert material.reference == []
    assert any("OASST1" in note for note in material.notes)


def test_samples_longer_than_the_window_are_refused(sample_data: Path):
    with pytest.raises(CheckpointError) as refusal:
        read_material(EvalConfig(), sample_data, window=128)
    assert refusal.value.setting == "data"


def test_a_folder_without_shards_is_refused(tmp_path: Path):
    with pytest.raises(DataError):
        read_material(EvalConfig(), tmp_path, window=1024)
