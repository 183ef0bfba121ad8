"""Average precision by object size, as COCO defines it, computed by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

SIZES = ("small", "medium", "large")  # area below 32 x 32, below 96 x 96, larger; in pixels of the original image


def average_precision(
    images: Mapping[str, tuple[int, int]],
    truths: Sequence[tuple[str, int, Sequence[float]]],
    detections: Sequence[tuple[str, int, Sequence[float], float]],
) -> dict[str, float]:
    """Compute AP at IoU 0.50...0.95 of small, medium and large boxes.

    Args:
        images: Width and height of each image by name, in pixels.
        truths: Image, class and box of each object; a box is x, y, w, h in pixels, where x, y is the upper left corner.
        detections: Image, class, box and score of each detection.

    Returns:
        AP, 0...1, for each size that has objects; their number, as `small objects`; and that of the class with the
        fewest, as `small fewest`. Empty if there are no objects.
    """
    if not truths:
        return {}
    counts: dict[str, Counter[int]] = {x: Counter() for x in SIZES}
    for _, c, box in truths:
        area = box[2] * box[3]
        counts["small" if area < 32**2 else "medium" if area < 96**2 else "large"][c] += 1
    precision = _precision(images, truths, detections) if detections else dict.fromkeys(SIZES, 0.0)
    known = [x for x in SIZES if counts[x]]
    objects = {f"{x} objects": counts[x].total() for x in known}
    return {**{x: precision[x] for x in known}, **objects, **{f"{x} fewest": min(counts[x].values()) for x in known}}


def _precision(
    images: Mapping[str, tuple[int, int]],
    truths: Sequence[tuple[str, int, Sequence[float]]],
    detections: Sequence[tuple[str, int, Sequence[float], float]],
) -> dict[str, float]:
    """Evaluate detections as COCO does; return AP by size, which is undefined for a size without objects."""
    from faster_coco_eval import COCO, COCOeval_faster

    ids = {image: k + 1 for k, image in enumerate(images)}

    def annotation(image: str, c: int, box: Sequence[float]) -> dict[str, Any]:
        return {"image_id": ids[image], "category_id": c + 1, "bbox": list(box)}

    classes = sorted({c for _, c, *_ in truths} | {c for _, c, *_ in detections})
    dataset: dict[str, Any] = {
        "info": {},
        "images": [{"id": ids[x], "width": w, "height": h, "file_name": x} for x, (w, h) in images.items()],
        "categories": [{"id": c + 1, "name": str(c)} for c in classes],
        "annotations": [
            {**annotation(image, c, box), "id": k + 1, "area": box[2] * box[3], "iscrowd": 0}
            for k, (image, c, box) in enumerate(truths)
        ],
    }
    results: Any = [{**annotation(image, c, box), "score": score} for image, c, box, score in detections]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its tables
        truth = COCO(dataset)
        evaluation = COCOeval_faster(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(SIZES, (float(x) for x in evaluation.stats[3:6])))
