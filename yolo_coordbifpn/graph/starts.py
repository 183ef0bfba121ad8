"""How blocks start beside pretrained weights, carried from one model to another: by a gain, or inside a `ReZero`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks.gain import BlockWithGain
from ..blocks.rezero import ReZero
from .align import align
from .layers import as_layer, has_method, parts, put, quietly
from .rows import KEY


def is_identity(block: nn.Module, *like: Tensor) -> bool:
    """Return whether a block outputs random values unchanged, in features of the shape of others, in eval mode.

    Such a block must not be put inside a `ReZero`: with a = 0 neither would ever get a gradient. A block that reads
    several features is the identity if it outputs the first.
    """
    generator = torch.Generator().manual_seed(0)
    probes = [torch.randn(x.shape, generator=generator).to(x) for x in like]
    out = quietly(block, lambda: block(probes if len(probes) > 1 else probes[0]))
    return (
        isinstance(out, Tensor) and out.shape == like[0].shape and torch.allclose(out, probes[0], rtol=1e-5, atol=1e-6)
    )


def with_rezero(block: nn.Module) -> ReZero:
    """Put a block inside a `ReZero`, which gets what the host's parser has set on the block."""
    wrapped = ReZero(block)
    like = next(block.parameters(), None)
    if like is not None:
        wrapped.weight.data = wrapped.weight.data.to(like)
    as_layer(wrapped, block)
    return wrapped


def wrap(layers: nn.Module, path: str) -> None:
    """Put the block at a path inside a `ReZero`, in place.

    Args:
        layers: The layers of a model.
        path: Name of the block in them, such as `9` or `4.m.0.cv2.act.1`.
    """
    put(layers, path, with_rezero(layers.get_submodule(path)))


def rezeros(layers: nn.Module) -> list[str]:
    """Return the names of the `ReZero` modules in the layers of a model."""
    return [name for name, m in layers.named_modules() if isinstance(m, ReZero)]


def fold_rezeros(model: Any) -> None:
    """For inference: replace each `ReZero` whose a is 0 by nothing, and one whose a is 1 by its block, in place."""
    for path in rezeros(model.model):
        m: Any = model.model.get_submodule(path)
        a = float(m.weight.detach())
        if a in (0.0, 1.0):
            put(model.model, path, m.block if a else nn.Identity())


def wrap_as(source: Any, target: Any) -> list[str]:
    """Put the blocks of a model inside a `ReZero`, in place, that are so in the model whose weights it gets.

    Args:
        source: The model with the weights; it may have other layers.
        target: The model that gets them.

    Returns:
        The names of these blocks, for `unwrap`.
    """
    wrapped: list[str] = []
    if not isinstance(getattr(source, "model", None), nn.Sequential) or not rezeros(source.model):
        return wrapped
    old, new = list(source.model), list(target.model)
    inner = [m.block if isinstance(m, ReZero) else m for m in old]
    for j, i in enumerate(align(inner, [m.block if isinstance(m, ReZero) else m for m in new])):
        for inside in rezeros(old[i]) if i is not None else ():
            path = f"{j}.{inside}".removesuffix(".")
            there = dict(target.model.named_modules()).get(path)
            if type(there) is type(old[i].get_submodule(inside).block):  # type: ignore[index]
                wrap(target.model, path)
                wrapped.append(path)
    return wrapped


def unwrap(target: Any, paths: Sequence[str]) -> None:
    """Undo `wrap_as`, in place."""
    for path in paths:
        put(target.model, path, target.model.get_submodule(path).block)


def adopt_starts(source: Any, target: Any) -> None:
    """Copy how the blocks start to another model with the same layers, and write it into its YAML.

    What `neutral_()` of a block may have set is copied: numbers such as our gains, and buffers that a state dict leaves
    out. From the YAML the host rebuilds the model, in other processes and to resume a training. A gain is an argument
    of the block's row; the blocks inside a `ReZero` are listed under the package's own key.
    """
    target.yaml = copy.deepcopy(target.yaml)  # the host keeps the dict that a user built the model from
    rows = target.yaml["backbone"] + target.yaml["head"]
    for row, old_layer, new_layer in zip(rows, source.model, target.model):
        before = dict(old_layer.named_modules(remove_duplicate=False))
        for name, new in new_layer.named_modules(remove_duplicate=False):
            old = before.get(name)
            if old is None or type(old) is not type(new) or not has_method(new, "neutral_"):
                continue
            if isinstance(new, BlockWithGain) and new.gain != old.gain:
                new.gain = old.gain
                if new in parts(new_layer) and _describes_itself(type(new)):  # not a block inside a stock block
                    row[3] = new.row()
            _copy_state(old, new)
    found = rezeros(target.model)
    if found:
        target.yaml[KEY] = {**target.yaml.get(KEY, {}), "rezero": found}


def _describes_itself(block: type[nn.Module]) -> bool:
    """Return whether `row()` gives the arguments of a block's own `__init__`, not those of a class that it extends."""
    return next(x for x in block.__mro__ if "row" in vars(x)) is next(x for x in block.__mro__ if "__init__" in vars(x))


def _copy_state(old: nn.Module, new: nn.Module) -> None:
    """Copy what `neutral_()` sets and a state dict leaves out: numbers, and buffers that are not saved."""
    neutral: Any = copy.deepcopy(new)
    neutral.neutral_()
    before, after, there = _numbers(new), _numbers(neutral), _numbers(old)
    for name in [x for x in after if after[x] != before.get(x) and x in there]:
        setattr(new, name, there[name])
    for name in new._non_persistent_buffers_set:
        mine, theirs = new._buffers[name], old._buffers.get(name)
        if mine is not None and theirs is not None and mine.shape == theirs.shape:
            mine.copy_(theirs)


def _numbers(block: nn.Module) -> dict[str, Any]:
    return {k: v for k, v in vars(block).items() if isinstance(v, (bool, int, float, str)) and k != "training"}
