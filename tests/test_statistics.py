"""Ratios and their bootstrap intervals: closed forms, pairing, drawn groups."""

import math

import numpy as np
import pytest

from gpt2chat.core.evaluation.statistics import FloatArray, Intercept, Ratio, difference, estimate


def drawn(count: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(5, 2, count)


def mean_of(values: FloatArray, members: int = 1) -> Ratio:
    groups = tuple(str(index // members) for index in range(len(values)))
    return Ratio(values, np.ones_like(values), groups)


def test_a_ratio_is_weighted_by_its_denominators():
    ratio = Ratio(np.array([2.0, 30.0]), np.array([1.0, 3.0]), ("a", "b"))
    assert estimate(ratio, seed=0).value == 8


def test_an_exponential_ratio_is_e_to_the_quotient():
    ratio = Ratio(np.array([2.0, 30.0]), np.array([1.0, 3.0]), ("a", "b"), exponential=True)
    assert estimate(ratio, seed=0).value == pytest.approx(math.exp(8))


def test_an_interval_is_the_same_for_the_same_seed_and_holds_the_value():
    first, second = (estimate(mean_of(drawn(50)), seed=3) for _ in range(2))
    assert first == second
    assert first.low is not None
    assert first.high is not None
    assert first.low < first.value < first.high
    assert estimate(mean_of(drawn(50)), seed=4) != first


def test_the_interval_of_a_mean_is_two_standard_errors_each_way():
    values = drawn(400)
    result = estimate(mean_of(values), seed=0)
    assert result.low is not None
    assert result.high is not None
    expected = 2 * 1.96 * values.std() / math.sqrt(400)
    assert result.high - result.low == pytest.approx(expected, rel=0.1)


def test_groups_are_drawn_whole_so_copies_in_a_group_do_not_narrow_the_interval():
    values = drawn(40)
    assert estimate(mean_of(np.repeat(values, 10), members=10), seed=0).low == pytest.approx(
        estimate(mean_of(values), seed=0).low
    )


def test_the_interval_of_a_constant_has_no_width():
    result = estimate(mean_of(np.full(10, 7.0)), seed=0)
    assert (result.low, result.high) == (7, 7)


def test_one_group_has_no_interval():
    result = estimate(Ratio(np.ones(3), np.ones(3), ("a", "a", "a")), seed=0)
    assert (result.value, result.low, result.samples, result.groups) == (1, None, 3, 1)


def test_a_difference_is_paired_so_what_both_share_cancels():
    values = drawn(30)
    result = difference(mean_of(values + 0.25), mean_of(values), seed=0)
    assert result.value == pytest.approx(0.25)
    assert (result.low, result.high) == (pytest.approx(0.25), pytest.approx(0.25))


def test_ratios_of_different_samples_cannot_be_subtracted():
    with pytest.raises(ValueError, match="different"):
        difference(mean_of(drawn(4)), mean_of(drawn(5)), seed=0)


def test_a_figure_needs_a_sample():
    with pytest.raises(ValueError, match="sample"):
        estimate(mean_of(drawn(0)), seed=0)


def test_the_intercept_is_that_of_a_least_squares_line():
    random = np.random.default_rng(0)
    x = random.normal(size=40)
    y = 0.3 + 0.5 * x + random.normal(size=40)
    line = Intercept(y, x, tuple(str(number // 2) for number in range(40)))
    _, intercept = np.polyfit(x, y, 1)
    result = estimate(line, seed=0)
    assert result.value == pytest.approx(intercept)
    assert result.low is not None
    assert result.high is not None
    assert result.low < intercept < result.high
    assert result.groups == 20


def test_a_figure_without_a_value_in_some_draws_has_no_interval():
    # Draws of one of the two groups leave a line through a single place.
    line = Intercept(np.array([1.0, 0.0]), np.array([1.0, -1.0]), ("a", "b"))
    result = estimate(line, seed=0)
    assert (result.value, result.low, result.high) == (0.5, None, None)
