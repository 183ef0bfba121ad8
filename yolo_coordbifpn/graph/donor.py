"""The model from which the host loads: the pretrained layers in the layout of the new model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from ..blocks import BiFPN_Add, BiFPN_Concat
from ..blocks.density import DensityHead
from .bottleneck import attended_channels
from .channels import Channels, Reader
from .head_levels import arrange_densities
from .layers import class_name, has_neutral, parts
from .pairs import Pairs
from .starts import is_identity, wrap


def initial_layers(pairs: Pairs) -> list[nn.Module]:
    """Return the layers of the new model with its new blocks as they start beside pretrained weights.

    A block that has a method `neutral_()` starts in the state that this method sets, another one that is inside a stock
    layer starts in a `ReZero`. A weighted fusion without a partner has no output to keep, and starts as its paper says.
    """
    layers = list(pairs.new)
    for j in pairs.blocks:
        if pairs.partners[j] is not None or not isinstance(layers[j], (BiFPN_Add, BiFPN_Concat)):
            layers[j] = _neutral(layers[j], [""])
    for j, names in pairs.inside.items():
        layers[j] = _neutral(layers[j], names)
    return layers


def donor_layers(pairs: Pairs, initial: Sequence[nn.Module]) -> list[nn.Module]:
    """Return for each layer of the new model the layer whose tensors the host loads into it.

    Args:
        pairs: The two models' layers, aligned.
        initial: What `initial_layers` returns.

    Returns:
        The initial layer for a new block, an empty one for a stock layer without a partner, else the pretrained layer.
        The first layer is never empty, since some versions of the host read the convolution there.
    """
    donated: list[nn.Module] = []
    for j, (layer, partner) in enumerate(zip(initial, pairs.partners)):
        if j in pairs.blocks:
            donated.append(layer)
        elif partner is None:
            donated.append(pairs.old[0] if j == 0 else nn.Identity())
        elif isinstance(layer, DensityHead) and pairs.levels:
            donated.append(arrange_densities(pairs.old[partner], layer, pairs.levels))
        elif j in pairs.inside:
            donated.append(_with_blocks(pairs.old[partner], layer, pairs.inside[j]))
        else:
            donated.append(pairs.old[partner])
    return donated


def widen(donated: list[nn.Module], readers: Sequence[Reader]) -> tuple[int, list[str]]:
    """Give the convolutions that read new channels zero columns, and reorder the others, each in a copy of its layer.

    Args:
        donated: What `donor_layers` returns; the layers that change are replaced by copies.
        readers: The convolutions that read new or reordered channels.

    Returns:
        The number of widened convolutions, and a sentence for each that cannot be widened.
    """
    for j in {r.layer for r in readers}:
        donated[j] = copy.deepcopy(donated[j])
    widened, problems = 0, []
    for reader in readers:
        layer = donated[reader.layer]
        if _widen(layer.get_submodule(reader.name), reader.channels):
            widened += reader.channels.has_new
        else:
            problems.append(f"layer {reader.layer} ({class_name(layer)}) reads new or reordered channels in groups")
    return widened, problems


def donor_model(source: nn.Module, layers: Sequence[nn.Module]) -> nn.Module:
    """Return a shallow copy of the pretrained model with other layers."""
    donor = copy.copy(source)
    donor._modules = {**source._modules, "model": nn.Sequential(*layers)}
    return donor


def _neutral(layer: nn.Module, names: Sequence[str]) -> nn.Module:
    """Copy a layer and set its new blocks to the state in which they start beside pretrained weights.

    Args:
        layer: A layer.
        names: The blocks in it; "" if the layer is a block itself, or repeats one.
    """
    layer = copy.deepcopy(layer)
    for name in names:
        new: Any = layer.get_submodule(name)
        if has_neutral(new):
            for block in parts(new):
                block.neutral_()  # type: ignore[operator]
        elif name and attended_channels(layer, name):
            features = next(layer.parameters()).new_zeros(1, attended_channels(layer, name), 5, 4)
            if not is_identity(new, features):
                wrap(layer, name)
    return layer


def _with_blocks(old: nn.Module, new: nn.Module, names: Sequence[str]) -> nn.Module:
    """Copy a pretrained layer and insert the blocks that the new layer has inside.

    A block's outermost parent that the two layers build differently is taken from the new layer with the block in it,
    such as the activation of a convolution that has become a sequence of activation and attention.
    """
    old = copy.deepcopy(old)
    for name in names:
        words = name.split(".")
        for k in range(1, len(words) + 1):
            path = ".".join(words[:k])
            if type(_submodule(old, path)) is not type(new.get_submodule(path)):
                break
        parent = old.get_submodule(".".join(words[: k - 1]))
        setattr(parent, words[k - 1], copy.deepcopy(new.get_submodule(path)))
    return old


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _widen(conv: nn.Module, channels: Channels) -> bool:
    """Give a convolution zero columns for new channels, in place; return whether that is possible."""
    if not isinstance(conv, nn.Conv2d) or conv.groups > 1 or conv.in_channels != channels.size:
        return False
    old = channels.origin >= 0
    weight = conv.weight.data.new_zeros(conv.out_channels, len(old), *conv.kernel_size)
    weight[:, old] = conv.weight.data[:, channels.origin[old]]
    conv.weight.data, conv.in_channels = weight, len(old)
    return True
