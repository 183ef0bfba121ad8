"""The levels of a detection head, paired by stride, for weights of a head with other levels or another order of them.

A head has a branch for each level, in lists of modules. The host pairs branches by their position in these lists, so
that one level more at the front moves the weights of all branches to the wrong level. Here the branches of a pretrained
head are put in the order of the new head.

A new level that reads an enlarged level of the same width, as those of `grafting.levels` do, gets a copy of that
level's branch: at half the stride the distances to the sides of a box are twice as many cells, and the class scores are
lowered until they are silent. So its boxes are right from the start, by which the assigner lets it learn. Any other new
level gets the branch that the new head was built with, at the inner widths of the other branches. Source of the
widening: Net2Net, arXiv 1511.05641.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .layers import put, shapes

_SILENCE = 14.0  # by which the logits of a copied class branch are lowered: a score of 0.9 becomes 7e-6


def level_pairs(old: Any, new: Any) -> list[int | None]:
    """Pair the levels of two heads by stride.

    Args:
        old: The pretrained head.
        new: The new head.

    Returns:
        For each level of the new head its place among those of the pretrained one, None for a new level; an empty list
        if a head does not say the strides of its levels.
    """
    before, after = _strides(old), _strides(new)
    if not before or not after:
        return []
    return [before.index(x) if x in before else None for x in after]


def moves(places: Sequence[int | None], old: Any) -> bool:
    """Return whether levels, paired by `level_pairs`, are not those of the pretrained head in the same order."""
    return bool(places) and list(places) != list(range(len(_strides(old))))


def new_strides(old: Any, new: Any) -> list[float]:
    """Return the strides of the levels that a new head has and the pretrained one does not."""
    return [stride for stride, place in zip(_strides(new), level_pairs(old, new)) if place is None]


def new_branches(places: Sequence[int | None], new: nn.Module) -> tuple[str, ...]:
    """Return the beginnings of the names of a head's tensors that belong to new levels, such as `cv2.3.`."""
    lists = [name for name, m in new.named_modules() if isinstance(m, nn.ModuleList) and len(m) == len(places)]
    return tuple(f"{name}.{k}." for name in lists for k, place in enumerate(places) if place is None)


def arrange(old: nn.Module, new: Any, continued: Sequence[tuple[int, int]] = ()) -> nn.Module:
    """Return a pretrained head whose branches are in the order of a new head's levels.

    Args:
        old: The pretrained head; it is not changed.
        new: The new head; it is not changed.
        continued: The places in the new head of new levels that read an enlarged level, and of these levels.

    Returns:
        The pretrained head itself if the levels of both are the same and in the same order, or not known, else a copy.
    """
    places = level_pairs(old, new)
    if not moves(places, old):
        return old
    head: Any = copy.deepcopy(old)
    there: dict[str, Any] = dict(old.named_modules())
    for name, branches in new.named_modules():
        before = there.get(name)
        if not isinstance(branches, nn.ModuleList) or not isinstance(before, nn.ModuleList):
            continue
        if (len(before), len(branches)) == (len(_strides(old)), len(places)):
            lists = _per_level(before, branches, places)
            for k, coarse in continued:
                lists[k] = _at_half_the_stride(lists[coarse], name)
            put(head, name, lists)
    head.stride, head.nl, head.shape = new.stride.clone(), len(places), None  # of the input that its anchors are for
    return head


def arrange_densities(old: Any, new: Any, places: Sequence[int | None]) -> nn.Module:
    """Return a copy of a new density head with the pretrained levels of another, paired by `level_pairs`."""
    head: Any = copy.deepcopy(new)
    for k, place in enumerate(places):
        if place is not None:
            head.levels[k] = copy.deepcopy(old.levels[place])
    return head


def select_levels(head: Any, places: Sequence[int]) -> None:
    """Make a head read some of its levels only, in place.

    Args:
        head: The head; its `f`, the layers that it reads, is changed too.
        places: Places of the levels to keep, in their new order.
    """
    for name, branches in list(head.named_modules()):
        if isinstance(branches, nn.ModuleList) and len(branches) == head.nl:
            put(head, name, nn.ModuleList(branches[k] for k in places))
        elif isinstance(branches, nn.ModuleList) and len(branches) == head.nl - 1:  # adds all levels to the first
            put(head, name, nn.ModuleList(branches[k - 1] for k in places if k))
    head.f, head.stride, head.nl = [head.f[k] for k in places], head.stride[list(places)], len(places)
    head.shape = None  # of the input that its anchors are for


def _strides(head: Any) -> list[float]:
    """Return the strides of the levels that a head reads, an empty list if it does not say them."""
    stride = getattr(head, "stride", None)
    strides = [float(x) for x in stride] if isinstance(stride, Tensor) else []
    return strides if len(set(strides)) == getattr(head, "nl", None) else []


