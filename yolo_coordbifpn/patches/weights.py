"""Patch: pretrained stock weights fit models with registered blocks.

Every route ends in `BaseModel.load`: `pretrained=`, `YOLO(yaml).load(pt)`, a checkpoint given to the trainer. The
weights are first brought into the layout of the new model, then the host's own `load` does the rest.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ..errors import WeightsError
from ..graph.head_levels import level_pairs, moves
from ..graph.removal import Removal, remove_blocks
from ..graph.rows import KEY
from ..graph.starts import adopt_starts, unwrap, wrap_as
from ..graph.transfer import Transfer, listed
from ..graph.transplant import same_architecture, transplant
from ..registry import BlockTable
from ..registry.row_builder import modules
from .replacement import Undo, is_replaced, marked, model_method, replace, replace_methods

_ACTIVE = "_yolo_coordbifpn_load"  # attribute of a model while it gets weights


def patch_weights(host: ModuleType, table: BlockTable) -> Undo:
    """Make the host's loading of weights align layers if the model's layers may have moved.

    Args:
        host: `ultralytics.nn.tasks`.
        table: The registered blocks.

    Returns:
        A function that undoes the patch.

    Raises:
        HostError: If the host's models have no `load()`.
    """
    base, _ = model_method(host, "load")

    def aligned(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def load(self: Any, *args: Any, **kwargs: Any) -> Any:
            if hasattr(self, _ACTIVE):
                return original(self, *args, **kwargs)
            with marked(self, _ACTIVE):
                return ours(self, original, *args, **kwargs)

        return load

    def ours(self: Any, original: Callable[..., Any], weights: Any, *args: Any, **kwargs: Any) -> Any:
        verbose = kwargs.get("verbose", args[0] if args else True)
        table.discovery.find(modules(_yaml(self)), vars(host))  # a checkpoint may be the first to have them
        stock = not _has_other_layers(self, table)
        if stock:
            removal = _without_blocks(weights, self, table, host.Concat)
            if verbose and removal is not None:
                _log_removal(host.LOGGER, removal)
            if removal is not None or not (_has_other_levels(weights, self) or KEY in _yaml(_given(weights))):
                return original(self, weights if removal is None else removal.donor, *args, **kwargs)
        source = _model(weights)
        wrapped = wrap_as(source, self)
        if same_architecture(getattr(source, "model", ()), self.model) and not _has_other_levels(source, self):
            result = original(self, weights, *args, **kwargs)
            adopt_starts(source, self)
            return result
        if any(p.dtype != torch.float32 for p in source.parameters()):
            source = copy.deepcopy(source).float()  # the given model keeps its precision
        try:
            transfer = transplant(source, self, table.is_block)
        except WeightsError:
            unwrap(self, wrapped)
            if not stock:
                raise
            return original(self, weights, *args, **kwargs)  # of another family, of which a stock model takes what fits
        wrap_as(transfer.donor, self)
        result = original(self, transfer.donor, *args, **kwargs)
        adopt_starts(transfer.donor, self)
        if verbose:
            change = transfer.change(source, self)
            _log(host.LOGGER, transfer, transfer.report(self, change), change, stock)
        return result

    return replace_methods(host, base, "load", aligned)


def patch_engine_load(engine: Any, table: BlockTable) -> Undo:
    """Make `train()` keep weights that were loaded from a model, not from a file.

    Older hosts, such as 8.4.100, build a new model from the YAML in `Model.train` unless `ckpt` is set, which their
    `Model.load` does for files only.

    Args:
        engine: `ultralytics.engine.model`.
        table: The registered blocks.

    Returns:
        A function that undoes the patch.
    """
    original = engine.Model.load

    @functools.wraps(original)
    def load(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if not self.ckpt and _has_other_layers(self.model, table):
            self.ckpt = {"model": self.model}
        return result

    return replace(engine.Model, "load", load)


def engine_load_holds(engine: Any) -> bool:
    """Return whether `load` of the host's `engine.model`, as it is now, is ours, or that is only half imported."""
    return not hasattr(engine, "Model") or is_replaced(engine.Model, "load", __name__)


def _has_other_layers(model: Any, table: BlockTable) -> bool:
    """Return whether a model's layers may have other indices than the stock model's: its blocks or its YAML say so."""
    return table.in_model(model) or KEY in _yaml(model)


