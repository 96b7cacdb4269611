"""Statistics of generated replies: by hand, and with a real small model."""

import pytest
import torch

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


def measured(prompts: list[list[int]], positions: int) -> tuple[Replies, list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []

    def on_progress(done: int, total: int) -> None:
        seen.append((done, total))

    generator = Generator(tiny_model(positions=positions), torch.device("cpu"))
    return measure_replies(generator, prompts, 0, on_progress), seen


def test_replies_are_the_same_for_the_same_seed():
    assert measured([[1, 2, 3]], positions=20) == measured([[1, 2, 3]], positions=20)


def test_a_reply_that_reaches_the_limit_has_not_stopped():
    replies, _ = measured([[1, 2, 3]], positions=256)
    assert (replies.replies, replies.stopped, replies.tokens) == (1, 0, MAX_NEW_TOKENS)
    assert [text.end for text in replies.texts] == ["limit"]


def test_a_reply_ends_with_the_window():
    replies, seen = measured([[1, 2, 3], [4, 5]], positions=12)
    assert (replies.stopped, replies.tokens) == (0, (9 + 10) / 2)
    assert {text.end for text in replies.texts} == {"window"}
    assert seen == [(0, 2), (2, 2)]
