"""Statistics over seeds: means with confidence intervals, and differences paired by seed.

Source: Student, "The Probable Error of a Mean", Biometrika 1908. Runs of one seed see the same images in the same
order, so the difference between two models is taken seed by seed, which cancels what the seed does to both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % confidence interval; the bounds are NaN for fewer than two values."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def half(self) -> float:
        """Return half the width of the interval."""
        return (self.high - self.low) / 2


def interval(values: Sequence[float]) -> Interval:
    """Compute the mean of some values and its 95 % confidence interval (Student's t)."""
    from scipy import stats

    mean = sum(values) / len(values) if values else math.nan
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan, len(values))
    error = stats.sem(values)
    if error == 0:
        return Interval(mean, mean, mean, len(values))
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error)
    return Interval(mean, float(low), float(high), len(values))


def difference(values: Mapping[int, float], base: Mapping[int, float]) -> Interval:
    """Compute the interval of the paired difference, values minus base, over the seeds that both have."""
    return interval([values[seed] - base[seed] for seed in sorted(values.keys() & base.keys())])


def verdict(found: Interval, larger_is_better: bool = True) -> str:
    """Return what an interval of differences shows: `better`, `worse` or `not shown`."""
    if found.count < 2:
        return "not shown (one seed tells nothing)"
    if found.low > 0:
        return "better" if larger_is_better else "worse"
    if found.high < 0:
        return "worse" if larger_is_better else "better"
    return "not shown"
