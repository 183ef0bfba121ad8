"""The attention modules of timm, each as a block of its own: `timm_se`, `timm_eca`, `timm_gc`, ...

Source: https://github.com/huggingface/pytorch-image-models, `timm.layers.create_attn`. timm's own function knows the
names and builds the modules; nothing is listed or rewritten here. A class is made when it is first asked for, also by a
checkpoint. A module that needs an image size, more arguments or more than 1 x 1 pixels, or that outputs another shape,
is not a block; `unusable` says why.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from typing import Any

import torch
from torch import Tensor, nn

from .checks import check_features, one_input
from .declaration import block

PREFIX = "timm_"
_SIZES = ((9, 6), (7, 7), (1, 1))  # odd, even, and the smallest


class TimmAttention(nn.Module):
    """An attention module of timm. Row of a model YAML: `[-1, 1, timm_eca, []]`.

    Attributes:
        kind: timm's name of it, such as `eca`.
        attention: timm's module.
    """

    kind: str

    def __init__(self, channels: int) -> None:
        """Build the module with timm's default arguments.

        Args:
            channels: C, the number of channels of the input and of the output.

        Raises:
            ValueError: If `channels` is not a positive whole number.
        """
        super().__init__()
        self.channels = one_input(type(self).__name__, channels)
        self.attention = _create(self.kind, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attention to features of shape (N, C, H, W)."""
        check_features(self, [x], channels=self.channels)
        return self.attention(x)


@functools.cache
def kinds() -> tuple[str, ...]:
    """Return timm's names of the modules that can be blocks; none if timm is missing or has no such function."""
    return tuple(name for name in _names() if not unusable(name))


@functools.cache
def unusable(kind: str) -> str:
    """Return why a module of timm cannot be a block, an empty string if it can."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            module = _create(kind, 64).eval()
            for size in _SIZES:
                x = torch.zeros(2, 64, *size)
                if module(x).shape != x.shape:
                    return f"outputs another shape than ({size[0]}, {size[1]})"
        except Exception as error:  # whatever timm's module raises
            return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _names() -> list[str]:
    """Read the names that timm's function compares its argument with."""
    try:
        source = inspect.getsource(_home().get_attn)
    except (AttributeError, ImportError, OSError):
        return []
    return re.findall(r"attn_type == ['\"](\w+)['\"]", source)


def _create(kind: str, channels: int) -> nn.Module:
    return _home().create_attn(kind, channels)


def _home() -> Any:
    return importlib.import_module("timm.layers.create_attn")  # the package has a function of that name


def __getattr__(name: str) -> Any:
    """Make the class of a name such as `timm_eca`.

    Raises:
        AttributeError: If timm has no such module, or it cannot be a block.
    """
    kind = name.removeprefix(PREFIX)
    if kind == name or kind not in _names():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if unusable(kind):
        raise AttributeError(f"timm's {kind} cannot be a block: {unusable(kind)}")
    members = {"__module__": __name__, "__doc__": f"timm's attention module {kind}.", "kind": kind}
    cls = block(variant=name, library="timm")(type(name, (TimmAttention,), members))
    return globals().setdefault(name, cls)
