"""Non-maximum suppression whose threshold differs from box to box: hard, soft, and for rotated boxes.

Sources: Liu, Huang, Wang, "Adaptive NMS", CVPR 2019, arXiv 1904.03629: around a box M with density d_M, what overlaps
it by more than max(N_t, d_M) is suppressed. Bodla, Singh, Chellappa, Davis, "Soft-NMS", ICCV 2017, arXiv 1704.04503.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks.overlap import overlap

_ROWS, _COLUMNS = 128, 1024  # pairs whose overlap a CPU computes at once; they stay in its cache


def hard_nms(boxes: Tensor, scores: Tensor, thresholds: Tensor, most: int | None = None) -> Tensor:
    """Suppress greedily: from the highest score on, a box that is kept removes what overlaps it too much.

    Args:
        boxes: Boxes as x1, y1, x2, y2, shape (N, 4); those of different classes lie apart.
        scores: Scores, shape (N,).
        thresholds: For each box the overlap above which it removes another, shape (N,).
        most: How many boxes to keep at most; all if None.

    Returns:
        Indices of the kept boxes, by falling score.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes, thresholds = boxes[order], thresholds[order, None]
    kept, found = [order[:0]], 0
    while len(order) and (most is None or found < most):
        over, least = boxes[:_ROWS], thresholds[:_ROWS]
        keeps = _greedy((overlap(over, over) - least).triu_(1) > 0)
        kept.append(order[:_ROWS][keeps])
        found += len(kept[-1])
        order, boxes, thresholds = order[_ROWS:], boxes[_ROWS:], thresholds[_ROWS:]
        if len(order):
            over, least = over[keeps], least[keeps]
            columns = boxes.split(_COLUMNS if boxes.is_cpu else len(boxes))
            free = ~torch.cat([(overlap(over, x) > least).any(0) for x in columns])
            order, boxes, thresholds = order[free], boxes[free], thresholds[free]
    return torch.cat(kept)[:most]


def _greedy(removes: Tensor) -> Tensor:
    """Return which boxes are kept, if a kept box removes others.

    Args:
        removes: Whether the box of the row would remove that of the column, shape (N, N), an upper triangle.
    """
    weights = removes.float()
    kept = torch.ones_like(weights[0], dtype=torch.bool)
    while True:  # after k rounds the first k boxes are right, and mostly all
        now = (kept.float() @ weights) == 0
        if torch.equal(now, kept):
            return kept
        kept = now


def fast_nms(boxes: Tensor, scores: Tensor, thresholds: Tensor) -> Tensor:
    """Suppress as the host does with rotated boxes: a box that is removed itself removes others all the same.

    Args:
        boxes: Boxes as x, y, width, height, angle, shape (N, 5); those of different classes lie apart.
        scores: Scores, shape (N,).
        thresholds: For each box the overlap above which it removes another, shape (N,).

    Returns:
        Indices of the kept boxes, by falling score.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes, thresholds = boxes[order], thresholds[order, None]
    removed = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    for first in range(0, len(order), _ROWS):
        rows = slice(first, first + _ROWS)
        removed[first:] |= (overlap(boxes[rows], boxes[first:]) > thresholds[rows]).triu(1).any(0)
    return order[~removed]


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    thresholds: Tensor,
    least: float,
    most: int | None = None,
    sigma: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Lower the scores of what overlaps a better box too much, by exp(-overlap^2 / sigma), in place of removing it.

    Args:
        boxes: Boxes, shape (N, 4 or 5); those of different classes lie apart.
        scores: Scores, shape (N,).
        thresholds: For each box the overlap above which it lowers the score of another, shape (N,).
        least: Boxes whose score falls to this or below are removed.
        most: How many boxes to keep at most; all if None.
        sigma: Width of the Gaussian; 0.5 in the paper.

    Returns:
        Indices of the kept boxes, by falling new score, and these scores.
    """
    scores, left = scores.clone(), torch.arange(len(scores), device=scores.device)
    kept: list[Tensor] = []
    values: list[Tensor] = []
    while len(left) and (most is None or len(kept) < most):
        best = scores[left].argmax()
        chosen = left[best]
        kept.append(chosen)
        values.append(scores[chosen].clone())
        left = torch.cat((left[:best], left[best + 1 :]))
        over = overlap(boxes[chosen][None], boxes[left])[0]
        scores[left] *= torch.where(over > thresholds[chosen], (-(over**2) / sigma).exp(), 1)
        left = left[scores[left] > least]
    return (torch.stack(kept), torch.stack(values)) if kept else (left, scores)
