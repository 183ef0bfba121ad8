"""What one NMS finds in a validation set: mAP, recall of crowded objects, and false positives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..blocks.overlap import overlap

Array = NDArray[Any]
LEVELS = np.linspace(0.5, 0.95, 10)  # of IoU, for mAP
CROWDED = (0.3, 0.5)  # an object is crowded if its density is above


@dataclass(frozen=True)
class Score:
    """The result of one NMS.

    Attributes:
        kind: `fixed`, `soft`, `adaptive` or `adaptive soft`.
        threshold: The overlap threshold, N_t.
        map50: mAP at IoU 0.5.
        map: mAP at IoU 0.5...0.95.
        recall: Share of the objects that are found, at IoU 0.5 and the given confidence.
        crowded: The same of the objects with a density above each value of `CROWDED`; NaN if there are none.
        false_positives: Detections per image that are no object, or one that is found already, at the same confidence.
    """

    kind: str
    threshold: float
    map50: float
    map: float
    recall: float
    crowded: tuple[float, ...]
    false_positives: float

    def row(self) -> dict[str, str]:
        """Return the result as a row of a table."""
        return {
            "NMS": self.kind,
            "threshold": f"{self.threshold:.2f}",
            "mAP50": f"{self.map50:.4f}",
            "mAP50-95": f"{self.map:.4f}",
            "recall": f"{self.recall:.4f}",
            **{f"recall d>{d}": f"{x:.4f}" for d, x in zip(CROWDED, self.crowded)},
            "false positives": f"{self.false_positives:.3f}",
        }


class Tally:
    """The detections of one NMS, counted image by image."""

    def __init__(self, kind: str, threshold: float, confidence: float) -> None:
        """Start empty.

        Args:
            kind: `fixed`, `soft`, `adaptive` or `adaptive soft`.
            threshold: The overlap threshold, N_t.
            confidence: Score from which detections count for recall and false positives.
        """
        self.kind, self.threshold = kind, threshold
        self._confidence = confidence
        self._right: list[Array] = []  # for each detection, whether it is right at each level of IoU
        self._detected: list[Array] = []  # score and class of each detection
        self._objects: list[Array] = []  # class, density and found of each object
        self._false: list[int] = []

    def add(self, rows: Tensor, objects: Tensor, labels: Tensor, densities: Tensor) -> None:
        """Count one image.

        Args:
            rows: Detections as the host's NMS returns them, shape (D, 6 or more), by falling score; rotated boxes with
                the angle last.
            objects: Boxes of the objects in the same pixels, shape (T, 4) as x1, y1, x2, y2, or (T, 5) if rotated.
            labels: Their classes, shape (T,).
            densities: Their densities, shape (T,).
        """
        rotated = objects.shape[1] == 5
        boxes = rows[:, [0, 1, 2, 3, -1]] if rotated else rows[:, :4]
        overlaps = (overlap(objects, boxes.to(objects)) * (labels[:, None] == rows[:, 5])).cpu().numpy()
        scores, classes = rows[:, 4].cpu().numpy(), rows[:, 5].cpu().numpy()
        self._right.append(_matches(overlaps, LEVELS)[1])
        self._detected.append(np.stack((scores, classes), 1))
        sure = scores >= self._confidence
        found, right = (x[:, 0] for x in _matches(overlaps[:, sure], LEVELS[:1]))
        self._objects.append(np.stack((labels.cpu().numpy(), densities.cpu().numpy(), found), 1))
        self._false.append(int((~right).sum()))

    def score(self) -> Score:
        """Return the result over all images; a share of no objects is NaN."""
        right, detected, objects = (np.concatenate(x) for x in (self._right, self._detected, self._objects))
        precision = np.zeros((1, len(LEVELS)))
        if right.any():
            from ultralytics.utils.metrics import ap_per_class

            precision = ap_per_class(right, detected[:, 0], detected[:, 1], objects[:, 0], names={})[5]
        _, density, found = objects.T
        shares = [found[density > d].mean() if (density > d).any() else float("nan") for d in (-1.0, *CROWDED)]
        return Score(
            self.kind,
            self.threshold,
            float(precision[:, 0].mean()),
            float(precision.mean()),
            float(shares[0]),
            tuple(map(float, shares[1:])),
            float(np.mean(self._false)),
        )


def _matches(overlaps: Array, levels: Array) -> tuple[Array, Array]:
    """Match as COCO does: each detection, by falling score, with the nearest object that none has taken yet.

    Args:
        overlaps: IoU of each object with each detection, shape (T, D); 0 if the classes differ.
        levels: Smallest IoU of a match, shape (L,).

    Returns:
        Whether each object is found, shape (T, L), and whether each detection is right, shape (D, L).
    """
    found, right = (np.zeros((n, len(levels)), dtype=bool) for n in overlaps.shape)
    every = np.arange(len(levels))
    for detection in np.flatnonzero((overlaps >= levels.min()).any(0)):
        free = np.where(found, 0, overlaps[:, detection, None])
        best = free.argmax(0)
        right[detection] = free[best, every] >= levels
        found[best, every] |= right[detection]
    return found, right
