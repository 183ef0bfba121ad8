"""How torch runs a block, eagerly or otherwise, and in which order features lie in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx import Proxy
from torch.nn.modules import module as torch_module

_before: Callable[[], bool] = getattr(torch._utils, "is_compiling", lambda: False)  # torch 2.1 has only this one
_compiling: Callable[[], bool] = getattr(getattr(torch, "compiler", None), "is_compiling", _before)
_transforming: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
_exporting: Callable[[], bool] | None = getattr(getattr(torch, "compiler", None), "is_exporting", None)  # torch >= 2.7
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def recorded() -> bool:
    """Return whether a compiler or an exporter records the operations."""
    return _compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def exported(module: nn.Module) -> bool:
    """Return whether an exporter or tracer records the operations of a module, which may set no attribute of it.

    Before version 2.7 torch does not tell exporters from compilers; then a compiler is assumed in training mode.
    """
    exporting = _compiling() and not module.training if _exporting is None else _exporting()
    return exporting or torch.jit.is_tracing()  # type: ignore[attr-defined]


def symbolic(xs: object) -> bool:
    """Return whether `torch.fx` traces a block with these inputs, of which nothing is known, not even how many."""
    return isinstance(xs, Proxy) or (isinstance(xs, (list, tuple)) and any(isinstance(x, Proxy) for x in xs))


def eager(x: Tensor) -> bool:
    """Return whether operations on `x` run at once, on values.

    Only then do the blocks use faster forms of their formulas, with results written in place and gradients written out.
    Compilers, exporters, tracers, the transforms of `torch.func`, forward-mode differentiation and subclasses of
    `Tensor`, such as fake tensors without values, need the plain formula.
    """
    return type(x) is Tensor and not recorded() and not _transforming() and forward_ad._current_level < 0


def watched(module: nn.Module) -> bool:
    """Return whether hooks, of the module or global ones, or a wrapper of its `forward` see a call of a module."""
    return "forward" in module.__dict__ or any(
        getattr(module, hooks, None) or getattr(torch_module, f"_global{hooks}", None) for hooks in _HOOKS
    )


def channels_last(x: Tensor) -> bool:
    """Return whether the channels of a pixel are adjacent in memory."""
    return x.stride(1) < x.stride(3)
