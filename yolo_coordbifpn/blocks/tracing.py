"""How torch runs the operations at hand: at once or recorded, and in which order the features lie in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_before: Callable[[], bool] = getattr(torch._utils, "is_compiling", lambda: False)  # torch 2.1, the first to have any
_compiling: Callable[[], bool] = getattr(getattr(torch, "compiler", None), "is_compiling", _before)


def recorded() -> bool:
    """Tell whether the operations are being recorded by a compiler or an exporter."""
    return _compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def channels_last(x: Tensor) -> bool:
    """Tell whether the channels of a pixel lie side by side."""
    return x.stride(1) < x.stride(3)
