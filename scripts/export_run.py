"""Export one model in one format, run it, and compare its boxes with PyTorch: in a process of its own."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from export_boxes import SCORE, SLACK, differences
from export_formats import FORMATS, Format, Tolerance
from torch import Tensor, nn

NOT_FOR_IT = "not for this head"


def compare(job: dict[str, Any]) -> dict[str, Any]:
    """Export a model into this folder, run it and PyTorch, and compare their boxes.

    Args:
        job: `model`, a checkpoint; `format`, a name in `FORMATS`; `source`, images; `imgsz`, pixels.

    Returns:
        The verdict, the size of the files in megabytes, and what `differences()` found.
    """
    from ultralytics.models import YOLO

    kind, size = FORMATS[job["format"]], job["imgsz"]
    model = Path(shutil.copy(job["model"], "."))
    eager: Any = YOLO(model)
    if kind.options.get("nms") is False and getattr(eager.model.model[-1], "one2one_cv2", None) is None:
        return {"verdict": NOT_FOR_IT}
    if kind.options["format"] == "torch.export":
        file, exported = _through_torch_export(model, kind, size)
    else:
        given = {"conf": SCORE - SLACK} if kind.options.get("nms") else {}
        if kind.options["format"] == "openvino":
            _compute_in(kind.precision)
        file = Path(YOLO(model).export(imgsz=size, device="cpu", **{**kind.options, **given}))
        exported = YOLO(file, task=eager.task) if kind.runs else None
    files = [x for x in file.rglob("*") if x.is_file()] if file.is_dir() else [file]
    result: dict[str, Any] = {"megabytes": round(sum(x.stat().st_size for x in files) / 2**20, 1)}
    if exported is None:
        return {**result, "verdict": "converted"}
    sizes = (size, size * 3 // 4 // 32 * 32, size // 2 // 32 * 32) if kind.dynamic else (size,)
    head = {"nms": False} if kind.options.get("nms") is False else {}
    pairs = []
    for imgsz in sizes:
        seen = {"imgsz": imgsz, "conf": SCORE - SLACK, "rect": kind.dynamic, "device": "cpu", "verbose": False, **head}
        for image in job["source"]:
            pairs.append([yolo.predict(image, **seen)[0] for yolo in (eager, exported)])
    found = differences(pairs)
    return {**result, **found, "verdict": "works" if _within(found, kind.tolerance) else "differs"}


def _compute_in(precision: str) -> None:
    """Make OpenVINO compute in one precision; its default for float32 is bfloat16 where the processor supports it."""
    import openvino

    compiled = openvino.Core.compile_model

    def compile_model(core: Any, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        return compiled(core, *args, config={**(config or {}), "INFERENCE_PRECISION_HINT": precision}, **kwargs)

    openvino.Core.compile_model = compile_model


def _through_torch_export(model: Path, kind: Format, size: int) -> tuple[Path, Any]:
    """Export with torch.export into a file, and use the loaded program for the inference of the host."""
    from ultralytics.models import YOLO

    yolo: Any = YOLO(model)
    network = copy.deepcopy(yolo.model).eval().fuse(verbose=False)
    network.model[-1].export, network.model[-1].format = True, "torch.export"
    network.model[-1].dynamic = kind.dynamic
    x = torch.zeros(1, 3, size, size)
    with torch.no_grad():
        network(x)
        sides = {axis: 32 * torch.export.Dim(name, min=2, max=64) for axis, name in ((2, "h"), (3, "w"))}
        program = torch.export.export(Bare(network), (x,), dynamic_shapes=(sides,) if kind.dynamic else None)
    file = Path("model.pt2")
    torch.export.save(program, file)
    loaded = torch.export.load(file).module()
    yolo.predict(torch.zeros(1, 3, size, size), imgsz=size, device="cpu", verbose=False)  # sets the predictor up
    yolo.predictor.inference = lambda im, *args, **kwargs: loaded(im)
    return file, yolo


class Bare(nn.Module):
    """A model that takes one input, as torch.export wants it."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap the model."""
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        """Run it."""
        return self.model(x)


def _within(found: dict[str, Any], tolerance: Tolerance) -> bool:
    """Return whether the differences are within the tolerance."""
    changed = max(found["missing"], found["new"], found["classes"])
    return bool(
        changed <= tolerance.missing * found["boxes"]
        and found["iou"] >= tolerance.iou
        and found["score"] <= tolerance.score
    )
