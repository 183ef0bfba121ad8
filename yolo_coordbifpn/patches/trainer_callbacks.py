"""Patch: each trainer of the host gets our callbacks besides the host's own loggers.

The host gives each trainer its loggers (TensorBoard, Weights & Biases, MLflow, ...) with `add_integration_callbacks`,
in the one process that writes. Ours are added with them: the log of what the blocks do, and the choice of a threshold.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from ..errors import HostError
from .replacement import Undo, is_replaced, replace


def patch_trainer_callbacks(callbacks: ModuleType) -> Undo:
    """Give each trainer of the host our callbacks.

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
        if not any(x.__name__ == "BaseTrainer" for x in type(instance).__mro__):
            original(instance)
            return
        from . import grid_threshold, training_log  # what only a training needs does not slow down every start

        events = instance.callbacks
        for event, function in training_log.BEFORE.items():
            _add(events[event], function, len(events[event]))
        original(instance)
        for event, function in training_log.AFTER.items():
            _add(events[event], function, len(events[event]))
        _add(events["on_train_end"], grid_threshold.choose, 0)  # before others copy the checkpoints

    return replace(callbacks, "add_integration_callbacks", add_integration_callbacks)


def trainer_callbacks_hold(callbacks: ModuleType | None) -> bool:
    """Return whether the host's function that adds loggers, as it is now, is ours."""
    return is_replaced(callbacks, "add_integration_callbacks", __name__)


def _add(functions: list[Any], function: Any, place: int) -> None:
    """Add a callback unless it is there already."""
    if function not in functions:
        functions.insert(place, function)
