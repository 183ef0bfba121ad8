"""Patch: what the host fuses for inference, our blocks fuse with it, so that every exporter gets the smaller graph."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..errors import HostError
from ..graph.fold import Folded, fold
from ..registry import BlockTable


def patch_fuse(host: ModuleType, table: BlockTable) -> Callable[[], None]:
    """Make the host's `fuse()` fold fusion weights into convolutions and call `fuse()` of the registered blocks.

    Args:
        host: `ultralytics.nn.tasks`.
        table: The registered blocks.

    Returns:
        A function that undoes the patch.

    Raises:
        HostError: If the host fuses another way.
    """
    base = getattr(host, "BaseModel", None)
    original = getattr(base, "fuse", None)
    if base is None or original is None:
        raise HostError(f"{host.__name__}.BaseModel has no method fuse")

    @functools.wraps(original)
    def fuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        model = original(self, *args, **kwargs)
        if table.in_model(model):
            for block in [m for m in model.modules() if table.is_block(m) and callable(getattr(m, "fuse", None))]:
                block.fuse()
            _tell(host.LOGGER, fold(model, host.Concat))
        return model

    base.fuse = fuse

    def undo() -> None:
        base.fuse = original

    return undo


def fuse_holds(host: ModuleType) -> bool:
    """Tell whether the host's `fuse()`, as it is now, is ours."""
    return getattr(getattr(host.BaseModel, "fuse", None), "__code__", None) in patch_fuse.__code__.co_consts


def _tell(logger: Any, result: Folded) -> None:
    """Say in the log which fusions stay as they are."""
    kept = [f"{name} ({reason})" for name, reason in result.kept.items()]
    if result.sums:
        kept.append(f"{len(result.sums)} weighted sums")
    if kept:
        logger.info(
            f"yolo_coordbifpn: {len(result.folded)} fusions folded into convolutions, not folded: {', '.join(kept)}"
        )
