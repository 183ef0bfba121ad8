"""Patch: the host's `fuse()` fuses our blocks too, so that every exporter gets the smaller graph."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..graph.fold import Folded, fold
from ..graph.layers import has_method
from ..graph.starts import fold_rezeros
from ..registry import BlockTable
from .replacement import Undo, marked, model_method, replace_methods

_ACTIVE = "_yolo_coordbifpn_fuse"  # attribute of a model while it is fused
_FUSED = "_fused_by_yolo_coordbifpn"  # set on a block that has fused itself


def patch_fuse(host: ModuleType, table: BlockTable) -> Undo:
    """Make the host's `fuse()` fold fusion weights into convolutions and call `fuse()` of the registered blocks.

    Args:
        host: `ultralytics.nn.tasks`.
        table: The registered blocks.

    Returns:
        A function that undoes the patch.

    Raises:
        HostError: If the host's models have no `fuse()`.
    """
    base, _ = model_method(host, "fuse")
    return replace_methods(host, base, "fuse", lambda original: _with_blocks(host, table, original))


def _with_blocks(host: ModuleType, table: BlockTable, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `fuse` that fuses the blocks too."""

    @functools.wraps(original)
    def fuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(self, _ACTIVE):
            return original(self, *args, **kwargs)
        with marked(self, _ACTIVE):
            model = original(self, *args, **kwargs)
        if table.in_model(model):
            for block in [m for m in model.modules() if table.is_block(m) and has_method(m, "fuse")]:
                if not getattr(block, _FUSED, False):  # a host may fuse a model again, as for each predictor
                    block.fuse()
                    setattr(block, _FUSED, True)
            fold_rezeros(model)
            folded = fold(model, host.Concat)
            if kwargs.get("verbose", args[0] if args else True):
                _log(host.LOGGER, folded)
        return model

    return fuse


def _log(logger: Any, result: Folded) -> None:
    """Log which fusions stay as they are."""
    kept = [f"{name} ({reason})" for name, reason in result.kept.items()]
    if result.sums:
        kept.append(f"{len(result.sums)} weighted sums")
    if kept:
        logger.info(
            f"yolo_coordbifpn: {len(result.folded)} fusions folded into convolutions, not folded: {', '.join(kept)}"
        )
