"""A variant of a trained checkpoint of the host."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import WeightsError, first_line
from ..files import write
from ..graph.layers import facts, image_channels, put
from ..graph.starts import adopt_starts, wrap_as
from ..graph.transplant import transplant
from ..host.models import host_errors
from ..registry import TABLE
from .graft import graft_rows
from .variant import Variant

# attributes of a model as it was built or opened
_BUILT = {"yaml", "save", "stride", "inplace", "training", "criterion", "pt_path"}


def upgrade(checkpoint: Path, save: Path, variant: Variant) -> str:
    """Write a checkpoint with blocks that has the same output as the checkpoint without.

    Args:
        checkpoint: A `.pt` file of the host.
        save: The new file; its weights are float32, so that none is rounded.
        variant: What to put in; not another neck, whose weights would be newly initialised.

    Returns:
        One line about what became of the weights.

    Raises:
        WeightsError: If the file is not a checkpoint, or does not hold an unfused model built from a YAML.
        GraftError: If there is no place for a block, or the block is there already.
    """
    from ultralytics.models import YOLO

    try:
        yolo: Any = YOLO(checkpoint.absolute())  # for a bare name, the host may download another file
    except Exception as error:  # the host raises many kinds for a user's file
        raise WeightsError(f"this Ultralytics cannot read it as a checkpoint: {first_line(error)}") from error
    old = yolo.model
    if not isinstance(getattr(old, "yaml", None), dict):
        raise WeightsError("the checkpoint does not say from which model YAML it was built")
    if not isinstance(getattr(old, "model", None), nn.Sequential):
        raise WeightsError(
            f"the checkpoint holds no single model, but a {type(old).__name__}; of a distillation, give the checkpoint "
            "of the finished training"
        )
    with host_errors("run"):
        found = facts(old)
    cfg = graft_rows(old.yaml, found, variant).cfg()
    if cfg.get("yaml_file"):  # the name in the host's summary
        file = Path(cfg["yaml_file"])
        cfg["yaml_file"] = str(file.with_name(f"{file.stem}-{variant.name}.yaml"))
    new = type(old)(cfg, ch=image_channels(old), nc=old.yaml["nc"], verbose=False)
    transfer = transplant(old, new, TABLE.is_block)
    wrap_as(transfer.donor, new)
    adopt_starts(transfer.donor, new)
    # the old layers, not new ones with their weights: this version of the host may build them differently
    donated: Any = transfer.donor.model
    for j, layer in enumerate(donated):
        if not (transfer.pairs.is_new(j) and type(layer) is nn.Identity):  # which has no pretrained weights
            put(new.model, str(j), copy.deepcopy(layer))
    for name, value in vars(old).items():  # class names, arguments, key points, embeddings of a vocabulary, ...
        if not name.startswith("_") and name not in _BUILT:
            setattr(new, name, value)
    new.task = yolo.task
    state = {k: v for k, v in (yolo.ckpt or {}).items() if k not in {"ema", "optimizer", "updates", "scaler"}}
    stream = io.BytesIO()
    torch.save({**state, "epoch": -1, "model": new.eval(), "ema": None, "optimizer": None, "updates": None}, stream)
    write(save, stream.getvalue())
    return transfer.report(new, transfer.change(old, new))
