"""Simultaneous intervals of differences: between each model and the first, and between each variant and the best.

The seeds are the blocks of a randomised block design, which is complete if every model is trained with every seed. The
error variance is that of the two-way layout, model + seed, over all runs: with k models and n seeds it has
(k - 1)(n - 1) degrees of freedom, with missing runs fewer. The layout assumes that it is the same for all models.
`scipy.stats.dunnett` has no blocks, so it would count what the seed does to all models as error.

Sources: Dunnett, "A Multiple Comparison Procedure for Comparing Several Treatments with a Control", JASA 1955; Hsu,
"Multiple Comparisons: Theory and Methods", 1996, chapter 3 (control), chapter 4 (best) and chapter 7 (blocks).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from .statistics import Interval, difference

Scores = Mapping[str, Mapping[int, float]]  # a metric by model and seed; the first model is the control


def differences(scores: Scores) -> dict[str, Interval]:
    """Compute simultaneous 95 % intervals of the differences between each model and the first (Dunnett in blocks).

    Two models give the paired t interval. A model is compared over the seeds that it shares with the first. If the
    numbers of seeds differ, the correlation of two differences is slightly below 1/2, which the critical value is for.

    Args:
        scores: A metric by model and seed.

    Returns:
        The intervals of the models that share a seed with the first; without bounds for a single seed.
    """
    base, *others = scores
    found = {label: difference(scores[label], scores[base]) for label in others}
    if any(x.count > 1 for x in found.values()):
        variance, freedom = error_variance(scores)
        bound = critical_value(len(others), freedom, sides=2) * math.sqrt(2 * variance)
    for label, x in found.items():
        if x.count > 1:
            half = bound / math.sqrt(x.count)
            found[label] = Interval(x.mean, x.mean - half, x.mean + half, x.count)
    return {label: x for label, x in found.items() if x.count}


def behind_best(scores: Scores, seeds: Sequence[int]) -> tuple[str, dict[str, Interval]]:
    """Compare each variant with the best one (Hsu); the true best seems worse with a probability of at most 5 %.

    Args:
        scores: A metric of at least three models by model and seed. The first is not a variant, but adds to the error
            variance.
        seeds: At least two seeds that all models have.

    Returns:
        The variant with the largest mean; and for each other one the interval of its difference from the best, before
        Hsu's restriction to values up to 0. If it is wholly below 0, the variant is not the best.
    """
    _, *variants = scores
    mean = {x: sum(scores[x][seed] for seed in seeds) / len(seeds) for x in variants}
    best = max(variants, key=mean.__getitem__)
    others = [x for x in variants if x != best]
    variance, freedom = error_variance({x: {seed: scores[x][seed] for seed in seeds} for x in scores})
    half = math.sqrt(2 * variance / len(seeds)) * critical_value(len(others), freedom, sides=1)
    gaps = {x: mean[x] - mean[best] for x in others}
    return best, {x: Interval(gap, gap - half, gap + half, len(seeds)) for x, gap in gaps.items()}


def error_variance(scores: Scores) -> tuple[float, int]:
    """Fit model + seed to all scores by least squares; return the variance of the error and its degrees of freedom.

    Args:
        scores: A metric by model and seed; at least two models share two seeds.
    """
    seeds = sorted({seed for x in scores.values() for seed in x})
    cells = [(k, seeds.index(seed), value) for k, x in enumerate(scores.values()) for seed, value in x.items()]
    model, seed, values = (np.array(x) for x in zip(*cells))
    design = np.hstack([np.eye(len(scores))[model], np.eye(len(seeds))[seed]])
    fitted, _, rank, _ = np.linalg.lstsq(design, values - values.mean(), rcond=None)
    freedom = len(values) - int(rank)
    return float(((values - values.mean() - design @ fitted) ** 2).sum()) / freedom, freedom


@functools.cache
def critical_value(count: int, freedom: int, sides: int) -> float:
    """Return the 95 % point of the largest of several t values, which have a correlation of 1/2 with each other.

    Given the control's error z and the estimate s of the standard deviation, the t values are independent. Dunnett's
    double integral over z and s is summed on a grid, which is accurate to about 1e-6. `scipy.stats.multivariate_t`
    draws random points for the same probability, and its critical values are off by up to 0.5 %.

    Args:
        count: Number of t values.
        freedom: Degrees of freedom of the error variance.
        sides: 2 for the largest absolute value, 1 for the largest value.
    """
    from scipy import optimize, special

    z = np.linspace(-9, 9, 181)[:, None]
    s = np.exp(np.linspace(-26, 6, 581) / math.sqrt(freedom))
    # the density of z times that of s and of the logarithmic grid, up to a factor
    weights = np.outer(np.exp(-(z**2) / 2), np.exp(freedom * (np.log(s) - s**2 / 2 + 0.5)))
    weights /= weights.sum()

    def excess(bound: float) -> float:
        below = special.ndtr(math.sqrt(2) * bound * s - z)
        if sides == 2:
            below -= special.ndtr(-math.sqrt(2) * bound * s - z)
        return float((weights * below**count).sum()) - 0.95

    return float(optimize.brentq(excess, 0, 1000))
