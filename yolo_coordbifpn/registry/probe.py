"""Whether a block from elsewhere runs on feature maps of any size, which a model meets sooner or later."""

from __future__ import annotations

import copy
from importlib import metadata
from typing import Any

import torch
from torch import nn

from ..errors import RowError, first_line

_SIZES = ((8, 8), (5, 3))  # rectangular images are validated


def probe(cls: type[nn.Module], args: list[Any], channels: int) -> None:
    """Build a block with one input and run it on small feature maps of zeros, in eval mode.

    Args:
        cls: The block.
        args: All arguments of its constructor.
        channels: Channels of its input.

    Raises:
        RowError: If it fails on one of them; a block that outputs another size need not run on odd sizes.
    """
    with torch.random.fork_rng(devices=[]):  # the random numbers of the model's own weights stay the same
        block = cls(*copy.deepcopy(args)).eval()  # which may keep or change its arguments
    tensors = [*block.parameters(), *block.buffers()]
    if any(x.is_meta for x in tensors):
        return
    like = next((x for x in tensors if x.is_floating_point()), torch.zeros(()))
    try:
        for height, width in _SIZES:
            x = torch.zeros(1, channels, height, width, dtype=like.dtype, device=like.device)
            with torch.no_grad():
                out = block(x)
            if getattr(out, "shape", x.shape)[2:] != x.shape[2:]:
                break
    except Exception as error:  # whatever the block raises
        raise RowError(
            f"{origin(cls)} fails on a feature map of {height} x {width} cells: {type(error).__name__}: "
            f"{first_line(error)}. Images of any size reach a block, so it must run on any height and width"
        ) from error


def origin(block: type[nn.Module]) -> str:
    """Name a block with its module, and with the package that it is from if that is installed."""
    names = metadata.packages_distributions().get(block.__module__.partition(".")[0], [])
    package = f" of {names[0]} {metadata.version(names[0])}" if names else ""
    return f"{block.__name__}{package} ({block.__module__})"
