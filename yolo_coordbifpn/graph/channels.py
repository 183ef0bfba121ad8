"""Which convolutions read the channels that an added edge inserts, found layer by layer.

New blocks start as the identity, so the new model computes the pretrained model's output, except for the new channels
of a concatenation with more inputs than before, or with its inputs in another order. One forward pass follows these
channels through the functions that only pass channels on, up to the convolutions that read them. Zero columns in these
convolutions, and the others in the new order, keep the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks import BiFPN_Concat
from .label_propagation import EACH_CHANNEL, Follower
from .layers import call, class_name, has_neutral, inputs, kind, reads, running, shapes
from .pairs import Pairs
from .starts import is_identity, with_rezero

_KEEPS_NEW = EACH_CHANNEL | {"pad", "silu", "silu_", "hardswish", "hardswish_", "sigmoid", "tanh", "gelu", "mean"}


@dataclass
class Channels:
    """Where the channels of a tensor of the new model are in the same tensor of the pretrained one."""

    origin: Tensor  # channel of the pretrained tensor, (channels,), -1 where new
    size: int  # channels of the pretrained tensor

    @classmethod
    def same(cls, size: int) -> Channels:
        """Describe a tensor whose channels are those of the pretrained tensor."""
        return cls(torch.arange(size), size)

    @property
    def has_new(self) -> bool:
        """Return whether some channels are missing in the pretrained tensor."""
        return bool((self.origin < 0).any())

    @property
    def differ(self) -> bool:
        """Return whether some channels are new, missing or in another place."""
        return not torch.equal(self.origin, torch.arange(self.size))


@dataclass
class Reader:
    """A convolution of the new model that reads new channels, or the old ones in another order."""

    layer: int
    name: str  # of the convolution inside the layer, "" if it is the layer
    channels: Channels


class _Tracer(Follower[Channels]):
    """Follows tensors with new channels through the functions inside one layer."""

    def join(self, tensors: list[Tensor]) -> Channels:
        """Join channels in the order in which the pretrained model joins the same tensors."""
        origins, offset = [], 0
        for part in [self.of(x) or Channels.same(x.shape[1]) for x in tensors]:
            origins.append(_shifted(part, offset))
            offset += part.size
        return Channels(torch.cat(origins), offset)

    def same(self, labels: list[Channels]) -> bool:
        """Return whether two tensors have the same channels."""
        return torch.equal(labels[0].origin, labels[1].origin)


@dataclass
class _Visit:
    """One layer of the new model, as the pass runs it."""

    index: int
    layer: Any
    inputs: list[Any]
    output: Any
    channels: list[Channels | None]  # of each input, None if it is no feature map or new to the pretrained model
    stands_for: list[int | None]  # for each input the pretrained layer with the same output, -1 for the image

    @property
    def name(self) -> str:
        """Name the layer in a message."""
        return f"layer {self.index} ({class_name(self.layer)})"


class Walk:
    """One pass through the new model, in eval mode, from the image to the head.

    Attributes:
        layers: The layers that run; a block that does not start as the identity is put inside a `ReZero`.
        readers: The convolutions that read new or reordered channels.
        problems: The places where the pretrained model's output may be lost.
        stands_for: For each layer that ran the pretrained layer with the same output, None if there is none.
    """

    def __init__(self, pairs: Pairs, layers: Sequence[nn.Module]) -> None:
        """Prepare the pass.

        Args:
            pairs: The two models' layers, aligned.
            layers: Layers of the new model to run, with new blocks in the state in which they start.
        """
        self.readers: list[Reader] = []
        self.problems: list[str] = []
        self.stopped = ""
        self.stands_for: list[int | None] = []
        self._pairs, self.layers = pairs, [*layers]

    def run(self, image: Tensor, extras: Sequence[Sequence[Any]]) -> None:
        """Run the layers one by one and describe what each outputs.

        Args:
            image: Pixels, shape (1, C, H, W).
            extras: What each layer takes in addition to features.

        Raises:
            CannotRun: If a layer needs more than that.
        """
        outputs: list[Any] = []
        known: list[Channels | None] = []
        for j, (layer, extra) in enumerate(zip(self.layers[:], extras)):
            channels = [known[k] if k >= 0 else Channels.same(image.shape[1]) for k in reads(layer)]
            if j == len(self.layers) - 1 and not any(map(_differ, channels)):
                return  # a head whose inputs are as before keeps its weights, and may need more to run
            read = inputs(layer, outputs, image)
            with running():
                outputs.append(call(layer, read, extra))
            stands_for = [self.stands_for[k] if k >= 0 else -1 for k in reads(layer)]
            result, stand = self._describe(_Visit(j, layer, read, outputs[j], channels, stands_for), extra)
            known.append(result)
            self.stands_for.append(stand if result is not None else None)

    def _describe(self, visit: _Visit, extra: Sequence[Any]) -> tuple[Channels | None, int | None]:
        """Return the channels of a layer's output and the pretrained layer with the same output."""
        partner = self._pairs.partners[visit.index]
        if partner is None:
            return self._added(visit)
        if kind(visit.layer) == "Concat":
            return self._concatenation(visit, partner), partner
        return self._kept(visit, partner, extra)

    def _added(self, visit: _Visit) -> tuple[Channels | None, int | None]:
        """Describe a layer without a partner: a block that starts as the identity outputs what it reads first."""
        if self._pairs.is_block(visit.layer) and all(isinstance(x, Tensor) for x in visit.inputs):
            same = is_identity(visit.layer, *visit.inputs)
            keeps_shape = isinstance(visit.output, Tensor) and visit.output.shape == visit.inputs[0].shape
            alone = len(visit.inputs) == 1
            if not same and keeps_shape and alone and visit.stands_for[0] is not None and not has_neutral(visit.layer):
                self.layers[visit.index], same = with_rezero(visit.layer), True
            if same:
                return visit.channels[0], visit.stands_for[0]
            if alone and visit.stands_for[0] is not None:
                self.problems.append(f"{visit.name} does not start as the identity")
        return None, None

    def _concatenation(self, visit: _Visit, partner: int) -> Channels:
        """Describe a concatenation, plain or weighted, by the inputs that its partner joins."""
        before = self._pairs.old[partner]
        expected = reads(before)
        place: dict[int, int] = {}  # input of the new layer -> input of the old one
        for new, stand in enumerate(visit.stands_for):
            old = next((k for k, e in enumerate(expected) if e == stand and k not in place.values()), None)
            if old is not None and visit.channels[new] is not None:
                place[new] = old
        # a weighted one knows the sizes of inputs that are no longer read, too
        sizes = dict(enumerate(before.channels)) if isinstance(before, BiFPN_Concat) else {}
        sizes |= {old: visit.channels[new].size for new, old in place.items()}  # type: ignore[union-attr]
        origin = []
        for new, (tensor, part) in enumerate(zip(visit.inputs, visit.channels)):
            if new in place and part is not None:
                origin.append(_shifted(part, sum(sizes.get(k, 0) for k in range(place[new]))))
            else:
                origin.append(torch.full((tensor.shape[1],), -1))
        if len(place) < len(expected):
            self.problems.append(f"{visit.name} does not read all that layer {partner} read before")
        return Channels(torch.cat(origin), sum(sizes.values()))

    def _kept(self, visit: _Visit, partner: int, extra: Sequence[Any]) -> tuple[Channels | None, int | None]:
        """Describe a layer with a partner, and note the convolutions inside it that read new channels."""
        fitting, total = self._pairs.fitting(visit.index)
        if fitting < total and not self._pairs.is_block(visit.layer) and visit.index < len(self.layers) - 1:
            self.problems.append(f"{visit.name} has other parts or widths than layer {partner} of the pretrained model")
        traced = self._trace(visit, extra) if any(map(_differ, visit.channels)) else None
        is_map = isinstance(visit.output, Tensor) and visit.output.ndim == 4
        result = traced or Channels.same(visit.output.shape[1]) if is_map else None
        if visit.index < len(self.layers) - 1 and visit.stands_for != reads(self._pairs.old[partner]):
            if not shapes(visit.layer):
                return result, None  # an upsampling, for example, has no weights to keep
            self.problems.append(f"{visit.name} reads other layers than layer {partner} read before")
        return result, partner

    def _trace(self, visit: _Visit, extra: Sequence[Any]) -> Channels | None:
        """Run a layer with its new channels labelled; return the label of its output."""
        tracer = _Tracer(visit.layer, _KEEPS_NEW)
        for tensor, channels in zip(visit.inputs, visit.channels):
            if channels is not None and channels.differ:
                tracer.tag(tensor, channels)
        with tracer:
            out = call(visit.layer, visit.inputs, extra)
        self.readers += [Reader(visit.index, name, c) for name, c in dict(tracer.readers).items()]
        self.problems += [
            f"{visit.name} reads new or reordered channels through {function}" for function, _ in tracer.problems
        ]
        return tracer.of(out)


def _differ(channels: Channels | None) -> bool:
    return channels is not None and channels.differ


def _shifted(channels: Channels, offset: int) -> Tensor:
    """Return the origins of channels that follow `offset` others in a concatenation."""
    return torch.where(channels.origin < 0, channels.origin, channels.origin + offset)
