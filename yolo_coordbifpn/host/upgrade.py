"""A trained checkpoint of the host becomes one with the blocks in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import WeightsError
from ..graph.graft import graft
from ..graph.layers import image_channels, strides
from ..registry import TABLE


def upgrade(checkpoint: Path, save: Path, coordatt: str, bifpn: str) -> None:
    """Write a checkpoint with blocks that gives the output of the one without.

    Args:
        checkpoint: A `.pt` file of the host.
        save: Where to write; float32, so that nothing is rounded.
        coordatt: Where to put CoordAtt, see `graft`.
        bifpn: How to weigh the neck, see `graft`.

    Raises:
        WeightsError: If the file does not hold a detection, segmentation, pose or box model built from a YAML.
        GraftError: If there is no place for a block, or it is there already.
    """
    from ultralytics.models import YOLO

    yolo: Any = YOLO(checkpoint)
    old = yolo.model
    if not isinstance(getattr(old, "yaml", None), dict):
        raise WeightsError(f"{checkpoint} does not say from which model YAML it was built")
    if not any(p.is_floating_point() and p.ndim == 1 for p in old.parameters()) or _fused(old):
        raise WeightsError(f"{checkpoint} is fused for inference; give the checkpoint of the training")
    cfg = graft(old.yaml, strides(old), coordatt, bifpn)
    new = type(old)(cfg, ch=image_channels(old), nc=old.yaml["nc"], verbose=False)
    new.load(old)
    new.names, new.args, new.task = old.names, old.args, getattr(old, "task", yolo.task)
    for name in ("end2end", "stride"):
        if hasattr(old, name) and getattr(old, name) is not None:
            setattr(new, name, getattr(old, name))
    kept = {k: v for k, v in (yolo.ckpt or {}).items() if k not in {"model", "ema", "optimizer", "updates", "scaler"}}
    torch.save({**kept, "epoch": -1, "model": new.eval(), "ema": None, "optimizer": None, "updates": None}, save)


def _fused(model: Any) -> bool:
    """Tell whether the batch normalisations of a model were folded away."""
    return not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules() if type(m) not in TABLE)
