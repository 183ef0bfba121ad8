"""Patch: checkpoints with registered blocks load under torch's `weights_only=True`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..registry import BlockTable

_SUPPORTED = hasattr(torch.serialization, "add_safe_globals")  # torch >= 2.4; older hosts do not load this way


def patch_safe_load(table: BlockTable) -> Callable[[], None]:
    """Put the registered blocks on torch's allow-list; return a function that takes them off again."""
    before = _allowed()
    for block in table:
        allow(block)

    def undo() -> None:
        rest = [x for x in _allowed() if x in before or x not in table]
        if _SUPPORTED:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(rest)

    return undo


def allow(block: type[nn.Module]) -> None:
    """Put one block on the allow-list."""
    if _SUPPORTED and block not in _allowed():
        torch.serialization.add_safe_globals([block])


def safe_load_holds(table: BlockTable) -> bool:
    """Tell whether all registered blocks are on the allow-list, or torch has none."""
    return not _SUPPORTED or set(table) <= set(_allowed())


def _allowed() -> list[Any]:
    return torch.serialization.get_safe_globals() if _SUPPORTED else []
