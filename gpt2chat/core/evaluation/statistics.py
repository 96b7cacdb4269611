"""Compute figures from sums over samples, with 95 % intervals from a bootstrap over groups."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

RESAMPLES = 2000
"""Bootstrap samples behind an interval."""
LEVEL = 95
"""Percentage of the resampled values that an interval contains."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure as Σ numerators / Σ denominators over samples, or e to that power.

    A mean over samples has denominators of 1; a token-weighted mean has tokens.
    """

    numerators: FloatArray
    """Shape (samples,)."""
    denominators: FloatArray
    """Positive numbers. Shape (samples,)."""
    groups: tuple[str, ...]
    """The group of each sample: samples of one group are not independent of each other."""
    exponential: bool = False
    """Whether the figure is e to the power of the quotient, such as a perplexity."""

    @property
    def columns(self) -> tuple[FloatArray, ...]:
        """The values of each sample whose sums the figure is computed from."""
        return self.numerators, self.denominators

    def combine(self, sums: Sequence[Any]) -> Any:
        """Return the figure for sums over samples, each a number or an array of numbers."""
        numerator, denominator = sums
        quotient = numerator / denominator
        return np.exp(quotient) if self.exponential else quotient


@dataclass(frozen=True, slots=True)
class Intercept:
    """The value that a least-squares line has where its predictor is 0.

    min over a, b of Σ (outcome - a - b · predictor)²,    the figure is a
    """

    outcomes: FloatArray
    """Shape (samples,)."""
    predictors: FloatArray
    """Not all the same. Shape (samples,)."""
    groups: tuple[str, ...]
    """The group of each sample."""

    @property
    def columns(self) -> tuple[FloatArray, ...]:
        """The values of each sample whose sums the figure is computed from."""
        y, x = self.outcomes, self.predictors
        return np.ones_like(y), x, y, x * x, x * y

    def combine(self, sums: Sequence[Any]) -> Any:
        """Return the figure for sums over samples, each a number or an array of numbers."""
        n, x, y, xx, xy = sums
        return (y * xx - x * xy) / (n * xx - x * x)


Statistic = Ratio | Intercept
"""What a figure is computed by: sums over samples, so that it can be resampled by groups."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its bootstrap interval."""

    value: float
    low: float | None
    """Lower end of the 95 % interval; None with fewer than two groups, or if a draw of them has no
    value."""
    high: float | None
    """Upper end of the 95 % interval; None where `low` is."""
    samples: int
    groups: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.low is not None and self.high is not None and self.low * self.high > 0

    def text(self, style: str) -> str:
        """Return the value with its interval in brackets: 24.90 (21.39 to 29.00)."""
        if self.low is None:
            return f"{self.value:{style}}"
        return f"{self.value:{style}} ({self.low:{style}} to {self.high:{style}})"


def estimate(statistic: Statistic, seed: int) -> Estimate:
    """Return the value with its percentile interval over `RESAMPLES` draws of whole groups.

    A figure that overflows is infinite.

    Raises:
        ValueError: There are no samples.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return _estimate(value_of(statistic), resample(statistic, seed), statistic)


def difference(statistic: Statistic, other: Statistic, seed: int) -> Estimate:
    """Return `statistic` - `other`, paired: each resample draws the same groups for both.

    Raises:
        ValueError: There are no samples, or the two figures have different samples.
    """
    if statistic.groups != other.groups:
        raise ValueError("figures of different samples cannot be paired")
    with np.errstate(over="ignore", invalid="ignore"):
        values = resample(statistic, seed) - resample(other, seed)
        return _estimate(value_of(statistic) - value_of(other), values, statistic)


def value_of(statistic: Statistic) -> float:
    """Return the figure itself."""
    return float(statistic.combine([column.sum() for column in statistic.columns]))


def resample(statistic: Statistic, seed: int) -> FloatArray:
    """Return the figure for `RESAMPLES` sets of groups, each drawn with replacement.

    The same groups and seed give the same draws, so two models' figures can be subtracted.

    Returns:
        Shape (RESAMPLES,).

    Raises:
        ValueError: There are no samples.

    Source:
        Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapters 6 and 13.
    """
    if not statistic.groups:
        raise ValueError("a figure needs at least one sample")
    # Whole groups are drawn, because samples of one OASST1 tree, or pairs with one prompt, are not
    # independent: drawing single samples would make the intervals too narrow.
    # In the order of their names, so that two models' draws are of the same groups.
    _, members = np.unique(np.array(statistic.groups), return_inverse=True)
    count = int(members.max()) + 1
    random = np.random.default_rng(seed)
    # How often each set contains each group, shape (RESAMPLES, groups). One draw of these counts
    # replaces drawing the groups one by one.
    draws = random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    by_group = [np.bincount(members, weights=column) for column in statistic.columns]
    return statistic.combine([draws.astype(np.float64) @ sums for sums in by_group])


def _estimate(value: float, resampled: FloatArray, statistic: Statistic) -> Estimate:
    """Return a value with the percentiles of its resampled values."""
    groups = len(set(statistic.groups))
    # Every resample of a single group is that group: an interval of no width would mislead.
    low = high = None
    if groups > 1:
        tail = (100 - LEVEL) / 2
        low, high = (float(end) for end in np.percentile(resampled, [tail, 100 - tail]))
        # Some draws have no value: infinity minus infinity, or a line through pairs of one length.
        if math.isnan(low) or math.isnan(high):
            low = high = None
    return Estimate(value, low, high, len(statistic.groups), groups)
