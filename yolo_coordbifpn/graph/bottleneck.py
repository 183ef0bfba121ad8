"""Attention inside a stock block: after the last k x k convolution of each of its bottlenecks, as in the paper.

Source: Hou, Zhou, Feng, CVPR 2021, arXiv 2103.02907, figure 3: after the depthwise convolution, before the projection.
The attention becomes part of that convolution's activation. The stock block keeps its class and the names of all its
tensors, and the host fuses and exports it as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def last_convolutions(layer: nn.Module) -> list[Any]:
    """Find the last k x k convolution of each bottleneck in a layer.

    Args:
        layer: A layer of the host.

    Returns:
        Modules with a `conv`, an `nn.Conv2d` with a kernel above 1, and an activation `act`.
    """
    units = [m for m in layer.modules() if type(m).__name__.endswith(("Bottleneck", "CIB", "ResNetBlock"))]
    units = [m for m in units if "Ghost" not in type(m).__name__]  # its last one outputs half of the channels
    inner = [m for m in units if not any(m is not x and m in set(x.modules()) for x in units)]
    found = [[m for m in unit.modules() if _is_spatial(m)] for unit in inner]
    return [convolutions[-1] for convolutions in found if convolutions]


def attend_inside(layer: nn.Module, attention: Callable[[int], nn.Module]) -> int:
    """Insert attention after the last k x k convolution of each bottleneck of a layer, in place.

    Args:
        layer: A layer of the host.
        attention: Builds the block for a number of channels.

    Returns:
        The number of blocks inserted; 0 if the layer has no bottleneck.
    """
    convolutions = last_convolutions(layer)
    for m in convolutions:
        m.act = nn.Sequential(m.act, attention(m.conv.out_channels))
    return len(convolutions)


def attended_channels(layer: nn.Module, name: str) -> int:
    """Return the channels of a block that `attend_inside` has inserted, 0 if another has.

    Args:
        layer: A layer of the host.
        name: Name of the block in it.
    """
    unit, _, end = name.rpartition("act.")
    conv = getattr(layer.get_submodule(unit.removesuffix(".")), "conv", None) if end == "1" else None
    return conv.out_channels if isinstance(conv, nn.Conv2d) else 0


def _is_spatial(m: Any) -> bool:
    conv = getattr(m, "conv", None)
    return isinstance(conv, nn.Conv2d) and max(conv.kernel_size) > 1 and isinstance(getattr(m, "act", None), nn.Module)
