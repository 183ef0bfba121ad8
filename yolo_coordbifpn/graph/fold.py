"""For inference: the weights of a fusion go into the convolutions that read it, and the fusion becomes a concatenation.

Scaling an input channel of a convolution is scaling the columns of its weight that read this channel, so a model puts
out the same with the scale in either place. Darknet folds its weighted shortcuts the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks import BiFPN_Add, BiFPN_Concat
from .label_propagation import Follower
from .layers import pixels, quietly

_CELLS = 5  # of the coarsest level; RT-DETR's head takes 300 of all cells, and in some hosts fails if there are fewer


@dataclass
class _Scale:
    """By how much each channel of a tensor is larger than it will be, and through which fusions."""

    factors: Tensor  # (channels,)
    fusions: frozenset[str]


class _Scales(Follower[_Scale]):
    """Follows tensors that will lose a scale."""

    def join(self, tensors: list[Tensor]) -> _Scale:
        """Join scales; what is not scaled has ones."""
        labels = [self.of(x) or _Scale(x.new_ones(x.shape[1]), frozenset()) for x in tensors]
        return _Scale(torch.cat([x.factors for x in labels]), frozenset().union(*(x.fusions for x in labels)))

    def part(self, label: _Scale, start: int, stop: int) -> _Scale:
        """Scale some channels as they were."""
        return _Scale(label.factors[start:stop], label.fusions)

    def end(self, out: Any) -> None:
        """Look at what the model puts out, which must not change."""
        for value in out.values() if isinstance(out, dict) else out if isinstance(out, (list, tuple)) else ():
            self.end(value)
        label = self.of(out)
        if label is not None:
            self.problems.append(("the model's output", [label]))

    def same(self, labels: list[_Scale]) -> bool:
        """Tell whether tensors are scaled alike, by fusions that go or stay together."""
        return labels[0].fusions == labels[1].fusions and torch.equal(labels[0].factors, labels[1].factors)


@dataclass
class Folded:
    """What became of the fusions of a model.

    Attributes:
        folded: Names of those that are plain concatenations now.
        kept: Names of the other concatenations, with what reads them that takes no weights.
        sums: Names of the weighted sums, whose weights no convolution can take.
    """

    folded: list[str]
    kept: dict[str, str]
    sums: list[str]


def fold(model: Any, concat: Callable[[], nn.Module]) -> Folded:
    """Fold the fusion weights of a model into its convolutions, in place.

    A fusion is folded if all that reads it is convolutions, by whatever passes a positive scale of its channels on;
    else it stays.

    Args:
        model: A model of the host, with its layers in `model.model`.
        concat: Makes the plain concatenation that takes the place of a weighted one.

    Returns:
        What became of the fusions.
    """
    blocks = {name: m for name, m in model.named_modules() if isinstance(m, BiFPN_Concat)}
    sums = [name for name, m in model.named_modules() if isinstance(m, BiFPN_Add)]
    kept: dict[str, str] = {}
    while blocks:  # without those that cannot be folded, as often as one of them stands behind another
        try:
            scales = _follow(model, blocks)
        except Exception as error:  # a model that needs more than pixels runs as well unfolded
            return Folded([], kept | dict.fromkeys(blocks, f"{type(error).__name__}: {error}"), sums)
        refused = _refused(scales)
        if not refused:
            _multiply(model, scales.readers)
            break
        kept |= {name: reason for name, reason in refused.items() if name in blocks}
        blocks = {name: block for name, block in blocks.items() if name not in refused}
    for name, block in blocks.items():
        plain: Any = concat()
        for attribute in ("i", "f", "np"):  # what the host's parser writes on a layer
            if hasattr(block, attribute):
                setattr(plain, attribute, getattr(block, attribute))
        plain.type = f"{type(plain).__module__}.{type(plain).__name__}"
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, plain.train(block.training))
    return Folded([*blocks], kept, sums)


def _follow(model: Any, blocks: dict[str, BiFPN_Concat]) -> _Scales:
    """Run a model once, with the outputs of some of its fusions labelled."""
    scales = _Scales(model)
    hooks = [h for name, block in blocks.items() for h in _label_output(scales, name, block)]
    image = pixels(model, _CELLS).to(next(model.parameters()).dtype)

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
    """Let a fusion label its output, by its weights and what its inputs are scaled by; its own work is not followed."""
    before: list[_Scale | None] = []

    def enter(m: nn.Module, args: Any) -> None:
        before[:] = [scales.untag(x) for x in args[0]]

    def leave(m: nn.Module, args: Any, out: Tensor) -> None:
        for x, label in zip(args[0], before):
            if label is not None:
                scales.tag(x, label)
        shares = (block.normalized_weights() * block.gain).to(out.dtype)
        joined = scales.join([*args[0]])
        factors = joined.factors * shares.repeat_interleave(torch.tensor(block.channels, device=shares.device))
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
    """Multiply the columns of convolutions by the scales of the channels that they read."""
    for name, label in readers:
        conv: Any = model.get_submodule(name)
        out, inputs, *size = conv.weight.shape
        grouped = conv.weight.data.view(conv.groups, out // conv.groups, inputs, *size)
        grouped *= label.factors.view(conv.groups, 1, inputs, *[1] * len(size))
