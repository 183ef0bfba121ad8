"""Average precision by the size of the objects, as COCO defines it, by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

SIZES = ("small", "medium", "large")  # area below 32 x 32, below 96 x 96, above, in pixels of the picture itself


def average_precision(
    images: Mapping[str, tuple[int, int]],
    truths: Sequence[tuple[str, int, Sequence[float]]],
    found: Sequence[tuple[str, int, Sequence[float], float]],
) -> dict[str, float]:
    """Compute AP at IoU 0.50...0.95 of small, medium and large boxes.

    Args:
        images: Width and height of each picture.
        truths: Picture, class and box of each object; x, y, w, h in pixels, x and y of the upper left corner.
        found: The same of each detection, with its score.

    Returns:
        AP in 0...1 by size, only sizes of which there are objects; and how many objects there are, as `small objects`.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    numbers = {image: k + 1 for k, image in enumerate(images)}
    categories = sorted({c for _, c, *_ in truths} | {c for _, c, *_ in found})
    if not truths:
        return {}
    dataset: dict[str, Any] = {
        "info": {},
        "images": [{"id": numbers[x], "width": w, "height": h, "file_name": x} for x, (w, h) in images.items()],
        "categories": [{"id": c + 1, "name": str(c)} for c in categories],
        "annotations": [
            {
                "id": k + 1,
                "image_id": numbers[image],
                "category_id": c + 1,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for k, (image, c, box) in enumerate(truths)
        ],
    }
    results: Any = [
        {"image_id": numbers[image], "category_id": c + 1, "bbox": list(box), "score": score}
        for image, c, box, score in found
    ]
    counts = dict.fromkeys(SIZES, 0)
    for _, _, box in truths:
        area = box[2] * box[3]
        counts["small" if area < 32**2 else "medium" if area < 96**2 else "large"] += 1
    precision = dict.fromkeys(SIZES, 0.0)
    if results:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(dataset)
            evaluation = COCOeval_faster(truth, truth.loadRes(results), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        precision = dict(zip(SIZES, (float(x) for x in evaluation.stats[3:6])))
    known = [x for x in SIZES if counts[x]]
    return {**{x: precision[x] for x in known}, **{f"{x} objects": counts[x] for x in known}}
