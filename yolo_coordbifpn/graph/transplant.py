"""Pretrained weights of a stock model for a model with registered blocks, which starts with the stock model's output.

Source: Chen, Goodfellow, Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer", ICLR 2016, arXiv 1511.05641
(function-preserving initialisation). Layers are aligned, not matched by index; a new block starts as the identity; a
convolution that reads more channels than before gets zero columns for the new ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from ..blocks import BiFPN_Add, SpatialGate
from ..errors import WeightsError
from .bottleneck import attended_channels
from .channels import Walk
from .donor import donor_layers, donor_model, initial_layers, widen
from .fold import Folded, fold_weights
from .head_levels import arrange, level_pairs, new_strides
from .layers import CannotRun, class_name, extras, has_neutral, pixels, quietly, reads, running, shapes
from .pairs import Pairs
from .rows import level
from .transfer import Transfer


def same_architecture(source: Sequence[nn.Module], target: Sequence[nn.Module]) -> bool:
    """Return whether two models have the same layers with the same tensors, except for the heads."""
    return len(source) == len(target) and all(
        type(a).__name__ == type(b).__name__ and shapes(a) == shapes(b) for a, b in zip(source[:-1], target[:-1])
    )


def transplant(source: nn.Module, target: nn.Module, is_block: Callable[[nn.Module], bool]) -> Transfer:
    """Bring a pretrained model into the layout of a new one. Neither model is changed.

    A block without trained weights starts in the state that its method `neutral_()` sets, one without this method
    inside a `ReZero`. Fusion weights without a place in the new model are folded into the convolutions that read them.

    Args:
        source: The pretrained model, with its layers in `source.model`.
        target: The new model, with its layers in `target.model`.
        is_block: Returns whether a layer is one of the registered blocks.

    Returns:
        The model to load from, and what became of the weights.

    Raises:
        WeightsError: If the weights are of another family or scale, are fused for inference, or hold registered blocks
            where the new model has none.
    """
    pairs = Pairs(_layers(source, "the pretrained weights"), _layers(target, "the model"), is_block)
    _check_unfused(source)
    _check_blocks(pairs)
    _check_family(source, target, pairs)
    folded = Folded([], {}, [])
    if pairs.unweighted:
        source = copy.deepcopy(source)
        folded = fold_weights(source, [f"model.{i}" for i in pairs.unweighted])
        pairs = Pairs(_layers(source, "the pretrained weights"), pairs.new, is_block)

    initial = initial_layers(pairs)
    walk, given = follow(target, pairs, initial)
    donated = donor_layers(pairs, walk.layers)
    continued = _continued(pairs, walk)
    for details in continued.values():
        donated[details] = _silent(pairs.new[details])
    donated[-1] = arrange(donated[-1], pairs.new[-1], list(continued))
    widened, in_groups = widen(donated, walk.readers)
    return Transfer(
        donor_model(source, donated),
        pairs,
        widened,
        len(folded.folded),
        unchecked=walk.stopped,
        problems=list(dict.fromkeys([*walk.problems, *_not_neutral(pairs), *in_groups, *_not_folded(folded)])),
        heads_read=_heads_read(pairs, walk),
        new_levels=[level(x) for x in new_strides(pairs.old[-1], pairs.new[-1])],
        extras=([given[pairs.partners.index(i)] if i in pairs.partners else () for i in range(len(pairs.old))], given),
    )


def follow(target: nn.Module, pairs: Pairs, layers: Sequence[nn.Module]) -> tuple[Walk, list[Any]]:
    """Follow the new channels through the new model; return also what its layers take in addition to features."""
    image = pixels(target)
    given: list[Any] = [()] * len(layers)
    walk = Walk(pairs, layers)
    try:
        with running():
            given = extras(target, image)
        quietly(nn.ModuleList(layers), lambda: walk.run(image, given))
    except CannotRun as error:  # layers that need more than the model passes to them in a forward pass
        walk = Walk(pairs, layers)
        walk.stopped = f"the layers cannot be run one by one ({error})"
    return walk, given


def _continued(pairs: Pairs, walk: Walk) -> dict[tuple[int, int], int]:
    """Find the new levels that are the weighted sum of an enlarged level and of details from a new convolution.

    Returns:
        The convolution, by the places of the new and of the enlarged level in the new head; the coarsest level first.
    """
    old, new = reads(pairs.old[-1]), reads(pairs.new[-1])
    places = level_pairs(pairs.old[-1], pairs.new[-1])
    ran = len(walk.stands_for)
    known = {k for k, place in zip(new, places) if place is not None and k < ran and walk.stands_for[k] in old}
    found: dict[tuple[int, int], int] = {}
    for j in [k for k, place in zip(new, places) if place is None]:
        layer: Any = pairs.new[j]
        if not isinstance(layer, BiFPN_Add) or len(reads(layer)) != 2:
            continue
        up, details = reads(layer)
        while isinstance(pairs.new[details], SpatialGate):
            details = reads(pairs.new[details])[0]
        coarse = reads(pairs.new[up])[0]
        norms = [m for m in pairs.new[details].modules() if isinstance(m, nn.BatchNorm2d)]
        if isinstance(pairs.new[up], nn.Upsample) and coarse in known and norms and pairs.is_new(details):
            found[new.index(j), new.index(coarse)] = details
            known.add(j)
    return found


def _silent(layer: nn.Module) -> nn.Module:
    """Copy a convolution with its batch normalisation so that it outputs 0, and learns from the first step on."""
    layer = copy.deepcopy(layer)
    for norm in [m for m in layer.modules() if isinstance(m, nn.BatchNorm2d)][-1:]:
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
    return layer


def _not_neutral(pairs: Pairs) -> list[str]:
    """Name the new blocks that somebody's layer has inside, and that have no state in which they are the identity."""
    blocks = [(j, name, pairs.new[j].get_submodule(name)) for j, names in pairs.inside.items() for name in names]
    return [
        f"{class_name(block)} inside layer {j} ({class_name(pairs.new[j])}) does not start as the identity"
        for j, name, block in blocks
        if not has_neutral(block) and not attended_channels(pairs.new[j], name)
    ]