def _has_other_levels(weights: Any, model: Any) -> bool:
    """Return whether the heads of weights and of a model have other levels, or the same in another order."""
    layers = getattr(_given(weights), "model", None)
    if not isinstance(layers, nn.Sequential) or not isinstance(model.model, nn.Sequential):
        return False
    return moves(level_pairs(layers[-1], model.model[-1]), layers[-1])


def _yaml(model: Any) -> dict[str, Any]:
    """Return the YAML that a model was built from, an empty one if it has none."""
    return getattr(model, "yaml", None) or {}


def _given(weights: Any) -> Any:
    """Return the model in a checkpoint, other weights as they are; whatever it is, the host may take it."""
    return (weights.get("ema") or weights.get("model")) if isinstance(weights, dict) else weights


def _model(weights: Any) -> nn.Module:
    """Return the model that was given as weights.

    Args:
        weights: A model, or a checkpoint that holds one.

    Raises:
        WeightsError: If it is neither.
    """
    if isinstance(weights, dict):
        if not isinstance(_given(weights), nn.Module):
            raise WeightsError(
                f"pretrained weights: no model in a dict with the keys {', '.join(map(str, list(weights)[:5]))}, ..."
            )
        return _given(weights)
    if isinstance(weights, (str, Path)) or not isinstance(weights, nn.Module):
        raise WeightsError(f"pretrained weights: expected a checkpoint or a model, got {weights!r}")
    return weights


def _without_blocks(weights: Any, target: Any, table: BlockTable, concat: Any) -> Removal | None:
    """Return weights of a model with registered blocks without these, None for all other weights."""
    source = _given(weights)
    layers = getattr(target, "model", None)
    if not isinstance(layers, nn.Sequential) or source is None or not table.in_model(source):
        return None
    return remove_blocks(source, target, table.is_block, concat)


def _log_removal(logger: Any, removal: Removal) -> None:
    """Warn that the pretrained weights have blocks that the model does not have."""
    logger.warning(
        "yolo_coordbifpn: the pretrained weights are those of a model with blocks, and this model has none: "
        f"{removal.kept} of {removal.total} items loaded, layers aligned; not loaded: "
        f"{'; '.join(removal.lost) or 'nothing'}. To keep everything, train the model that the weights come from"
    )


def _log(logger: Any, transfer: Transfer, report: str, change: float | None, stock: bool) -> None:
    """Log what became of the weights in a stock or other model; warn if the output is not the pretrained model's."""
    logger.info(f"yolo_coordbifpn: {report}")
    pairs = transfer.pairs
    if pairs.unmatched or pairs.unused:
        exact = change is not None and change <= 1e-5
        (logger.info if exact else logger.warning)(
            "yolo_coordbifpn: newly initialised, with no counterpart in the pretrained model: "
            f"{listed(pairs.unmatched)}; not used, with no counterpart in the new model: {listed(pairs.unused)}"
        )
    if pairs.reset:
        logger.warning(
            "yolo_coordbifpn: newly initialised, since the pretrained model has these blocks with other arguments or "
            f"inputs: {listed(pairs.reset)}"
        )
    if transfer.unchecked:
        logger.warning(
            "yolo_coordbifpn: the initial output was not compared with the pretrained model's: " + transfer.unchecked
        )
    elif not transfer.heads_read and not transfer.problems:
        logger.warning(
            "yolo_coordbifpn: the initial output differs from the pretrained model's: the head reads a new neck"
        )
    elif transfer.problems and (change is None or change > 1e-5):
        logger.warning(
            f"yolo_coordbifpn: the initial output differs from the pretrained model's: {'; '.join(transfer.problems)}"
        )
        if stock and "P2" in transfer.new_levels:
            logger.warning(
                "yolo_coordbifpn: this model of Ultralytics has rows of its new level between pretrained ones. A model "
                "that starts exactly: yolo-coordbifpn graft model=<the model without the level> levels=P2"
            )
    elif change is not None and change > 1e-3 and not (pairs.unmatched or pairs.unused or pairs.reset):
        logger.warning(
            "yolo_coordbifpn: the initial output differs from the pretrained model's, although every layer has its "
            "weights: this Ultralytics builds a stock layer differently from the one that trained them, also in its "
            "stock models"
        )
