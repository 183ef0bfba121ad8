"""What a threshold costs and saves: the share of objects that it keeps, and of images that it skips."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

KEEP = 0.995  # share of the objects that a chosen threshold keeps at least
_STEPS = 10_000  # thresholds are multiples of 1 / _STEPS


@dataclass
class Curve:
    """The largest score of each image of a data set, and how many objects it has.

    Attributes:
        scores: Scores, 0...1.
        objects: Numbers of objects.
    """

    scores: list[float] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)

    def recall(self, threshold: float) -> float:
        """Return the share of the objects that are in images which a threshold keeps; NaN without objects."""
        total = sum(self.objects)
        return sum(n for s, n in zip(self.scores, self.objects) if s >= threshold) / total if total else float("nan")

    def skipped(self, threshold: float) -> float:
        """Return the share of the images that a threshold skips; NaN without images."""
        return sum(s < threshold for s in self.scores) / len(self.scores) if self.scores else float("nan")

    def empty(self) -> float:
        """Return the share of the images without objects; NaN without images."""
        return self.objects.count(0) / len(self.objects) if self.objects else float("nan")

    def best(self, keep: float = KEEP) -> float:
        """Return the largest threshold that keeps a share of the objects; 0 if there are no objects."""
        spare = math.floor(sum(self.objects) * (1 - Fraction(str(keep))))  # objects that may be lost
        for score, objects in sorted(zip(self.scores, self.objects)):
            if objects > spare:
                return math.floor(score * _STEPS) / _STEPS
            spare -= objects
        return 0.0

    def thresholds(self) -> list[float]:
        """Return thresholds for a table: 0, round ones, and the best."""
        return sorted({0.0, 0.01, 0.02, 0.05, *(k / 10 for k in range(1, 10)), self.best()})
