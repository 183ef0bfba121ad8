"""Metrics of a trained model: the host's validation, AP by class and object size, parameters and GFLOPs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..host.cost import count
from ..host.models import open_model
from .arguments import given_arguments
from .object_sizes import average_precision
from .plan import Plan, Run


def validate(plan: Plan, run: Run, best: Path, device: str) -> dict[str, Any]:
    """Validate the best checkpoint with the host, and add AP by class and object size, parameters and GFLOPs."""
    model = open_model(best)
    seen: list[Any] = []
    model.add_callback("on_val_end", seen.append)
    keys = ("data", "imgsz", "batch", "workers", "single_cls", "iou", "max_det", "rect", "split", "classes")
    options = {k: v for k, v in given_arguments(plan.train).items() if k in keys}
    where = {"project": str(run.folder), "name": "val", "exist_ok": True, "plots": False, "device": device}
    metrics = model.val(**options, **where, save_json=model.task in ("detect", "segment", "pose"))
    size = count(open_model(best).model)
    results = {k: float(v) for k, v in metrics.results_dict.items()}
    return {
        "task": model.task,
        "metrics": results,
        "classes": _classes(metrics, model.task),
        "sizes": _sizes(seen[-1]) if model.task in ("detect", "segment", "pose") else {},
        "parameters": size.parameters,
        "gflops": round(size.gflops, 4),
        "best": best.relative_to(plan.folder).as_posix(),
    }


def _classes(metrics: Any, task: str) -> dict[str, float]:
    """Return mAP50-95 of each class of the validation data, of masks and poses where the model has them."""
    part = getattr(metrics, {"segment": "seg", "pose": "pose"}.get(task, "box"), None)
    if part is None or not len(getattr(part, "ap_class_index", ())):
        return {}
    return {str(metrics.names[c]): float(part.maps[c]) for c in part.ap_class_index}


def _sizes(validator: Any) -> dict[str, float]:
    """Return COCO's AP of small, medium and large boxes from a finished validation.

    It is empty if two images have the same name up to folder and suffix, by which the host's results name them.
    """
    from PIL import Image
    from ultralytics.data.utils import exif_size

    truths, sizes = [], {}
    for label in validator.dataloader.dataset.labels:
        with Image.open(label["im_file"]) as image:
            width, height = exif_size(image)
        name = Path(label["im_file"]).stem
        sizes[name] = (width, height)
        for c, (x, y, w, h) in zip(label["cls"].reshape(-1), label["bboxes"]):
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            truths.append((name, int(c), [float(v) for v in box]))
    classes = {x: i for i, x in enumerate(validator.class_map)}
    names = {str(int(x)) if x.isnumeric() else x: x for x in sizes}  # the host writes 007 as 7
    if len(names) < len(validator.dataloader.dataset.labels):
        return {}
    detections = [
        (names[str(x["image_id"])], classes[x["category_id"]], x["bbox"], x["score"]) for x in validator.jdict
    ]
    return average_precision(sizes, truths, detections)
