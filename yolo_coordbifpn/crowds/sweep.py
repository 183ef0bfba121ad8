"""One pass over a validation set, with each NMS on the predictions of every batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..blocks.density import DensityHead, crowding
from ..errors import InspectError
from ..host.datasets import check_data
from ..inspection.sources import opened
from ..patches.adaptive_nms import DENSITIES, host_nms, predictions_of, using
from .scores import Score, Tally

THRESHOLDS = tuple(round(0.4 + 0.05 * k, 2) for k in range(11))  # 0.4...0.9
LEAST = 0.001  # score of a candidate, where the host's validation does not say its own
_NO_NMS = "the head of this model needs no NMS, so there is nothing to measure"
_TASKS = ("detect", "segment", "pose", "obb")


def sweep(model: str | Path, data: str, confidence: float = 0.25, **options: Any) -> list[Score]:
    """Validate a model once, and measure each NMS on its predictions.

    Args:
        model: A checkpoint. The adaptive NMS is measured if the model has a `DensityHead`.
        data: Data YAML.
        confidence: Score from which detections count for recall and false positives.
        **options: Arguments of the host's `val`, such as `imgsz` and `split`.

    Returns:
        The scores: fixed, soft, and adaptive, hard and soft, if possible, each with thresholds from 0.4 to 0.9.

    Raises:
        InspectError: If the model has no boxes for NMS, or the model or the data cannot be opened.
    """
    yolo = opened(model)
    if yolo.task not in _TASKS:
        raise InspectError(f"{model} is a model of the task {yolo.task}; NMS is for {', '.join(_TASKS)}")
    end2end = options.get("end2end", getattr(yolo.model, "end2end", False))
    if end2end or type(yolo.model.model[-1]).__name__ == "RTDETRDecoder":
        raise InspectError(_NO_NMS)
    check_data(data, yolo.task, str(options.get("split") or "val"))
    adaptive = any(isinstance(m, DensityHead) for m in yolo.model.modules())
    kinds = ("fixed", "soft", "adaptive", "adaptive soft")[: 4 if adaptive else 2]
    steps = {kind: 2 if "soft" in kind else 1 for kind in kinds}  # which takes ten times as long as the others
    tallies = [Tally(kind, x, confidence) for kind in kinds for x in THRESHOLDS[:: steps[kind]]]
    yolo.val(validator=_measuring(yolo, tallies), data=data, plots=False, **options)
    return [x.score() for x in tallies]


def _measuring(yolo: Any, tallies: Sequence[Tally]) -> type[Any]:
    """Return a validator of the host that measures each NMS beside its own."""
    base = yolo._smart_load("validator")

    class Measuring(base):  # type: ignore[misc,valid-type]
        """The host's validator; the predictions of a batch are measured before its own NMS."""

        def postprocess(self, preds: Any) -> Any:
            x = predictions_of(preds)
            if getattr(self, "end2end", False):  # newer hosts switch heads by the argument nms=
                raise InspectError(_NO_NMS)
            self.candidates = x.clone()
            self.densities = getattr(x, DENSITIES, None)
            return super().postprocess(preds)

        def update_metrics(self, preds: Any, batch: dict[str, Any]) -> None:
            _measure(self, tallies, _objects(batch, self.candidates))
            super().update_metrics(preds, batch)

    return Measuring


def _measure(validator: Any, tallies: Sequence[Tally], images: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Add the images of a batch to each tally."""
    args = validator.args
    options: dict[str, Any] = {
        "conf_thres": args.conf or LEAST,
        "nc": len(validator.names),
        "multi_label": True,
        "agnostic": args.single_cls or args.agnostic_nms,
        "max_det": args.max_det,
        "max_time_img": 60.0,  # never stopped, not even on a slow machine
    }
    if args.task == "obb":
        options["rotated"] = True
    for tally in tallies:
        adapts = tally.kind.startswith("adaptive")
        if adapts and validator.densities is None:
            raise InspectError(
                "the model gives no densities in this validation, so there is no adaptive NMS to measure"
            )
        x = validator.candidates.clone()  # older hosts convert the boxes in place
        setattr(x, DENSITIES, validator.densities if adapts else torch.zeros_like(x[:, 0]))
        with using("plain" if tally.kind == "fixed" else tally.kind.split()[-1]):
            found = host_nms()(x, iou_thres=tally.threshold, **options)
        for rows, image in zip(found, images):
            if args.single_cls:  # as the host does
                rows[:, 5] = 0
            elif args.classes is not None:  # of which alone the host has the labels
                rows = rows[torch.isin(rows[:, 5], rows.new_tensor(args.classes))]
            tally.add(rows, *image)


def _objects(batch: dict[str, Any], like: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return boxes in pixels of the network's input, classes and densities of the objects of each image."""
    height, width = batch["img"].shape[2:]
    boxes = batch["bboxes"].to(like.device, torch.float32) * like.new_tensor(
        [width, height, width, height, 1.0][: batch["bboxes"].shape[-1]], dtype=torch.float32
    )
    if boxes.shape[-1] == 4:
        boxes = torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)
    labels, places = batch["cls"].to(boxes).view(-1), batch["batch_idx"].to(boxes).view(-1)
    found = []
    for k in range(len(batch["img"])):
        own, names = boxes[places == k], labels[places == k]
        valid = torch.ones_like(names, dtype=torch.bool)
        found.append((own, names, crowding(own[None], names[None], valid[None])[0]))
    return found
