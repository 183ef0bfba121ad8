"""Pretrained weights of a stock model for a model with registered blocks, so that it starts where the stock one stands.

Source: Chen, Goodfellow, Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer", ICLR 2016, arXiv 1511.05641
(function-preserving initialisation). Layers are aligned, not matched by index; a fresh block starts as the identity; a
convolution that reads more channels than before gets columns of zeros for the new ones.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import WeightsError
from .align import align
from .channels import Channels, Walk, walk
from .layers import extras, image_channels, kind, outputs, parts, pixels, quietly, reads, shapes


@dataclass
class Transfer:
    """A pretrained model in the layout of a new one, and what became of its layers."""

    donor: nn.Module  # for the host to load
    total: int  # tensors of the pretrained model
    inherited: list[int]  # layers of the new model that get pretrained tensors
    inserted: list[str]  # fresh blocks that the pretrained model has no layer for
    fusions: int  # concatenations that are weighted now
    widened: int  # convolutions that read more channels than before
    afresh: list[str]  # stock layers of the new model without a partner
    left: list[str]  # layers of the pretrained model without a partner
    problems: list[str]  # why the output is not the pretrained model's
    heads_read: list[tuple[int, int]]  # layers that both heads read: pretrained, new
    inside: dict[int, list[str]]  # fresh blocks inside stock layers of the new model, by layer
    extras: tuple[list[Any], list[Any]]  # what each layer is given beside features: pretrained, new

    def report(self, target: nn.Module, change: float | None) -> str:
        """Say in one line what became of the weights.

        Args:
            target: The new model, after loading; the host may have rebuilt parts of its head.
            change: What the method `change` found.
        """
        new, donated = list(target.model), list(self.donor.model)  # type: ignore[arg-type]
        kept = 0
        for j in self.inherited:
            fresh = tuple(f"{name}." for name in self.inside.get(j, ()))
            common = shapes(donated[j]).items() & shapes(new[j]).items()
            kept += sum(not name.startswith(fresh) for name, _ in common) if fresh else len(common)
        parts = [
            f"{kept} of {self.total} pretrained items kept",
            f"{len(self.inserted)} layers inserted ({listed(self.inserted)})",
            *([f"{sum(map(len, self.inside.values()))} blocks put inside layers"] if self.inside else []),
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

        def results(model: Any, side: int) -> list[Any]:
            layers = list(model.model)[: max(pair[side] for pair in self.heads_read) + 1]
            device = next(model.parameters()).device
            guides = [[x.to(device) for x in extra] for extra in self.extras[side]]
            return quietly(model, lambda: outputs(layers, image.to(device), guides))

        a, b = results(source, 0), results(target, 1)
        pairs = [(a[i].cpu(), b[j].cpu()) for i, j in self.heads_read if a[i].shape == b[j].shape]
        return max((float((y - x).norm() / x.norm().clamp_min(1e-12)) for x, y in pairs), default=None)


def listed(layers: Sequence[str]) -> str:
    """List layers such as `9 CoordAtt`, counted by kind where they are many."""
    if len(layers) <= 6:
        return ", ".join(layers) or "none"
    kinds = Counter(layer.partition(" ")[2] for layer in layers)
    return ", ".join(f"{number} x {name}" for name, number in kinds.items())


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
    inside = _fresh_inside(old, new, partners, is_block)
    layers = [
        _neutral(m, [""]) if j in fresh and (partners[j] is not None or not isinstance(m.f, list))
        else _neutral(m, inside[j]) if j in inside else m
        for j, m in enumerate(new)
    ]  # fmt: skip
    image = pixels(target)
    given: list[Any] = [()] * len(new)
    try:
        given = extras(target, image)
        found = quietly(nn.ModuleList(layers), lambda: walk(old, layers, partners, is_block, image, given))
    except Exception as error:  # layers that need more than the host gives them in a forward pass
        found = Walk([], [f"the layers cannot be run one by one ({type(error).__name__}: {error})"], [None] * len(new))

    donated: list[nn.Module] = []
    for j, (layer, partner) in enumerate(zip(layers, partners)):
        if j in fresh:
            donated.append(layer)
        elif partner is None:
            donated.append(nn.Identity())
        else:
            donated.append(_with_blocks(old[partner], layer, inside[j]) if j in inside else old[partner])
    problems, widened = list(found.problems), 0
    problems += [
        f"{kind(block)} inside layer {j} ({kind(new[j])}) does not start as the identity"
        for j, names in inside.items()
        for block in map(new[j].get_submodule, names)
        if not hasattr(block, "neutral_")
    ]
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
    stands = {k: found.stands_for[k] for k in reads(new[-1])}
    return Transfer(
        donor,
        total=sum(len(shapes(m)) for m in old),
        inherited=[j for j, partner in enumerate(partners) if partner is not None and j not in fresh],
        inserted=[f"{j} {kind(new[j])}" for j in sorted(fresh) if partners[j] is None],
        fusions=sum(partners[j] is not None for j in fresh),
        widened=widened,
        afresh=[f"{j} {kind(m)}" for j, m in enumerate(new) if partners[j] is None and j not in fresh],
        left=[f"{i} {kind(m)}" for i, m in enumerate(old) if i not in partners],
        problems=list(dict.fromkeys(problems)),
        heads_read=[(i, k) for k, i in stands.items() if i is not None and i in reads(old[-1])],
        inside=inside,
        extras=([given[partners.index(i)] if i in partners else () for i in range(len(old))], given),
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
    """Refuse weights of whose backbone less than half has a place; another neck is no other family."""
    is_fused: Any = getattr(source, "is_fused", None)
    if is_fused is not None and is_fused():
        raise WeightsError("the pretrained weights are fused for inference; give the checkpoint of the training")
    total = placed = 0
    backbone = len((getattr(source, "yaml", None) or {}).get("backbone") or old)
    for i, layer in enumerate(old[: min(backbone, len(old) - 1)]):
        here = shapes(layer)
        total += len(here)
        if i in partners:
            there = shapes(new[partners.index(i)])
            placed += sum(1 for k, shape in here.items() if k in there and shape[:1] == there[k][:1])
    if placed < 0.5 * total:
        raise WeightsError(
            f"the pretrained weights ({_name(source)}) are not of the model's family and scale ({_name(target)}): "
            f"only {placed} of {total} items of its backbone fit. Give the stock weights of the same family and scale, "
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


def _fresh_inside(
    old: Sequence[nn.Module], new: Sequence[nn.Module], partners: Sequence[int | None], is_block: Any
) -> dict[int, list[str]]:
    """Find the blocks inside stock layers of the new model that the pretrained layers have not got."""
    inside: dict[int, list[str]] = {}
    for j, (layer, partner) in enumerate(zip(new, partners)):
        if partner is None or is_block(layer):
            continue
        there = {name: type(m).__name__ for name, m in old[partner].named_modules()}
        for name, m in layer.named_modules():
            if type(m) is not nn.Sequential and is_block(m) and there.get(name) != type(m).__name__:
                inside.setdefault(j, []).append(name)
    return inside


def _neutral(layer: nn.Module, names: Sequence[str]) -> nn.Module:
    """Copy a layer with fresh blocks in the state in which they start beside pretrained weights.

    Args:
        layer: A layer.
        names: The blocks in it; "" if it is one itself, or several of one.
    """
    layer = copy.deepcopy(layer)
    for block in (b for name in names for b in parts(layer.get_submodule(name))):
        start: Any = getattr(block, "neutral_", None)
        if start is not None:
            start()
    return layer


def _with_blocks(old: nn.Module, new: nn.Module, names: Sequence[str]) -> nn.Module:
    """Copy a pretrained layer and put the blocks into it that the new layer has inside."""
    old = copy.deepcopy(old)
    for name in names:
        words = name.split(".")
        for k in range(1, len(words) + 1):  # as far as both are built alike
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
    """Give a convolution columns of zeros for new channels, in place; tell whether that is possible."""
    if not isinstance(conv, nn.Conv2d) or conv.groups > 1 or conv.in_channels != channels.size:
        return False
    old = channels.origin >= 0
    weight = conv.weight.data.new_zeros(conv.out_channels, len(old), *conv.kernel_size)
    weight[:, old] = conv.weight.data[:, channels.origin[old]]
    conv.weight.data, conv.in_channels = weight, len(old)
    return True