def _not_folded(folded: Folded) -> list[str]:
    """Name the fusions whose weights have no place in the new model, and no convolutions to fold them into."""
    return [f"the fusion weights of {name} are not taken ({reason})" for name, reason in folded.kept.items()]


def _heads_read(pairs: Pairs, walk: Walk) -> list[tuple[int, int]]:
    """Pair the layers that the heads read, pretrained and new, at the levels that both heads have.

    Returns:
        The pairs, none if a layer of the new model has no counterpart although the pretrained head reads its level.
    """
    before, after = reads(pairs.old[-1]), reads(pairs.new[-1])
    places = level_pairs(pairs.old[-1], pairs.new[-1]) or [0] * len(after)
    found = []
    for k in [k for k, place in zip(after, places) if place is not None]:
        stand = walk.stands_for[k] if k < len(walk.stands_for) else None
        if stand is None or stand not in before:
            return []
        found.append((stand, k))
    return found


# Checks ---------------------------------------------------------------------------------------------------------------


def _layers(model: Any, what: str) -> list[nn.Module]:
    layers = getattr(model, "model", None)
    if not isinstance(layers, nn.Sequential) or not all(hasattr(m, "f") and hasattr(m, "i") for m in layers):
        raise WeightsError(f"{what}: not a YOLO model of this host, but {type(model).__name__}")
    return list(layers)


def _check_unfused(source: nn.Module) -> None:
    is_fused: Any = getattr(source, "is_fused", None)
    if is_fused is not None and is_fused():
        raise WeightsError("the pretrained weights are fused for inference; give the checkpoint of the training")


def _check_blocks(pairs: Pairs) -> None:
    """Refuse weights with registered blocks that have no place in the new model."""
    if pairs.lost:
        raise WeightsError(
            f"the pretrained weights hold {', '.join(pairs.lost)}, for which the model has no place: "
            "load them into a model with blocks at the same places, or start from the stock weights"
        )


def _check_family(source: nn.Module, target: nn.Module, pairs: Pairs) -> None:
    """Refuse weights if less than half of their backbone fits, or not all of it at another scale; necks may differ."""
    total = placed = 0
    backbone = len((getattr(source, "yaml", None) or {}).get("backbone") or pairs.old)
    for i, layer in enumerate(pairs.old[: min(backbone, len(pairs.old) - 1)]):
        here, size = pairs.fitting(pairs.partners.index(i)) if i in pairs.partners else (0, len(shapes(layer)))
        placed, total = placed + here, total + size
    scales = {_scale(source), _scale(target)} - {None}
    if placed < total * (1 if len(scales) > 1 else 0.5):
        raise WeightsError(
            f"the pretrained weights ({_name(source)}) are not of the model's family and scale ({_name(target)}): "
            f"only {placed} of {total} items of its backbone fit, by kind and shape. Give the stock weights of "
            "the same family and scale, or pretrained=False to start from scratch, as for a backbone of other layers"
        )


def _scale(model: Any) -> tuple[Any, ...] | None:
    """Return the factors of a model's scale, None if its YAML does not say them."""
    yaml = getattr(model, "yaml", None) or {}
    factors = (yaml.get("scales") or {}).get(yaml.get("scale"))
    return tuple(factors) if factors else None


def _name(model: Any) -> str:
    yaml = getattr(model, "yaml", None) or {}
    return f"{yaml.get('yaml_file') or type(model).__name__}, scale {yaml.get('scale') or 'unknown'}"
