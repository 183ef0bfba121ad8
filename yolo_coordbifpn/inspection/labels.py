"""Labels of plots: their text, and positions that do not overlap."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def plain(text: str) -> str:
    """Return a text that matplotlib draws as it is: a user's name may have dollars, which stand for formulas there."""
    return text.replace("$", r"\$")


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Move values apart by at least a gap, keeping their order and their mean."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    places = list(values)
    for lower, upper in itertools.pairwise(order):
        places[upper] = max(places[upper], places[lower] + gap)
    shift = (sum(places) - sum(values)) / len(places) if places else 0.0
    return [x - shift for x in places]
