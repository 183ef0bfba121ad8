"""For inference: fusion weights folded into the convolutions that read them, which leaves a plain concatenation.

Scaling an input channel of a convolution equals scaling the columns of its weight that read this channel, so the
output is the same with the scale in either place. Darknet folds its weighted shortcuts the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks import BiFPN_Add, BiFPN_Concat
from .label_propagation import Follower
from .layers import CannotRun, pixels, put, quietly, running

_CELLS = 5  # of the coarsest level; RT-DETR's head selects 300 cells, and fails in some hosts if there are fewer


@dataclass
class _Scale:
    """The scale of each channel of a tensor that folding removes."""

    factors: Tensor  # (channels,)
    fusions: frozenset[str]  # names of the fusions that the scale is from


class _Scales(Follower[_Scale]):
    """Follows tensors whose scale folding removes."""

    def join(self, tensors: list[Tensor]) -> _Scale:
        """Join scales; the scale of an unlabelled tensor is 1."""
        labels = [self.of(x) or _Scale(x.new_ones(x.shape[1]), frozenset()) for x in tensors]
        return _Scale(torch.cat([x.factors for x in labels]), frozenset().union(*(x.fusions for x in labels)))

    def part(self, label: _Scale, start: int, stop: int) -> _Scale:
        """Return the scale of some channels."""
        return _Scale(label.factors[start:stop], label.fusions)

    def end(self, out: Any) -> None:
        """Note a scale on the model's output, which must not change."""
        for value in out.values() if isinstance(out, dict) else out if isinstance(out, (list, tuple)) else ():
            self.end(value)
        label = self.of(out)
        if label is not None:
            self.problems.append(("the model's output", [label]))

    def same(self, labels: list[_Scale]) -> bool:
        """Return whether two tensors have the same scale, from the same fusions."""
        return labels[0].fusions == labels[1].fusions and torch.equal(labels[0].factors, labels[1].factors)


@dataclass
class Folded:
    """What became of the fusions of a model.

    Attributes:
        folded: Names of those that are now plain concatenations.
        kept: Names of the other concatenations, with the reason why they are not folded.
        sums: Names of the weighted sums, which cannot be folded.
    """

    folded: list[str]
    kept: dict[str, str]
    sums: list[str]


def fold(model: Any, concat: Callable[[], nn.Module]) -> Folded:
    """Fold the fusion weights of a model into its convolutions, in place.

    A fusion is folded if only convolutions read it, directly or through functions that commute with a positive scale
    of the channels.

    Args:
        model: A model of the host, with its layers in `model.model`.
        concat: Returns the plain concatenation that replaces a weighted one.

    Returns:
        What became of the fusions.
    """
    result = fold_weights(model)
    for name in result.folded:
        plain: Any = concat()
        put(model, name, plain)
        plain.type = f"{type(plain).__module__}.{type(plain).__name__}"
    return result


def fold_weights(model: Any, only: Collection[str] | None = None) -> Folded:
    """Fold the fusion weights of a model into its convolutions as `fold` does, and leave neutral fusions, in place.

    Args:
        model: A model of the host, with its layers in `model.model`.
        only: Names of the fusions to fold, None for all.

    Returns:
        What became of the fusions.
    """
    found = {name: m for name, m in model.named_modules() if isinstance(m, BiFPN_Concat)}
    blocks = {name: m for name, m in found.items() if only is None or name in only}
    sums = [name for name, m in model.named_modules() if isinstance(m, BiFPN_Add)]
    kept: dict[str, str] = {}
    if not blocks:
        return Folded([], {}, sums)
    image = pixels(model, _CELLS).to(next(model.parameters()).dtype)
    try:
        with running():
            quietly(model, lambda: model(image))
    except CannotRun as error:  # a model that needs more than an image works without folding too
        return Folded([], dict.fromkeys(blocks, str(error)), sums)
    while blocks:  # again without those that cannot be folded, which may change the scales of others
        scales = _follow(model, blocks, image)
        refused = _refused(scales)
        if not refused:
            _multiply(model, scales.readers)
            break
        kept |= {name: reason for name, reason in refused.items() if name in blocks}
        blocks = {name: block for name, block in blocks.items() if name not in refused}
    for block in blocks.values():
        block.neutral_()
    return Folded([*blocks], kept, sums)


def _follow(model: Any, blocks: dict[str, BiFPN_Concat], image: Tensor) -> _Scales:
    """Run a model once with the outputs of some of its fusions labelled."""
    scales = _Scales(model)
    hooks = [h for name, block in blocks.items() for h in _label_output(scales, name, block)]

    def run() -> None:
        with scales:
            scales.end(model(image))

    try:
        quietly(model, run)
    finally:
        for handle in hooks:
            handle.remove()
    return scales


def _label_output(scales: _Scales, name: str, block: BiFPN_Concat) -> list[Any]:
    """Make a fusion label its output with its weights times the scales of its inputs.

    The labels of the inputs are hidden while it runs, so that the functions inside it are not followed.

    Returns:
        The handles of the hooks.
    """
    before: list[_Scale | None] = []

    def enter(m: nn.Module, args: Any) -> None:
        before[:] = [scales.untag(x) for x in args[0]]

    def leave(m: nn.Module, args: Any, out: Tensor) -> None:
        for x, label in zip(args[0], before):
            if label is not None:
                scales.tag(x, label)
        shares = (block.normalized_weights() * block.gain).to(out.dtype)
        joined = scales.join([*args[0]])
        channels = [x.shape[1] for x in args[0]]  # fewer than `block.channels` in a pruned model
        factors = joined.factors * shares.repeat_interleave(torch.tensor(channels, device=shares.device))
        scales.tag(out, _Scale(factors, joined.fusions | {name}))

    return [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]


def _refused(scales: _Scales) -> dict[str, str]:
    """Return the fusions that cannot be folded, with the reason."""
    reasons = {
        name: f"read by {function}" for function, labels in scales.problems for x in labels for name in x.fusions
    }
    for conv, label in scales.readers:
        if scales.calls[conv] > 1:
            reasons |= dict.fromkeys(label.fusions, f"read by {conv}, which is run more than once")
    return reasons


def _multiply(model: nn.Module, readers: Sequence[tuple[str, _Scale]]) -> None:
    """Multiply the weight columns of convolutions by the scales of the channels that they read."""
    for name, label in readers:
        conv: Any = model.get_submodule(name)
        out, inputs, *size = conv.weight.shape
        grouped = conv.weight.data.view(conv.groups, out // conv.groups, inputs, *size)
        grouped *= label.factors.view(conv.groups, 1, inputs, *[1] * len(size))
