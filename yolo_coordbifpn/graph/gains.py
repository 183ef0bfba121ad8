"""The gains with which blocks start as the identity, copied from one model to another with the same layers."""

from __future__ import annotations

import copy
from typing import Any

from ..blocks.gain import BlockWithGain
from .layers import parts


def adopt_gains(source: Any, target: Any) -> None:
    """Copy the gains of the blocks to another model with the same layers and to its YAML, from which it is rebuilt."""
    target.yaml = copy.deepcopy(target.yaml)  # the host keeps the dict that a user built the model from
    rows = target.yaml["backbone"] + target.yaml["head"]
    for row, old_layer, new_layer in zip(rows, source.model, target.model):
        before = dict(old_layer.named_modules(remove_duplicate=False))
        for name, new in new_layer.named_modules(remove_duplicate=False):
            old = before.get(name)
            if isinstance(new, BlockWithGain) and isinstance(old, BlockWithGain) and new.gain != old.gain:
                new.gain = old.gain
                if new in parts(new_layer):  # the row of a stock block cannot hold the gain of a block inside
                    row[3] = new.row()
