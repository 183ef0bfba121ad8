"""Patch: checkpoints with registered blocks load under torch's `weights_only=True`.

Only names are taken from a checkpoint. A class is allowed if it is registered, or can be registered from this package,
an installed one, or a module that the user's own environment names. So are the modules of which such a block is made:
the subclasses of `torch.nn.Module` in its package, and in the library that its declaration names.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Container
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ..blocks.declaration import declaration
from ..registry import BlockTable
from .replacement import Undo, is_replaced, replace

_SUPPORTED = hasattr(torch.serialization, "add_safe_globals")  # torch >= 2.4; older hosts do not load this way
_SCANS = hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint")  # torch >= 2.6
_THEIRS = ("torch.", "ultralytics.", "numpy.", "builtins.", "collections.", "pathlib.")


def patch_safe_load(host: ModuleType, table: BlockTable) -> Undo:
    """Put blocks on torch's allow-list: the registered ones now, others when a checkpoint names them.

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
            start = args[0].tell() if hasattr(args[0], "tell") else None
            with contextlib.suppress(ValueError, ImportError):  # not an archive of torch; the host reports it
                needed = torch.serialization.get_unsafe_globals_in_checkpoint(args[0])
                table.discovery.find({name.rpartition(".")[2] for name in needed if not name.startswith(_THEIRS)})
                packages = _packages(table)
                for cls in filter(None, (_module(name, packages) for name in needed)):
                    allow(cls)
            if start is not None:
                args[0].seek(start)  # an open file is read from the same place
        return original(*args, **kwargs)

    undo_load = replace(host, "torch_load", torch_load) if original is not None else lambda: True

    def undo() -> bool:
        rest = [x for x in _allowed() if x in before or x not in table]
        if _SUPPORTED:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(rest)
        return undo_load()

    return undo


def _packages(table: BlockTable) -> set[str]:
    """Return the packages of which the registered blocks are made."""
    found = {x for block in table for x in (block.__module__.partition(".")[0], declaration(block).library)}
    return found - {"", "__main__", "ultralytics"}


def _module(name: str, packages: Container[str]) -> type[nn.Module] | None:
    """Return the class of a name if it is a subclass of `torch.nn.Module` in one of some packages."""
    home, _, last = name.rpartition(".")
    if home.partition(".")[0] not in packages:
        return None
    cls = getattr(importlib.import_module(home), last, None)
    return cls if isinstance(cls, type) and issubclass(cls, nn.Module) else None


def allow(block: type[nn.Module]) -> None:
    """Put one block on the allow-list."""
    if _SUPPORTED and block not in _allowed():
        torch.serialization.add_safe_globals([block])


def safe_load_holds(host: ModuleType, table: BlockTable) -> bool:
    """Return whether the registered blocks are on torch's allow-list, if it has one, and the host's loading is ours."""
    ours = not hasattr(host, "torch_load") or is_replaced(host, "torch_load", __name__)
    return ours and (not _SUPPORTED or set(table) <= set(_allowed()))


def _allowed() -> list[Any]:
    return torch.serialization.get_safe_globals() if _SUPPORTED else []
