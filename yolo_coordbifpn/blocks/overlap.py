"""How much boxes overlap, as the host's NMS and assigners measure it: IoU, and ProbIoU for rotated boxes.

Source of ProbIoU: Llerena, Zeni, Kristen, Jung, "Gaussian Bounding Boxes and Probabilistic Intersection-over-Union for
Object Detection", arXiv 2106.06072, equations 9 to 15; one minus the Hellinger distance of two Gaussians.
"""

from __future__ import annotations

import torch
from torch import Tensor

_EPS = 1e-7  # the host's


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Return the overlap of each box of one set with each of another.

    Args:
        a: Boxes, shape (..., N, 4) as x1, y1, x2, y2, or (..., N, 5) as x, y, width, height, angle in radians.
        b: Boxes of the same kind, shape (..., M, 4 or 5).

    Returns:
        Overlaps, shape (..., N, M), 0...1; NaN for two boxes without area.
    """
    return _prob_iou(a, b) if a.shape[-1] == 5 else _iou(a, b)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    ax1, ay1, ax2, ay2 = a.unsqueeze(-2).unbind(-1)
    bx1, by1, bx2, by2 = b.unsqueeze(-3).unbind(-1)
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_(min=0)
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_(min=0)
    common = width.mul_(height)
    return common / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1)).sub_(common)


def _prob_iou(a: Tensor, b: Tensor) -> Tensor:
    ax, ay, bx, by = *a[..., :2].unsqueeze(-2).unbind(-1), *b[..., :2].unsqueeze(-3).unbind(-1)
    aa, ab, ac = (x.unsqueeze(-1) for x in _covariance(a))
    ba, bb, bc = (x.unsqueeze(-2) for x in _covariance(b))
    p, q, r = aa + ba, ab + bb, ac + bc
    determinant = p * q - r**2
    distance = (p * (ay - by) ** 2 + q * (ax - bx) ** 2) / (determinant + _EPS) / 4
    distance = distance + r * (bx - ax) * (ay - by) / (determinant + _EPS) / 2
    own = ((aa * ab - ac**2).clamp(min=0) * (ba * bb - bc**2).clamp(min=0)).sqrt()
    distance = distance + (determinant / (4 * own + _EPS) + _EPS).log() / 2
    return 1 - (1 - (-distance.clamp(_EPS, 100)).exp() + _EPS).sqrt()


def _covariance(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the covariance of the Gaussian of rotated boxes: xx, yy and xy, each of shape (..., N)."""
    x, y = (boxes[..., 2:4] ** 2 / 12).unbind(-1)
    cos, sin = boxes[..., 4].cos(), boxes[..., 4].sin()
    return x * cos**2 + y * sin**2, x * sin**2 + y * cos**2, (x - y) * cos * sin
