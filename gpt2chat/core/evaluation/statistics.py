"""Compute ratios of sums, with 95 % intervals from a bootstrap over groups."""

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


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its bootstrap interval."""

    value: float
    low: float | None
    """Lower end of the 95 % interval; None if there are fewer than two groups."""
    high: float | None
    """Upper end of the 95 % interval; None if there are fewer than two groups."""
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


def estimate(ratio: Ratio, seed: int) -> Estimate:
    """Return the value with its percentile interval over `RESAMPLES` draws of whole groups.

    A figure that overflows is infinite, and its interval may be NaN.

    Raises:
        ValueError: There are no samples.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return _estimate(value_of(ratio), resample(ratio, seed), ratio)


def difference(ratio: Ratio, other: Ratio, seed: int) -> Estimate:
    """Return `ratio` - `other`, paired: each resample draws the same groups for both.

    Raises:
        ValueError: There are no samples, or the two ratios have different samples.
    """
    if ratio.groups != other.groups:
        raise ValueError("ratios of different samples cannot be paired")
    with np.errstate(over="ignore", invalid="ignore"):
        values = resample(ratio, seed) - resample(other, seed)
        return _estimate(value_of(ratio) - value_of(other), values, ratio)


def value_of(ratio: Ratio) -> float:
    """Return the figure itself."""
    value = ratio.numerators.sum() / ratio.denominators.sum()
    return float(np.exp(value) if ratio.exponential else value)


def resample(ratio: Ratio, seed: int) -> FloatArray:
    """Return the figure for `RESAMPLES` sets of groups, each drawn with replacement.

    The same groups and seed give the same draws, so two models' figures can be subtracted.

    Returns:
        Shape (RESAMPLES,).

    Raises:
        ValueError: There are no samples.

    Source:
        Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapters 6 and 13.
    """
    if not ratio.groups:
        raise ValueError("a figure needs at least one sample")
    # Whole groups are drawn, because samples of one OASST1 tree, or pairs with one prompt, are not
    # independent: drawing single samples would make the intervals too narrow.
    # In the order of their names, so that two models' draws are of the same groups.
    _, members = np.unique(np.array(ratio.groups), return_inverse=True)
    count = int(members.max()) + 1
    random = np.random.default_rng(seed)
    # How often each set contains each group, shape (RESAMPLES, groups). One draw of these counts
    # replaces drawing the groups one by one.
    draws = random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    values = _group_sums(draws, members, ratio.numerators) / _group_sums(
        draws, members, ratio.denominators
    )
    return np.exp(values) if ratio.exponential else values


def _group_sums(draws: NDArray[np.int64], members: NDArray[Any], values: FloatArray) -> FloatArray:
    """Return the sum of the samples' values in each resample, shape (RESAMPLES,)."""
    return draws.astype(np.float64) @ np.bincount(members, weights=values)


def _estimate(value: float, resampled: FloatArray, ratio: Ratio) -> Estimate:
    """Return a value with the percentiles of its resampled values."""
    groups = len(set(ratio.groups))
    # Every resample of a single group is that group: an interval of no width would mislead.
    low = high = None
    if groups > 1:
        tail = (100 - LEVEL) / 2
        low, high = (float(end) for end in np.percentile(resampled, [tail, 100 - tail]))
    return Estimate(value, low, high, len(ratio.groups), groups)
