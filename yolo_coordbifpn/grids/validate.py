"""The scores of a checkpoint's grid during the host's validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from ..blocks.grid import GridActivation
from ..host.models import open_model
from .curve import Curve
from .measure import needed_grid


def validate(checkpoint: Path, **options: Any) -> tuple[Curve, float]:
    """Validate a checkpoint without skipping, and note the score of each picture.

    Args:
        checkpoint: A `.pt` file of the host.
        **options: Arguments of the host's `val`, such as `data` and `imgsz`.

    Returns:
        Score and number of objects of each picture, and the threshold of the checkpoint.

    Raises:
        InspectError: If the model has no grid.
    """
    yolo = open_model(checkpoint, checkpoint.name)
    grid, curve = needed_grid(yolo.model, str(checkpoint)), Curve()
    now, grid.threshold = float(grid.threshold), 0.0
    base, last = yolo._smart_load("validator"), [grid]

    def note(module: nn.Module, *args: Any) -> None:
        if type(module) is GridActivation:
            last[:] = [module]  # of the fused copy that runs

    class Noting(base):  # type: ignore[misc,valid-type]
        """The host's validator, which notes the scores."""

        def update_metrics(self, preds: Any, batch: dict[str, Any]) -> None:
            counts = batch["batch_idx"].long().view(-1).bincount(minlength=len(batch["img"]))
            curve.scores += last[-1].scores().tolist()
            curve.objects += counts.tolist()
            super().update_metrics(preds, batch)

    hook = register_module_forward_hook(note)
    try:
        yolo.val(validator=Noting, plots=False, **options)
    finally:
        hook.remove()
    return curve, now
