"""Patch: the loss of a registered block that has one, `loss(batch) -> dict[str, Tensor]`, is added to the host's own.

The host's `loss(batch)` returns the loss of its criterion, and its items for the log: by name, or in older hosts in an
order that the trainer knows. The blocks are asked after it, with what the host's assigner has found. Where the items
have names, so do those of the blocks, as columns of the log and of `results.csv`; elsewhere they are in the total
alone.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from ..graph.layers import has_method
from ..registry import BlockTable
from .replacement import Undo, marked, model_method, replace_methods

ACTIVE = "_yolo_coordbifpn_loss"  # attribute of a model while its loss is computed: one `loss` may call another
_UNSCALED = {"ClassificationModel", "RTDETRDetectionModel"}  # whose loss the host does not multiply by the batch size
_told: set[str] = set()  # losses of which the log says that they have no column


def patch_block_losses(host: ModuleType, table: BlockTable) -> Undo:
    """Add the losses of blocks to the host's.

    Args:
        host: `ultralytics.nn.tasks`.
        table: The registered blocks.

    Returns:
        A function that undoes the patch.

    Raises:
        HostError: If the host's models have no `loss`.
    """
    base, _ = model_method(host, "loss")
    return replace_methods(host, base, "loss", lambda original: _with_blocks(host, table, original))


def _with_blocks(host: ModuleType, table: BlockTable, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `loss` that adds those of the blocks."""

    @functools.wraps(original)
    def loss(self: Any, batch: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        blocks = [m for m in self.modules() if type(m) in table and has_method(m, "loss")]
        if not blocks or hasattr(self, ACTIVE):
            return original(self, batch, *args, **kwargs)
        with marked(self, ACTIVE):
            criterion = getattr(self, "criterion", None)
            if criterion is None and batch.get("visuals") is None:  # for visual prompts the host makes another one
                criterion = self.criterion = self.init_criterion()
            with _assignment(criterion) as assigned:
                total, items = original(self, batch, *args, **kwargs)
        losses = _losses(blocks, {**batch, **assigned}, items)
        if isinstance(items, dict):
            items = {**items, **{name: x.detach() for name, x in losses.items()}}
        elif not losses.keys() <= _told:
            _told.update(losses)
            host.LOGGER.info(
                f"yolo_coordbifpn: {', '.join(losses)}: in the total loss; this Ultralytics has no columns for them"
            )
        factor = 1 if _UNSCALED & {x.__name__ for x in type(self).__mro__} else len(batch["img"])
        added = torch.stack([*losses.values()]).to(total) * factor
        return (torch.cat((total, added)) if total.ndim else total + added.sum()), items

    return loss


@contextlib.contextmanager
def _assignment(criterion: Any) -> Iterator[dict[str, Any]]:
    """Note what the assigner of a criterion finds; of a head with two branches, that of the one-to-many branch.

    Without a criterion, which the host is about to make, it is the first assigner that runs.
    """
    found: dict[str, Any] = {}

    def note(assigner: nn.Module, given: tuple[Any, ...], result: tuple[Any, ...]) -> None:
        if criterion is None and (found or not type(assigner).__name__.endswith("Assigner")):
            return
        labels, boxes, valid = given[3:6]
        found["assigned"] = {
            "positive": result[3].bool(),
            "index": result[4].long(),
            "boxes": boxes,
            "labels": labels[..., 0],
            "valid": valid[..., 0].bool(),
        }

    assigner = _assigner(criterion)
    hook = None
    if assigner is not None:
        hook = assigner.register_forward_hook(note)
    elif criterion is None:
        hook = register_module_forward_hook(note)
    try:
        yield found
    finally:
        if hook is not None:
            hook.remove()


def _assigner(criterion: Any, depth: int = 3) -> nn.Module | None:
    """Find the assigner of a criterion, or of the first criterion inside it."""
    assigner = getattr(criterion, "assigner", None)
    if isinstance(assigner, nn.Module):
        return assigner
    inside = [x for x in getattr(criterion, "__dict__", {}).values() if hasattr(x, "__dict__")] if depth else []
    return next((x for x in (_assigner(y, depth - 1) for y in inside) if x is not None), None)


def _losses(blocks: list[Any], batch: dict[str, Any], items: Any) -> dict[str, Tensor]:
    """Ask each block for its losses; those of the same name are added up.

    Raises:
        TypeError: If a block does not return scalars by name.
        ValueError: If the host has a loss of this name.
    """
    losses: dict[str, Tensor] = {}
    for block in blocks:
        found = block.loss(batch)
        if (
            not isinstance(found, dict)
            or not found
            or not all(isinstance(x, Tensor) and not x.ndim for x in found.values())
        ):
            raise TypeError(
                f"{type(block).__name__}.loss() must return a dict of scalar tensors, such as "
                f'{{"density_loss": tensor(0.1)}}, got {found!r}.'
            )
        for name, value in found.items():
            if isinstance(items, dict) and name in items:
                raise ValueError(
                    f"{type(block).__name__}.loss(): the host has a loss {name} itself; give another name."
                )
            losses[name] = losses[name] + value if name in losses else value
    return losses
