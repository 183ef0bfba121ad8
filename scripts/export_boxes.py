"""How the boxes of an exported model differ from those of PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

SCORE, SLACK = 0.25, 0.05  # a box within SLACK of SCORE may be missing on one side


def differences(pairs: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """Match the boxes of PyTorch with those of the exported model, image by image.

    Args:
        pairs: For each image the host's results of PyTorch and of the exported model, with boxes of scores from 0.2.

    Returns:
        Number of boxes of PyTorch with scores from 0.25; how many are missing, and how many are new; over the matched
        boxes the least IoU, the largest difference in score and the number of changed classes; if there are masks,
        their least IoU; if there are keypoints, their largest distance in pixels.
    """
    found = {"boxes": 0, "missing": 0, "new": 0, "iou": 1.0, "score": 0.0, "classes": 0}
    for eager, exported in pairs:
        old, new = eager.boxes.cpu(), exported.boxes.cpu()
        matched = match(old.xyxy, old.cls, new.xyxy, new.cls)
        for boxes, key, seen in ((old, "missing", [i for i, _ in matched]), (new, "new", [j for _, j in matched])):
            certain = set((boxes.conf >= SCORE).nonzero().flatten().tolist())
            found[key] += len(certain - set(seen))
            found["boxes"] += len(certain) if key == "missing" else 0
        for i, j in matched:
            if max(old.conf[i], new.conf[j]) < SCORE:
                continue
            found["iou"] = min(found["iou"], float(_iou(old.xyxy[i : i + 1], new.xyxy[j : j + 1])))
            found["score"] = max(found["score"], abs(float(old.conf[i] - new.conf[j])))
            found["classes"] += int(old.cls[i] != new.cls[j])
            if eager.masks is not None:
                a, b = eager.masks.data[i].cpu() > 0.5, exported.masks.data[j].cpu() > 0.5
                found["masks"] = min(found.get("masks", 1.0), float((a & b).sum() / (a | b).sum().clamp_min(1)))
            if eager.keypoints is not None:
                gap = (eager.keypoints.xy[i].cpu() - exported.keypoints.xy[j].cpu()).norm(dim=1).max()
                found["keypoints"] = max(found.get("keypoints", 0.0), float(gap))
    return {key: round(value, 5) for key, value in found.items()}


def match(boxes: Tensor, classes: Tensor, others: Tensor, other_classes: Tensor) -> list[tuple[int, int]]:
    """Pair boxes, each (n, 4) as x1, y1, x2, y2, whose IoU is at least 0.5; those of the same class first."""
    iou = _iou(boxes, others)
    rank = (iou + (classes[:, None] == other_classes)) * (iou >= 0.5)
    pairs: list[tuple[int, int]] = []
    while rank.numel() and rank.max() > 0:
        i, j = divmod(int(rank.argmax()), rank.shape[1])
        pairs.append((i, j))
        rank[i], rank[:, j] = 0, 0
    return pairs


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Compute IoU, including that of boxes with negative width or height, which heads sometimes output."""
    return box_iou(*(torch.cat((x[:, :2].minimum(x[:, 2:]), x[:, :2].maximum(x[:, 2:])), 1) for x in (boxes, others)))
