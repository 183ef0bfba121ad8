"""What a trained model is measured by: the host's validation, AP by class and by size, parameters and GFLOPs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..host.cost import count
from ..host.models import open_model
from .object_sizes import average_precision
from .plan import Plan, Run


def validate(plan: Plan, trial: Run, best: Path, device: str) -> dict[str, Any]:
    """Validate the best checkpoint as the host does; add AP by class and by size, parameters and GFLOPs."""
    model = open_model(best, trial.model)
    seen: list[Any] = []
    model.add_callback("on_val_end", seen.append)
    keys = ("data", "imgsz", "batch", "workers", "single_cls", "iou", "max_det", "rect", "split", "classes")
    options = {k: plan.train[k] for k in keys if k in plan.train}
    where = {"project": str(trial.folder), "name": "val", "exist_ok": True, "plots": False, "device": device}
    metrics = model.val(**options, **where, save_json=model.task in ("detect", "segment", "pose"))
    size = count(open_model(best, trial.model).model)
    results = {k: float(v) for k, v in metrics.results_dict.items()}
    return {
        "task": model.task,
        "metrics": results,
        "classes": _classes(metrics),
        "sizes": _sizes(seen[-1]) if model.task in ("detect", "segment", "pose") else {},
        "parameters": size.parameters,
        "gflops": round(size.gflops, 4),
        "best": str(best.relative_to(plan.folder)),
    }


def _classes(metrics: Any) -> dict[str, float]:
    """Return mAP50-95 of each class that the validation data has."""
    box = getattr(metrics, "box", None)
    if box is None or not len(getattr(box, "ap_class_index", ())):
        return {}
    return {str(metrics.names[c]): float(box.maps[c]) for c in box.ap_class_index}


def _sizes(validator: Any) -> dict[str, float]:
    """Return COCO's AP of small, medium and large boxes, of the validation that was just done."""
    from PIL import Image
    from ultralytics.data.utils import exif_size

    truths, sizes = [], {}
    for label in validator.dataloader.dataset.labels:
        with Image.open(label["im_file"]) as picture:
            width, height = exif_size(picture)
        image = Path(label["im_file"]).stem
        sizes[image] = (width, height)
        for c, (x, y, w, h) in zip(label["cls"].reshape(-1), label["bboxes"]):
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            truths.append((image, int(c), [float(v) for v in box]))
    back = {x: i for i, x in enumerate(validator.class_map)}
    found = [(str(x["image_id"]), back[x["category_id"]], x["bbox"], x["score"]) for x in validator.jdict]
    numeric = {str(int(x)) if x.isnumeric() else x: x for x in sizes}  # the host writes 007 as 7
    return average_precision(sizes, truths, [(numeric[x], c, box, score) for x, c, box, score in found])
