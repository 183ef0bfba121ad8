"""The way back: weights of a model with registered blocks for the model without them.

Fusion weights are folded into the convolutions that read them, which is exact. Layers are aligned, as for the way
there, and convolutions lose the columns of an added edge. What attention has learned is lost.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .channels import Reader
from .donor import donor_model, initial_layers
from .fold import fold
from .head_levels import arrange
from .layers import class_name, shapes
from .pairs import Pairs
from .transfer import listed
from .transplant import follow


@dataclass
class Removal:
    """Weights without the blocks, and what is lost with these.

    Attributes:
        donor: The model for the host to load.
        kept: Number of tensors of the new model that get a weight.
        total: Number of tensors of the new model.
        lost: What has no place in the new model, one phrase each.
    """

    donor: nn.Module
    kept: int
    total: int
    lost: list[str]


def remove_blocks(
    source: Any, target: Any, is_block: Callable[[nn.Module], bool], concat: Callable[[], nn.Module]
) -> Removal | None:
    """Bring the weights of a model with blocks into the layout of one without. Neither model is changed.

    Args:
        source: The pretrained model, with its layers in `source.model`.
        target: The model without blocks, with its layers in `target.model`.
        is_block: Returns whether a layer is one of the registered blocks.
        concat: Builds the plain concatenation that replaces a weighted one.

    Returns:
        The weights and what is lost, None if less than half of them fit: they are of another family or scale.
    """
    source = copy.deepcopy(source).float()
    folded = fold(source, concat)
    pairs = Pairs(list(target.model), list(source.model), is_block)
    walk, _ = follow(source, pairs, initial_layers(pairs))
    narrowed = sum(_narrow(pairs.new[reader.layer], reader) for reader in walk.readers)
    layers = [
        pairs.new[pairs.partners.index(i)] if i in pairs.partners else nn.Identity() if i else pairs.new[0]
        for i in range(len(pairs.old))
    ]
    layers[-1] = arrange(layers[-1], pairs.old[-1])
    kept = sum(len(shapes(a).items() & shapes(b).items()) for a, b in zip(layers, pairs.old))
    total = sum(len(shapes(m)) for m in pairs.old)
    if kept < 0.5 * total:
        return None
    return Removal(donor_model(source, layers), kept, total, _lost(pairs, list(folded.kept), narrowed))


def _narrow(layer: nn.Module, reader: Reader) -> bool:
    """Remove the columns of a convolution that read added channels, in place; return whether that is possible."""
    conv: Any = layer.get_submodule(reader.name)
    origin, columns = reader.channels.origin, conv.weight.shape[1]
    if conv.groups > 1 or columns != len(origin):
        return False
    there = origin >= 0
    weight = conv.weight.data.new_zeros(conv.out_channels, reader.channels.size, *conv.kernel_size)
    weight[:, origin[there]] = conv.weight.data[:, there]
    conv.weight.data, conv.in_channels = weight, reader.channels.size
    return True


def _lost(pairs: Pairs, weighted: Sequence[str], narrowed: int) -> list[str]:
    """Name what has no place in the model without blocks."""
    inside = [class_name(pairs.new[j].get_submodule(name)) for j, names in pairs.inside.items() for name in names]
    parts = [
        (pairs.inserted, f"blocks {listed(pairs.inserted)}"),
        (inside, f"{len(inside)} blocks inside layers ({', '.join(dict.fromkeys(inside))})"),
        (weighted, f"the weights of {len(weighted)} fusions"),
        (narrowed, f"the columns of added inputs in {narrowed} convolutions"),
        (pairs.unmatched, f"layers {listed(pairs.unmatched)}"),
    ]
    return [text for there, text in parts if there]
