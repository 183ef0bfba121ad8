"""Where the channels that an added edge brings between the old ones are read, layer by layer.

Fresh blocks start as the identity, so a new model computes what the pretrained one does, but for new channels behind a
concatenation with more inputs than before. One forward pass follows those through whatever only passes channels on, up
to the convolutions that read them; columns of zeros there keep the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks import BiFPN_Concat
from .label_propagation import EACH_CHANNEL, Follower
from .layers import kind, reads, run, shapes

_KEEPS_NEW = EACH_CHANNEL | {"pad", "silu", "silu_", "hardswish", "hardswish_", "sigmoid", "tanh", "gelu", "mean"}


@dataclass
class Channels:
    """What the channels of one tensor of the new model are in the same tensor of the pretrained one."""

    origin: Tensor  # channel of the pretrained tensor, (channels,), -1 where new
    size: int  # channels of the pretrained tensor

    @classmethod
    def same(cls, size: int) -> Channels:
        """Describe a tensor that is as in the pretrained model."""
        return cls(torch.arange(size), size)

    @property
    def has_new(self) -> bool:
        """Tell whether there are channels that the pretrained tensor has not got."""
        return bool((self.origin < 0).any())


@dataclass
class Reader:
    """A convolution of the new model that reads new channels."""

    layer: int
    name: str  # of the convolution inside the layer, "" if it is the layer
    channels: Channels


@dataclass
class Walk:
    """What one pass through the new model found."""

    readers: list[Reader]
    problems: list[str]  # places where the output cannot be kept
    stands_for: list[int | None]  # for each layer the pretrained layer whose output its own is


class _Tracer(Follower[Channels]):
    """Follows tensors with new channels through the functions inside one layer."""

    def join(self, tensors: list[Tensor]) -> Channels:
        """Join channels as the pretrained model joins the same tensors."""
        return joined([self.of(x) or Channels.same(x.shape[1]) for x in tensors])

    def same(self, labels: list[Channels]) -> bool:
        """Tell whether tensors have the same channels."""
        return torch.equal(labels[0].origin, labels[1].origin)


def joined(parts: Sequence[Channels]) -> Channels:
    """Join channels one after the other, as the pretrained model joins the same tensors."""
    origins, offset = [], 0
    for part in parts:
        origins.append(torch.where(part.origin < 0, part.origin, part.origin + offset))
        offset += part.size
    return Channels(torch.cat(origins), offset)


def walk(
    source: Sequence[nn.Module],
    target: Sequence[nn.Module],
    partners: Sequence[int | None],
    is_block: Callable[[nn.Module], bool],
    image: Tensor,
    extras: Sequence[Sequence[Any]],
) -> Walk:
    """Follow the channels through the new model, in eval mode, from the image to the head.

    Args:
        source: Layers of the pretrained model.
        target: Layers of the new model; each knows its index `i` and the layers `f` that it reads.
        partners: The alignment of both.
        is_block: Tells whether a layer is one of the registered blocks.
        image: An input, shape (1, C, H, W).
        extras: For each layer what it is given beside features.

    Returns:
        The convolutions that read new channels, and the places where the output cannot be kept.
    """
    found = Walk([], [], [])
    outputs: list[Any] = []
    known: list[Channels | None] = []  # None: no feature map, or one that the pretrained model has not got
    for j, layer in enumerate(target):
        channels = [known[k] if k >= 0 else Channels.same(image.shape[1]) for k in reads(layer)]
        stands: list[int | None] = [found.stands_for[k] if k >= 0 else -1 for k in reads(layer)]
        partner = partners[j]
        if j == len(target) - 1 and not any(c is not None and c.has_new for c in channels):
            break  # a head that reads what it did before; some need more than the features to run
        tracer = _Tracer(layer, _KEEPS_NEW)
        for k, c in zip(reads(layer), channels):
            if c is not None and c.has_new and partner is not None and kind(layer) != "Concat":
                tracer.tag(outputs[k] if k >= 0 else image, c)
        with tracer:
            inputs, out = run(layer, outputs, image, extras[j])
        found.readers += [Reader(j, name, c) for name, c in dict(tracer.readers).items()]
        found.problems += [f"layer {j} ({kind(layer)}) reads new channels by {how}" for how, _ in tracer.problems]

        result: Channels | None = None
        if partner is None:
            if is_block(layer) and _is_identity(layer, inputs, out):
                result, partner = channels[0], stands[0]
            elif is_block(layer) and len(inputs) == 1 and stands[0] is not None:
                found.problems.append(f"layer {j} ({kind(layer)}) does not start as the identity")
        elif kind(layer) == "Concat":
            result, lost = _through_concat(layer, source[partner], channels, stands, inputs)
            if lost:
                found.problems.append(f"layer {j} ({kind(layer)}) reads less than layer {partner} did before")
        else:
            if isinstance(out, Tensor) and out.ndim == 4:
                result = tracer.of(out) or Channels.same(out.shape[1])
            if stands != reads(source[partner]) and j < len(target) - 1:
                if shapes(layer):
                    found.problems.append(
                        f"layer {j} ({kind(layer)}) reads other layers than layer {partner} did before"
                    )
                else:
                    partner = None  # an upsampling, say, that has nothing of its own to keep
        found.stands_for.append(partner if result is not None else None)
        outputs.append(out)
        known.append(result)
    return found


def _is_identity(layer: nn.Module, inputs: Sequence[Any], out: Any) -> bool:
    """Tell whether an inserted block with one input puts it out unchanged, whatever it is."""
    if len(inputs) != 1 or not isinstance(out, Tensor) or out.shape != inputs[0].shape:
        return False
    probe = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(0)).to(inputs[0])
    return torch.allclose(layer(probe), probe, rtol=1e-5, atol=1e-6)


def _through_concat(
    layer: nn.Module,
    before: nn.Module,
    channels: Sequence[Channels | None],
    stands: Sequence[int | None],
    inputs: Sequence[Tensor],
) -> tuple[Channels, bool]:
    """Describe a concatenation, plain or weighted, by the inputs that its partner in the pretrained model joins."""
    expected = reads(before)
    place: dict[int, int] = {}  # input of the new layer -> input of the old one
    for new, stand in enumerate(stands):
        old = next((k for k, e in enumerate(expected) if e == stand and k not in place.values()), None)
        if old is not None and channels[new] is not None:
            place[new] = old
    sizes = {old: channels[new].size for new, old in place.items()}  # type: ignore[union-attr]
    origin = []
    for new, tensor in enumerate(inputs):
        part = channels[new]
        if new in place and part is not None:
            start = sum(sizes.get(k, 0) for k in range(place[new]))
            origin.append(torch.where(part.origin < 0, part.origin, part.origin + start))
        else:
            origin.append(torch.full((tensor.shape[1],), -1))
    same_weights = not isinstance(before, BiFPN_Concat) or len(before.weight) == len(inputs)
    return Channels(torch.cat(origin), sum(sizes.values())), len(sizes) < len(expected) or not same_weights
