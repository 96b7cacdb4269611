"""Figures from losses: each by hand on one or two samples."""

import math

import numpy as np
import pytest

from gpt2chat.core.data.shards import Pair, Sample
from gpt2chat.core.evaluation.figures import (
    calibration,
    describe,
    differences,
    estimates,
    long_figures,
    preference_figures,
    reference_figures,
    reply_figures,
)
from gpt2chat.core.evaluation.scoring import Losses
from gpt2chat.core.text.conversations import Conversation, Message, Preference
from tests.helpers import talk


def sample(reply: str, group: str) -> Sample:
    return Sample(reply, "oasst1", group, talk("hi", reply))


def pair(group: str, source: str = "own") -> Pair:
    prompt = Conversation((Message("user", "hi"),))
    return Pair(group, source, group, Preference(prompt, "yes", "no"))


def losses(*values: float) -> Losses:
    return np.array(values, dtype=np.float32)


REPLIES = [sample("abcd", "a"), sample("été", "b")]


def test_perplexity_weighs_tokens_and_not_replies():
    result = estimates(reply_figures(REPLIES, [losses(1, 2, 3), losses(4)]), seed=0)
    assert result["loss"].value == 2.5
    assert result["perplexity"].value == pytest.approx(math.exp(2.5))


def test_bits_per_byte_are_of_the_replies_utf_8_and_leave_the_end_of_turn_out():
    result = estimates(reply_figures(REPLIES, [losses(1, 2, 9), losses(4, 9)]), seed=0)
    assert result["bits_per_byte"].value == pytest.approx(7 / math.log(2) / (4 + 5))


def test_the_reference_figure_is_the_mean_of_each_conversations_perplexity():
    figures = reference_figures(REPLIES, [losses(1, 3), losses(3)])
    result = estimates(figures, seed=0)["reference_perplexity"]
    assert result.value == pytest.approx((math.exp(2) + math.exp(3)) / 2)
    assert (result.samples, result.groups) == (2, 2)


def test_a_conversation_of_the_reference_counts_as_often_as_it_occurs():
    thrice = [REPLIES[0], REPLIES[0], REPLIES[1]]
    figures = reference_figures(thrice, [losses(2), losses(2), losses(3)])
    result = estimates(figures, seed=0)["reference_perplexity"]
    assert result.value == pytest.approx((2 * math.exp(2) + math.exp(3)) / 3)


def test_preference_accuracy_and_margin_by_hand_on_two_pairs():
    # Pair a: mean log p -1 against -2; pair b: -3 against -2.
    chosen, rejected = [losses(1, 1), losses(3)], [losses(2), losses(1, 3)]
    result = estimates(preference_figures([pair("a"), pair("b")], chosen, rejected), seed=0)
    assert result["preference_accuracy"].value == 0.5
    assert result["preference_margin"].value == 0
    # Sums: -2 against -2, a tie, which is wrong; -3 against -4.
    assert result["preference_accuracy_sum"].value == 0.5


def test_replies_of_similar_length_differ_by_less_than_a_fifth_of_the_longer():
    chosen, rejected = [losses(*[1.0] * 9), losses(*[1.0] * 8)], [losses(*[2.0] * 10)] * 2
    figures = preference_figures([pair("a"), pair("b")], chosen, rejected)
    result = estimates(figures, seed=0)["preference_accuracy_similar"]
    assert (result.value, result.samples) == (1, 1)


def test_the_longer_reply_is_preferred_in_one_of_two_pairs_of_different_length():
    # Pair a: the longer one is chosen and likelier; pair b: the shorter one is; c: no longer one.
    chosen, rejected = [losses(1, 1), losses(1, 1), losses(1)], [losses(2), losses(2), losses(2)]
    rejected[1] = losses(2, 2, 2)
    figures = preference_figures([pair("a"), pair("b"), pair("c")], chosen, rejected)
    longer = estimates(figures, seed=0)["preference_longer"]
    assert (longer.value, longer.samples) == (0.5, 2)


def test_a_mean_loss_above_709_has_an_infinite_perplexity():
    figures = reference_figures(REPLIES, [losses(800), losses(1)])
    assert estimates(figures, seed=0)["reference_perplexity"].value == math.inf


