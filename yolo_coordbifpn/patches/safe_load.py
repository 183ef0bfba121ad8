"""Patch: checkpoints with registered blocks load under torch's `weights_only=True`.

Nothing is taken from a checkpoint but names: a class is allowed if it is registered, or stands ready to be, here or in
a module that the user's own environment declares.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ..registry import BlockTable

_SUPPORTED = hasattr(torch.serialization, "add_safe_globals")  # torch >= 2.4; older hosts do not load this way
_SCANS = hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint")  # torch >= 2.6
_THEIRS = ("torch.", "ultralytics.", "numpy.", "builtins.", "collections.", "pathlib.")


def patch_safe_load(host: ModuleType, table: BlockTable) -> Callable[[], None]:
    """Put the registered blocks on torch's allow-list, and those that are registered when a checkpoint names them.

    Args:
        host: `ultralytics.nn.tasks`.
        table: The registered blocks.

    Returns:
        A function that undoes the patch.
    """
    before = _allowed()
    for block in table:
        allow(block)
    original: Any = getattr(host, "torch_load", None)

    @functools.wraps(original or torch.load)
    def torch_load(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("weights_only") and args and _SCANS:  # as with ULTRALYTICS_SAFE_LOAD=1, from 8.4 on
            with contextlib.suppress(ValueError):  # no archive of torch; the host says so
                needed = torch.serialization.get_unsafe_globals_in_checkpoint(args[0])
                table.discovery.find({name.rpartition(".")[2] for name in needed if not name.startswith(_THEIRS)})
        return original(*args, **kwargs)

    if original is not None:
        host.torch_load = torch_load  # type: ignore[attr-defined]

    def undo() -> None:
        if original is not None:
            host.torch_load = original  # type: ignore[attr-defined]
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
