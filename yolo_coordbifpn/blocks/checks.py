"""Checks of the arguments of a block, and of the features that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .dispatch import recorded, symbolic


def one_input(block: str, channels: object) -> int:
    """Check the channels of a block that reads one layer.

    Raises:
        ValueError: If they are those of several layers, or not a positive whole number.
    """
    if isinstance(channels, (list, tuple)):
        got = f"{len(channels)} inputs" if len(channels) != 1 else "a list"
        raise ValueError(f"{block} takes one input, got {got}: write its index without brackets, [-1, 1, {block}, []].")
    return positive_whole(block, "channels", channels)


def positive_whole(block: str, name: str, value: object, usual: str = "") -> int:
    """Check an argument that must be a positive whole number; `usual` is its default."""
    if type(value) is not int or value < 1:
        default = f" (default {usual})" if usual else ""
        raise ValueError(f"{block}: {name} must be a positive whole number{default}, got {value!r}.")
    return value


def positive_number(block: str, name: str, value: object, usual: str) -> float:
    """Check an argument that must be a positive number; `usual` is its default."""
    if type(value) not in (int, float) or not 0 < value < float("inf"):  # type: ignore[operator]
        raise ValueError(f"{block}: {name} must be a positive number (default {usual}), got {value!r}.")
    return float(value)  # type: ignore[arg-type]


def positive(block: str, name: str, value: object, usual: str) -> float:
    """Check an argument that must be a positive float; `usual` is the paper's value.

    Whole numbers are refused: in rows written for other versions of the blocks they are numbers of channels.
    """
    if not isinstance(value, float) or not 0 < value < float("inf"):
        raise ValueError(f"{block}: {name} must be a positive float (the paper's is {usual}), got {value!r}.")
    return value


def squeeze(block: str, channels: int, reduction: object, default: int) -> int:
    """Return the number of channels after a reduction, at least 8.

    Raises:
        ValueError: If it is not a positive whole number, or so large that it can only be a number of output channels.
    """
    value = positive_whole(block, "reduction", reduction, str(default))
    if value > 32 and channels // value < 8:  # below the minimum of 8 channels a larger reduction has no effect
        raise ValueError(
            f"{block}: reduction={value} on {channels} channels looks like a number of output channels. "
            f"{block} keeps the channels of the layer before; write [] for the paper's reduction of {default}, "
            "or [reduction]."
        )
    return max(8, channels // value)


def check_features(block: Any, xs: Sequence[Any], count: int = 1, channels: int | None = None, alike: int = 2) -> None:
    """Check the outputs of the layers that a block reads.

    Args:
        block: The block; in a model of the host it has its index `i` and the layers `f` that it reads.
        xs: The inputs of the block.
        count: How many inputs the block takes.
        channels: How many channels the block takes; any number if None.
        alike: The first dimension from which the shapes must agree.

    Raises:
        ValueError: If the inputs are not `count` feature maps (N, C, H, W) of matching shapes; the message names the
            layer of the block, and the layers that it reads with their shapes.
    """
    if recorded() or symbolic(xs):
        return
    if (
        len(xs) == count
        and all(isinstance(x, Tensor) and x.ndim == 4 for x in xs)
        and len({x.shape[alike:] for x in xs}) == 1
        and channels in (None, xs[0].shape[1])
    ):
        return
    name, inputs = type(block).__name__, [f"input {k}" for k in range(len(xs))]
    if hasattr(block, "f"):
        sources = block.f if isinstance(block.f, list) else [block.f]
        name = f"{name} (layer {block.i})"
        inputs = [f"layer {block.i + k if k < 0 else k}" for k in sources]
    if count == 1:
        takes, advice = f"takes features of shape (N, {channels or 'C'}, H, W)", "Read"
    else:
        takes = f"fuses {count} inputs of one {'height and width' if alike == 2 else 'shape'}"
        advice = "Resize with nn.Upsample or a strided Conv first, or read"
    got = ", ".join(f"{k} {tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__}" for k, x in zip(inputs, xs))
    raise ValueError(f"{name} {takes}, got {got}. {advice} another layer.")