def _per_level(old: nn.ModuleList, new: nn.ModuleList, places: Sequence[int | None]) -> nn.ModuleList:
    """Put the branches of one list in the order of the new levels."""
    modules: list[nn.Module | None] = [
        None if place is None else _widened(old[place], branch) for branch, place in zip(new, places)
    ]
    like = next((k for k, module in enumerate(modules) if module is not None), None)
    return nn.ModuleList(
        module or (copy.deepcopy(new[k]) if like is None else _resized(new[k], new[like], modules[like]))
        for k, module in enumerate(modules)
    )


def _at_half_the_stride(branch: nn.Module, name: str) -> nn.Module:
    """Return a copy of a level's branch for a level of half the stride, with silent classes.

    Args:
        branch: The branch, whose last part is a convolution.
        name: Name of its list in the head: with `cv2` at the end it predicts distances, with `cv3` classes.
    """
    branch = copy.deepcopy(branch)
    last: Any = branch[-1] if isinstance(branch, nn.Sequential) else branch
    if getattr(last, "bias", None) is None:
        return branch  # of a fork
    if name.endswith("cv3"):
        last.bias.data -= _SILENCE
    elif name.endswith("cv2") and len(last.bias) % 4 == 0:
        last.weight.data, last.bias.data = _doubled(last.weight.data), _doubled(last.bias.data)
    return branch


def _doubled(values: Tensor) -> Tensor:
    """Double the distances that a convolution predicts: for each side one number, or the logits of some bins.

    Args:
        values: Weight or bias of the convolution, (4 * bins, ...); with bins, that of k cells gets what that of k / 2
            cells had, between two bins their mean.
    """
    bins = len(values) // 4
    if bins == 1:
        return 2 * values
    sides = values.reshape(4, bins, -1)
    lower = torch.arange(bins) // 2
    upper = (torch.arange(bins) + 1) // 2
    return ((sides[:, lower] + sides[:, upper]) / 2).reshape(values.shape)


def _widened(old: nn.Module, new: nn.Module) -> nn.Module:
    """Return a pretrained branch at the inner widths of a new one, with the same output; itself if one is smaller."""
    before, after = shapes(old), shapes(new)
    if before.keys() != after.keys():
        return old
    ends = {name for name, m in new.named_modules() if isinstance(m, nn.Conv2d) and m.bias is not None}
    wanted = {  # what a branch outputs stays, such as the classes of the pretrained model
        name: before[name][:1] + after[name][1:] if name.rpartition(".")[0] in ends else after[name] for name in after
    }
    if wanted == before or any(x < y for name in before for x, y in zip(wanted[name], before[name])):
        return old
    wide = _rebuilt(new, wanted)
    there = dict(old.state_dict())
    with torch.no_grad():
        for name, tensor in wide.state_dict().items():
            kept = tuple(slice(0, n) for n in there[name].shape)
            if tensor.ndim == 4:
                tensor[: kept[0].stop, kept[1].stop :] = 0
            tensor[kept] = there[name]
    return wide


def _resized(new: nn.Module, new_like: nn.Module, old_like: nn.Module | None) -> nn.Module:
    """Return a new level's branch at the inner widths of a pretrained branch.

    Args:
        new: The new level's branch.
        new_like: The new head's branch of another level.
        old_like: The branch with the pretrained weights of that other level.
    """
    here, other = shapes(new), shapes(new_like)
    there = shapes(old_like) if old_like is not None else other
    if there == other or not here.keys() == other.keys() == there.keys():
        return copy.deepcopy(new)
    wanted = {
        name: tuple(t if a == b else a for a, b, t in zip(shape, other[name], there[name]))
        for name, shape in here.items()
    }
    return _rebuilt(new, wanted)


def _rebuilt(module: nn.Module, wanted: dict[str, tuple[int, ...]]) -> nn.Module:
    """Copy a module with convolutions and batch norms of other shapes, newly initialised where the shape is another.

    A bias keeps its mean, by which heads are initialised.
    """
    module = copy.deepcopy(module)
    parts: dict[str, Any] = dict(module.named_modules())
    for name, m in parts.items():
        size = wanted.get(f"{name}.weight".removeprefix("."), ())
        is_norm = isinstance(m, nn.BatchNorm2d)
        if not (is_norm or isinstance(m, nn.Conv2d)) or tuple(m.weight.shape) == size:
            continue
        if is_norm:
            part: Any = nn.BatchNorm2d(size[0], m.eps, m.momentum)
        else:
            groups = size[0] if m.groups > 1 else 1  # of heads, only depthwise convolutions have groups
            with_bias = m.bias is not None
            part = type(m)(size[1] * groups, size[0], m.kernel_size, m.stride, m.padding, m.dilation, groups, with_bias)
            if with_bias:
                nn.init.constant_(part.bias, float(m.bias.detach().mean()))
        put(module, name, part.to(m.weight).train(m.training))
    return module
