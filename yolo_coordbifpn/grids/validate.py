"""The scores of a checkpoint's grid during the host's validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..host.datasets import check_data
from ..inspection.sources import opened
from .curve import Curve
from .measure import needed_grid, noted_scores


def validate(checkpoint: Path, **options: Any) -> tuple[Curve, float]:
    """Validate a checkpoint without skipping, and note the score of each image.

    Args:
        checkpoint: A `.pt` file of the host.
        **options: Arguments of the host's `val`, such as `data` and `imgsz`.

    Returns:
        Score and number of objects of each image, and the threshold of the checkpoint.

    Raises:
        InspectError: If the model has no grid, or the model or the data cannot be opened.
    """
    yolo = opened(checkpoint)
    check_data(str(options["data"]), yolo.task, str(options.get("split") or "val"))
    grid, curve = needed_grid(yolo.model, str(checkpoint)), Curve()
    now, grid.threshold = float(grid.threshold), 0.0
    base = yolo._smart_load("validator")

    class Noting(base):  # type: ignore[misc,valid-type]
        """The host's validator, which notes the scores."""

        def update_metrics(self, preds: Any, batch: dict[str, Any]) -> None:
            counts = batch["batch_idx"].long().view(-1).bincount(minlength=len(batch["img"]))
            curve.scores += noted[-1]
            curve.objects += counts.tolist()
            super().update_metrics(preds, batch)

    with noted_scores() as noted:
        yolo.val(validator=Noting, plots=False, **options)
    return curve, now
