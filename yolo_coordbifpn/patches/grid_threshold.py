"""Patch: at the end of a training, the threshold of a `GridActivation` is chosen on the validation set, and stored.

The host gives each trainer its loggers with `add_integration_callbacks`, in the one process that writes; ours is added
with them. At the end of a training `best.pt` and `last.pt` are complete. Each gets the largest threshold that keeps
99.5 % of the objects with its own weights. An error here is logged, and leaves the checkpoints without a threshold.
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import ModuleType
from typing import Any

from ..blocks.grid import grid_of
from ..errors import HostError
from ..grids.measure import measure, store
from ..grids.report import verdict
from ..host.models import open_model, quiet
from .replacement import Undo, is_replaced, replace


def patch_grid_threshold(callbacks: ModuleType) -> Undo:
    """Choose a threshold at the end of each training of a model with a grid.

    Args:
        callbacks: `ultralytics.utils.callbacks`.

    Returns:
        A function that undoes the patch.

    Raises:
        HostError: If the host does not add its loggers with `add_integration_callbacks`.
    """
    original = getattr(callbacks, "add_integration_callbacks", None)
    if not callable(original):
        raise HostError(f"{callbacks.__name__} has no add_integration_callbacks")

    @functools.wraps(original)
    def add_integration_callbacks(instance: Any) -> None:
        original(instance)
        if any(x.__name__ == "BaseTrainer" for x in type(instance).__mro__):
            events = instance.callbacks["on_train_end"]
            if _choose not in events:
                events.insert(0, _choose)  # before others copy the checkpoints

    return replace(callbacks, "add_integration_callbacks", add_integration_callbacks)


def grid_threshold_holds(callbacks: ModuleType | None) -> bool:
    """Return whether the host's function that adds loggers, as it is now, is ours."""
    return is_replaced(callbacks, "add_integration_callbacks", __name__)


def _choose(trainer: Any) -> None:
    """Choose the thresholds of the checkpoints of a training; a callback."""
    from ultralytics.utils import LOGGER

    model = trainer.ema.ema
    if grid_of(getattr(model, "student_model", model)) is None:
        return
    for file in (Path(x) for x in (trainer.last, trainer.best) if Path(x).is_file()):
        try:
            with quiet():
                found = open_model(file, file.name).model.to(trainer.device)
            curve = measure(found, map(trainer.validator.preprocess, trainer.test_loader))
            threshold = curve.best()
            store(file, threshold)
        except Exception as error:
            LOGGER.warning(
                f"yolo_coordbifpn: {file.name} has no threshold for its grid, so it skips nothing: "
                f"{type(error).__name__}: {error}. yolo-coordbifpn grid model={file} data=... chooses one"
            )
        else:
            LOGGER.info(f"yolo_coordbifpn: {file.name}: {verdict(curve, threshold)} (validation set)")