def test_without_replies_of_similar_length_there_is_no_such_figure():
    figures = preference_figures([pair("a")], [losses(1)], [losses(1, 1)])
    assert "preference_accuracy_similar" not in figures


def test_a_model_differs_from_itself_by_exactly_0():
    figures = reply_figures(REPLIES, [losses(1, 2, 3), losses(4)])
    result = differences(figures, figures, seed=0).values()
    assert {(each.value, each.low, each.high) for each in result} == {(0, 0, 0)}


def test_perplexity_is_given_by_the_depth_of_the_reply():
    deep = Sample("c", "oasst1", "c", talk("hi", "yes", "and", "no"))
    figures = reply_figures([*REPLIES, deep], [losses(1), losses(3), losses(5)])
    result = estimates(figures, seed=0)
    assert result["perplexity_turn_1"].value == pytest.approx(math.exp(2))
    assert result["perplexity_turn_2"].value == pytest.approx(math.exp(5))
    assert "perplexity_turn_3" not in result


def test_perplexity_is_given_by_the_position_in_the_reply():
    long = losses(*[1.0] * 16, *[2.0] * 48, *[3.0] * 10)
    result = estimates(reply_figures(REPLIES, [long, losses(4)]), seed=0)
    assert result["perplexity_token_1"].value == pytest.approx(math.exp(20 / 17))
    assert result["perplexity_token_17"].value == pytest.approx(math.exp(2))
    assert result["perplexity_token_65"].value == pytest.approx(math.exp(3))
    assert result["perplexity_token_65"].samples == 1
    assert "perplexity_token_257" not in result


def test_accuracy_at_equal_length_leaves_out_what_length_explains():
    # Of two outcomes the longer chosen reply wins, the shorter one loses: length explains both.
    chosen, rejected = [losses(1, 1), losses(2)], [losses(2), losses(1, 1)]
    figures = preference_figures([pair("a"), pair("b")], chosen, rejected)
    result = estimates(figures, seed=0)
    assert result["preference_accuracy_controlled"].value == pytest.approx(0.5)
    # A third pair of equal length that is right: a line through (1/2, 1), (-1/2, 0) and (0, 1).
    figures = preference_figures(
        [pair("a"), pair("b"), pair("c")], [*chosen, losses(1)], [*rejected, losses(2)]
    )
    result = estimates(figures, seed=0)
    assert result["preference_accuracy_controlled"].value == pytest.approx(2 / 3)


def test_accuracy_is_given_by_source_if_there_are_several():
    figures = preference_figures(
        [pair("a", "x"), pair("b", "y")], [losses(1), losses(2)], [losses(2), losses(1)]
    )
    result = estimates(figures, seed=0)
    assert result["preference_accuracy/x"].value == 1
    assert result["preference_accuracy/y"].value == 0
    assert describe("preference_accuracy/x").label.endswith("x")


def test_the_margin_in_log_odds_is_what_orpo_trains():
    figures = preference_figures([pair("a")], [losses(math.log(2))], [losses(math.log(4))])
    # P = 1/2 has odds of 1, and P = 1/4 of 1/3.
    value = estimates(figures, seed=0)["preference_log_odds"].value
    assert value == pytest.approx(math.log(3), rel=1e-6)


def test_a_calibration_point_has_the_pairs_of_which_a_model_is_about_equally_sure():
    # Five pairs of which it is unsure and wrong, five of which it is sure and right.
    chosen = [losses(0.8)] * 5 + [losses(0.1)] * 5
    rejected = [losses(0.7)] * 5 + [losses(3)] * 5
    pairs = [pair(str(number)) for number in range(10)]
    points = calibration(pairs, chosen, rejected, seed=0)
    assert [point.accuracy.value for point in points] == [0, 0, 0.5, 1, 1]
    assert points[0].confidence == pytest.approx(0.54, abs=0.02)
    assert points[-1].confidence > 0.99
    assert calibration(pairs[:9], chosen[:9], rejected[:9], seed=0) == ()


def test_long_conversations_are_weighted_by_tokens():
    figures = long_figures(REPLIES, [losses(1, 3), losses(5)], [losses(2, 2), losses(2)])
    result = estimates(figures, seed=0)
    assert result["perplexity_rolling"].value == pytest.approx(math.exp(3))
    assert result["perplexity_strided"].value == pytest.approx(math.exp(2))
