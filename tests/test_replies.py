"""Statistics of generated replies: by hand, and with a real small model."""

import math
from pathlib import Path

import pytest
import torch

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.evaluation.memo import Memo
from gpt2chat.core.evaluation.replies import (
    MAX_NEW_TOKENS,
    Replies,
    distinct,
    longest_loop,
    measure_replies,
    self_bleu,
)
from gpt2chat.core.evaluation.statistics import value_of
from gpt2chat.core.generation.generate import Generator
from gpt2chat.core.generation.reply import Reply
from tests.helpers import tiny_model


@pytest.fixture
def memo(tmp_path: Path) -> Memo:
    return Memo(tmp_path / "memo")


def test_repetition_is_the_share_of_4_grams_seen_before_in_the_same_reply(
    memo: Memo, monkeypatch: pytest.MonkeyPatch
):
    # 1212121 has four 4-grams, 1212 and 2121 twice each; the other reply has one.
    replies = iter([(1, 2, 1, 2, 1, 2, 1), (1, 2, 1, 2)])

    def generate_batch(_: Generator, prompts: list[list[int]], sampling: Sampling) -> list[Reply]:
        return [Reply("", next(replies), "stop", 0, 0, 0) for _ in prompts]

    monkeypatch.setattr(Generator, "generate_batch", generate_batch)
    _, figures, _ = measured([[1], [2]], 20, memo)
    assert figures["reply_repetition"] == 2 / 5
    assert figures["reply_empty"] == figures["reply_stopped"] == 1


def test_distinct_2_counts_pairs_over_all_replies():
    assert distinct([[1, 2, 3], [1, 2]], 2) == pytest.approx(2 / 3)
    assert distinct([[1]], 2) == 0


def test_a_loop_is_a_passage_at_least_three_times_in_a_row():
    assert longest_loop([1, 2, 1, 2, 1, 2]) == (6, True)
    assert longest_loop([9, 1, 2, 1, 2, 1, 2, 1, 7]) == (7, False)
    assert longest_loop([1, 2, 3, 1, 2, 3, 1, 2]) == (0, False)
    assert longest_loop([5] * 4) == (4, True)
    assert longest_loop([]) == (0, False)


def test_self_bleu_is_1_for_equal_replies_and_small_for_different_ones():
    same = [1, 2, 3, 4, 5]
    assert self_bleu([same, same]) == [1, 1]
    assert max(self_bleu([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])) < 0.1
    assert self_bleu([same, []]) == [0, 0]


def test_self_bleu_by_hand():
    # Of [1, 2, 3] against [1, 2, 9, 9]: 2 of 3 tokens, 1 of 2 pairs, 0.1 of 1 triple; shorter by 1.
    score = self_bleu([[1, 2, 3], [1, 2, 9, 9]])[0]
    assert score == pytest.approx(math.exp(1 - 4 / 3) * (2 / 3 * 1 / 2 * 0.1) ** (1 / 3))


def measured(
    prompts: list[list[int]], positions: int, memo: Memo
) -> tuple[Replies, dict[str, float], list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []

    def on_progress(done: int, total: int) -> None:
        seen.append((done, total))

    generator = Generator(tiny_model(positions=positions), torch.device("cpu"))
    replies, statistics = measure_replies(generator, prompts, 0, on_progress, memo, ())
    return replies, {name: value_of(each) for name, each in statistics.items()}, seen


def test_replies_are_the_same_for_the_same_seed(tmp_path: Path):
    one, other = (measured([[1, 2, 3]], 20, Memo(tmp_path / name)) for name in "ab")
    assert one == other


def test_a_reply_that_reaches_the_limit_has_not_stopped(memo: Memo):
    replies, figures, _ = measured([[1, 2, 3]], 256, memo)
    assert (replies.replies, figures["reply_stopped"]) == (1, 0)
    assert figures["reply_tokens"] == MAX_NEW_TOKENS
    assert [text.end for text in replies.texts] == ["limit"]


def test_a_reply_ends_with_the_window(memo: Memo):
    replies, figures, seen = measured([[1, 2, 3], [4, 5]], 12, memo)
    assert (figures["reply_stopped"], figures["reply_tokens"]) == (0, (9 + 10) / 2)
    assert {text.end for text in replies.texts} == {"window"}
    assert seen == [(0, 2), (2, 2)]


def test_replies_that_were_generated_before_are_not_generated_again(
    memo: Memo, monkeypatch: pytest.MonkeyPatch
):
    first = measured([[1, 2, 3]], 20, memo)
    monkeypatch.delattr(Generator, "generate_batch")
    assert measured([[1, 2, 3]], 20, memo) == first
