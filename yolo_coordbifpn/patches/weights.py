"""Patch: pretrained stock weights fit models with registered blocks.

Every route ends in `BaseModel.load`: `pretrained=`, `YOLO(yaml).load(pt)`, a checkpoint given to the trainer. The
weights are brought into the layout of the new model first, then the host's own `load` does the rest.
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

from ..errors import HostError, WeightsError
from ..graph.gains import adopt_gains
from ..graph.transfer import Transfer, listed
from ..graph.transplant import same_architecture, transplant
from ..registry import BlockTable
from .names import made


def patch_weights(host: ModuleType, table: BlockTable) -> Callable[[], None]:
    """Make the host's loading of weights align layers where the model has a registered block.

    Args:
        host: `ultralytics.nn.tasks`.
        table: The registered blocks.

    Returns:
        A function that undoes the patch.

    Raises:
        HostError: If the host loads weights another way.
    """
    base = getattr(host, "BaseModel", None)
    original = getattr(base, "load", None)
    if base is None or original is None:
        raise HostError(f"{host.__name__}.BaseModel has no method load")

    @functools.wraps(original)
    def load(self: Any, weights: Any, verbose: bool = True) -> Any:
        if not (table.in_model(self) or _is_made(self)):
            return original(self, weights, verbose)
        source = _model(weights)
        if same_architecture(getattr(source, "model", ()), self.model):
            result = original(self, weights, verbose)
            adopt_gains(source, self)
            return result
        if any(p.dtype != torch.float32 for p in source.parameters()):
            source = copy.deepcopy(source).float()  # the given model keeps its precision
        transfer = transplant(source, self, table.is_block)
        result = original(self, transfer.donor, verbose)
        adopt_gains(transfer.donor, self)
        if verbose:
            change = transfer.change(source, self)
            _log(host.LOGGER, transfer, transfer.report(self, change), change)
        return result

    base.load = load

    def undo() -> None:
        base.load = original

    return undo


def patch_engine_load(engine: Any, table: BlockTable) -> Callable[[], None]:
    """Let weights that were loaded from a model, not from a file, survive `train()`.

    Older hosts, 8.4.100 among them, build the model afresh from its YAML in `Model.train` unless `ckpt` is set, which
    `Model.load` sets for files only.

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
        if not self.ckpt and table.in_model(self.model):
            self.ckpt = {"model": self.model}
        return result

    engine.Model.load = load

    def undo() -> None:
        engine.Model.load = original

    return undo


def weights_hold(host: ModuleType) -> bool:
    """Tell whether the host's loading of weights, as it is now, is ours."""
    return getattr(getattr(host.BaseModel, "load", None), "__code__", None) in patch_weights.__code__.co_consts


def _is_made(model: Any) -> bool:
    """Tell whether a model's YAML was made by us, which `-fpn` shows by no block of ours."""
    return Path(str((getattr(model, "yaml", None) or {}).get("yaml_file") or "")).name in made


def _model(weights: Any) -> nn.Module:
    """Return the model in what was given as weights: a model, or a checkpoint that holds one."""
    if isinstance(weights, dict):
        if not isinstance(weights.get("ema") or weights.get("model"), nn.Module):
            raise WeightsError(
                f"pretrained weights: no model in a dict of {', '.join(map(str, list(weights)[:5]))}, ..."
            )
        return weights.get("ema") or weights["model"]
    if isinstance(weights, (str, Path)) or not isinstance(weights, nn.Module):
        raise WeightsError(f"pretrained weights: expected a checkpoint or a model, got {weights!r}")
    return weights


def _log(logger: Any, transfer: Transfer, report: str, change: float | None) -> None:
    """Write one line about what became of the weights, and a warning for what did not go as it should."""
    logger.info(f"yolo_coordbifpn: {report}")
    pairs = transfer.pairs
    if pairs.unmatched or pairs.unused:
        logger.warning(
            f"yolo_coordbifpn: without a partner in the pretrained model, starting afresh: {listed(pairs.unmatched)}; "
            f"without one in the new model, left: {listed(pairs.unused)}"
        )
    if not transfer.heads_read and not transfer.problems:
        logger.warning("yolo_coordbifpn: the start is not the pretrained model's: the head reads a neck that is new")
    elif transfer.problems and (change is None or change > 1e-5):
        logger.warning(f"yolo_coordbifpn: the start is not the pretrained model's: {'; '.join(transfer.problems)}")
    elif change is not None and change > 1e-3:
        logger.warning(
            "yolo_coordbifpn: the start is not the pretrained model's, although every layer has its weights: "
            "this Ultralytics builds a stock layer otherwise than the one that trained them, in its stock models too"
        )
