"""Pretrained weights of a stock model for a model with registered blocks, so that it starts where the stock one stands.

Source: Chen, Goodfellow, Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer", ICLR 2016, arXiv 1511.05641
(function-preserving initialisation). Layers are aligned, not matched by index; a fresh block starts as the identity; a
convolution that reads more channels than before gets columns of zeros for the new ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import WeightsError
from .align import align
from .channels import Channels, Walk, walk
from .layers import image_channels, kind, outputs, parts, pixels, quietly, reads, shapes


@dataclass
class Transfer:
    """A pretrained model in the layout of a new one, and what became of its layers."""

    donor: nn.Module  # for the host to load
    total: int  # tensors of the pretrained model
    inherited: list[int]  # layers of the new model that get pretrained tensors
    inserted: list[str]  # fresh blocks that the pretrained model has no layer for
    fusions: int  # concatenations that are weighted now
    widened: int  # convolutions that read more channels than before
    unmatched: list[str]  # stock layers without a partner, in either model
    problems: list[str]  # why the output is not the pretrained model's
    heads_read: list[tuple[int, int]]  # layers that both heads read: pretrained, new

    def report(self, target: nn.Module, change: float | None) -> str:
        """Say in one line what became of the weights.

        Args:
            target: The new model, after loading; the host may have rebuilt parts of its head.
            change: What the method `change` found.
        """
        new, donated = list(target.model), list(self.donor.model)  # type: ignore[arg-type]
        kept = sum(len(shapes(donated[j]).items() & shapes(new[j]).items()) for j in self.inherited)
        inserted = f"{len(self.inserted)} layers inserted ({', '.join(self.inserted) or 'none'})"
        parts = [
            f"{kept} of {self.total} pretrained items kept",
            inserted,
            f"{self.fusions} fusions weighted",
            f"{self.widened} convolutions widened",
            f"{self.total - kept} items left",
        ]
        end = "" if change is None else f"; what the head reads differs by {change:.0e} from the pretrained model"
        return ", ".join(parts) + end

    def change(self, source: nn.Module, target: nn.Module) -> float | None:
        """Compare what both heads read, in eval mode, on random pixels.

        Args:
            source: The pretrained model.
            target: The new model, after loading.

        Returns:
            The largest ||new - old|| / ||old|| over the levels, None if there is nothing to compare.
        """
        image = pixels(target)
        if not self.heads_read or image_channels(source) != image.shape[1]:
            return None
        old_last, new_last = (max(pair[k] for pair in self.heads_read) for k in (0, 1))
        same = image.to(next(source.parameters()).device)
        a = quietly(source, lambda: outputs(list(source.model)[: old_last + 1], same))  # type: ignore[arg-type]
        b = quietly(target, lambda: outputs(list(target.model)[: new_last + 1], image))  # type: ignore[arg-type]
        pairs = [(a[i].cpu(), b[j].cpu()) for i, j in self.heads_read if a[i].shape == b[j].shape]
        return max((float((y - x).norm() / x.norm().clamp_min(1e-12)) for x, y in pairs), default=None)


def same_architecture(source: Sequence[nn.Module], target: Sequence[nn.Module]) -> bool:
    """Tell whether two models have the same layers with the same tensors, the heads aside."""
    return len(source) == len(target) and all(
        type(a).__name__ == type(b).__name__ and shapes(a) == shapes(b) for a, b in zip(source[:-1], target[:-1])
    )


def transplant(source: nn.Module, target: nn.Module, is_block: Callable[[nn.Module], bool]) -> Transfer:
    """Bring a pretrained model into the layout of a new one. Neither model is changed.

    A block without trained weights of its own starts in the state that its method `neutral_()` makes, if it has one.

    Args:
        source: The pretrained model, with its layers in `source.model`.
        target: The new model, with its layers in `target.model`.
        is_block: Tells whether a layer is one of the registered blocks.

    Returns:
        The model to load from, and what became of the weights.

    Raises:
        WeightsError: If the weights are of another family or scale, are fused for inference, or hold registered blocks
            where the new model has none.
    """
    old, new = _layers(source, "the pretrained weights"), _layers(target, "the model")
    partners = align(old, new)
    _check_blocks(old, partners, is_block)
    _check_fit(source, old, target, new, partners)

    fresh = {j for j, m in enumerate(new) if is_block(m) and not _inherits(m, old, partners[j])}
    layers = [_neutral(m) if j in fresh else m for j, m in enumerate(new)]
    image = pixels(target)
    try:
        found = quietly(nn.ModuleList(layers), lambda: walk(old, layers, partners, is_block, image))
    except Exception as error:  # layers that need more than features, such as texts
        found = Walk([], [f"the layers cannot be run one by one ({type(error).__name__}: {error})"], [None] * len(new))

    donated = [
        m if j in fresh else nn.Identity() if p is None else old[p] for j, (m, p) in enumerate(zip(layers, partners))
    ]
    problems, widened = list(found.problems), 0
    for j in {r.layer for r in found.readers}:
        donated[j] = copy.deepcopy(donated[j])
    for reader in found.readers:
        conv = donated[reader.layer].get_submodule(reader.name)
        if _widen(conv, reader.channels):
            widened += 1
        else:
            problems.append(f"layer {reader.layer} ({kind(new[reader.layer])}) reads new channels in groups")

    donor = copy.copy(source)
    donor._modules = dict(source._modules)
    donor.model = nn.Sequential(*donated)
    unmatched = [f"{j} {kind(m)}" for j, m in enumerate(new) if partners[j] is None and j not in fresh]
    unmatched += [f"{i} {kind(m)} of the pretrained model" for i, m in enumerate(old) if i not in partners]
    stands = {k: found.stands_for[k] for k in reads(new[-1])}
    return Transfer(
        donor,
        total=sum(len(shapes(m)) for m in old),
        inherited=[j for j, partner in enumerate(partners) if partner is not None and j not in fresh],
        inserted=[f"{j} {kind(new[j])}" for j in sorted(fresh) if partners[j] is None],
        fusions=sum(partners[j] is not None for j in fresh),
        widened=widened,
        unmatched=unmatched,
        problems=list(dict.fromkeys(problems)),
        heads_read=[(i, k) for k, i in stands.items() if i is not None and i in reads(old[-1])],
    )


# Checks ---------------------------------------------------------------------------------------------------------------


def _layers(model: Any, what: str) -> list[nn.Module]:
    layers = getattr(model, "model", None)
    if not isinstance(layers, nn.Sequential) or not all(hasattr(m, "f") and hasattr(m, "i") for m in layers):
        raise WeightsError(f"{what}: not a YOLO model of this host, but {type(model).__name__}")
    return list(layers)


def _check_blocks(old: Sequence[nn.Module], partners: Sequence[int | None], is_block: Any) -> None:
    """Refuse weights whose own blocks have no place in the new model."""
    lost = [f"{kind(m)} at layer {i}" for i, m in enumerate(old) if is_block(m) and i not in partners]
    if lost:
        raise WeightsError(
            f"the pretrained weights hold {', '.join(lost)}, for which the model has no place: "
            "load them into a model with blocks at the same places, or start from the stock weights"
        )


def _check_fit(
    source: nn.Module, old: Sequence[nn.Module], target: nn.Module, new: Sequence[nn.Module], partners: Any
) -> None:
    """Refuse weights of which less than half has a place."""
    is_fused: Any = getattr(source, "is_fused", None)
    if is_fused is not None and is_fused():
        raise WeightsError("the pretrained weights are fused for inference; give the checkpoint of the training")
    total = placed = 0
    for i, layer in enumerate(old[:-1]):
        here = shapes(layer)
        total += len(here)
        if i in partners:
            there = shapes(new[partners.index(i)])
            placed += sum(1 for k, shape in here.items() if k in there and shape[:1] == there[k][:1])
    if placed < 0.5 * total:
        raise WeightsError(
            f"the pretrained weights ({_name(source)}) are not of the model's family and scale ({_name(target)}): "
            f"only {placed} of {total} items fit. Give the stock weights of the same family and scale, "
            "or pretrained=False to start from scratch"
        )


def _name(model: Any) -> str:
    yaml = getattr(model, "yaml", None) or {}
    return f"{yaml.get('yaml_file') or type(model).__name__}, scale {yaml.get('scale') or 'unknown'}"


# The donor ------------------------------------------------------------------------------------------------------------


def _inherits(layer: nn.Module, old: Sequence[nn.Module], partner: int | None) -> bool:
    """Tell whether a block's trained weights come with the pretrained model."""
    if partner is None or type(old[partner]).__name__ != type(layer).__name__:
        return False
    return shapes(layer) == shapes(old[partner])


def _neutral(layer: nn.Module) -> nn.Module:
    """Copy a layer of fresh blocks in the state in which they start beside pretrained weights."""
    layer = copy.deepcopy(layer)
    for block in parts(layer):
        start: Any = getattr(block, "neutral_", None)
        if start is not None:
            start()
    return layer


def _widen(conv: nn.Module, channels: Channels) -> bool:
    """Give a convolution columns of zeros for new channels, in place; tell whether that is possible."""
    if not isinstance(conv, nn.Conv2d) or conv.groups > 1 or conv.in_channels != channels.size:
        return False
    old = channels.origin >= 0
    weight = conv.weight.data.new_zeros(conv.out_channels, len(old), *conv.kernel_size)
    weight[:, old] = conv.weight.data[:, channels.origin[old]]
    conv.weight.data, conv.in_channels = weight, len(old)
    return True
