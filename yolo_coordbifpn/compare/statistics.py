"""Statistics over seeds: means with confidence intervals, and differences paired by seed.

Source: Student, "The Probable Error of a Mean", Biometrika 1908. Runs with the same seed see the same images in the
same order, so the difference between two models is computed seed by seed, which cancels the common effect of the seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEAST_SEEDS = 3  # for a verdict
_ROUNDING = 1e-9  # of metrics; differences that vary less count as equal


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
    """Compute the mean of values and its 95 % confidence interval (Student's t)."""
    from scipy.special import stdtrit

    mean = sum(values) / len(values) if values else math.nan
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan, len(values))
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = error * float(stdtrit(len(values) - 1, 0.975))  # the 97.5 % quantile of Student's t
    return Interval(mean, mean - half, mean + half, len(values))


def difference(values: Mapping[int, float], base: Mapping[int, float]) -> Interval:
    """Compute the interval of the paired difference, values minus base, over the seeds that both have."""
    return interval([values[seed] - base[seed] for seed in sorted(values.keys() & base.keys())])


def verdict(found: Interval, larger_is_better: bool = True) -> str:
    """Return what an interval of differences shows: `better`, `worse`, `not shown`, or why there is no verdict."""
    if found.count < LEAST_SEEDS:
        seeds = "1 seed" if found.count == 1 else f"{found.count} seeds"
        return f"no verdict: {seeds}, at least {LEAST_SEEDS} are needed"
    if found.half < _ROUNDING:
        return "no verdict: no variance between seeds"
    if found.low > 0:
        return "better" if larger_is_better else "worse"
    if found.high < 0:
        return "worse" if larger_is_better else "better"
    return "not shown"
