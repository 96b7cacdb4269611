"""Statistics of generated replies: by hand, and with a real small model."""

from pathlib import Path

import pytest
import torch

from gpt2chat.core.evaluation.memo import Memo
from gpt2chat.core.evaluation.replies import (
    MAX_NEW_TOKENS,
    Replies,
    distinct,
    measure_replies,
    repetition,
)
from gpt2chat.core.generation.generate import Generator
from tests.helpers import tiny_model


def test_repetition_is_the_share_of_4_grams_seen_before_in_the_same_reply():
    # 1212121: four 4-grams, 1212 and 2121 twice each.
    assert repetition([[1, 2, 1, 2, 1, 2, 1]]) == 0.5
    assert repetition([[1, 2, 3, 4], [1, 2, 3, 4]]) == 0
    assert repetition([[1, 2, 3]]) == 0


def test_distinct_2_counts_pairs_over_all_replies():
    assert distinct([[1, 2, 3], [1, 2]], 2) == pytest.approx(2 / 3)
    assert distinct([[1]], 2) == 0


def measured(
    prompts: list[list[int]], positions: int, memo: Memo
) -> tuple[Replies, list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []

    def on_progress(done: int, total: int) -> None:
        seen.append((done, total))

    generator = Generator(tiny_model(positions=positions), torch.device("cpu"))
    return measure_replies(generator, prompts, 0, on_progress, memo, ()), seen


@pytest.fixture
def memo(tmp_path: Path) -> Memo:
    return Memo(tmp_path / "memo")


def test_replies_are_the_same_for_the_same_seed(tmp_path: Path):
    one, other = (measured([[1, 2, 3]], 20, Memo(tmp_path / name)) for name in "ab")
    assert one == other


def test_a_reply_that_reaches_the_limit_has_not_stopped(memo: Memo):
    replies, _ = measured([[1, 2, 3]], 256, memo)
    assert (replies.replies, replies.stopped, replies.tokens) == (1, 0, MAX_NEW_TOKENS)
    assert [text.end for text in replies.texts] == ["limit"]


def test_a_reply_ends_with_the_window(memo: Memo):
    replies, seen = measured([[1, 2, 3], [4, 5]], 12, memo)
    assert (replies.stopped, replies.tokens) == (0, (9 + 10) / 2)
    assert {text.end for text in replies.texts} == {"window"}
    assert seen == [(0, 2), (2, 2)]


def test_replies_that_were_generated_before_are_not_generated_again(
    memo: Memo, monkeypatch: pytest.MonkeyPatch
):
    first = measured([[1, 2, 3]], 20, memo)
    monkeypatch.delattr(Generator, "generate_batch")
    assert measured([[1, 2, 3]], 20, memo) == first
