"""Callbacks of a trainer: every training logs what the blocks do in the run's folder, without a flag.

After each epoch they append the normalised fusion weights to `fusion_weights.csv` and the effects of attention to
`attention.csv`, and add both to the trainer's metrics only while the host's loggers read these, so neither
`results.csv` nor a user's callback sees them. At the end they draw the files and say which blocks have stayed the
identity. The values are those of the averaged model (EMA), which is also the one in the checkpoints. An error here is
logged once and does not stop the training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from ..inspection.epoch_log import EpochLog, logs_of
from .hook import is_on

SETTING = "YOLO_COORDBIFPN_TRAINING_LOG"  # environment variable: 0 or off switches the log off
_logs: WeakKeyDictionary[Any, _Logs] = WeakKeyDictionary()  # by trainer


class _Logs:
    """The logs of one training."""

    def __init__(self, logs: list[EpochLog]) -> None:
        self._logs = logs
        self._lent: dict[str, float] = {}
        self._metrics: Any = None

    def record(self, trainer: Any) -> None:
        """Append the values after an epoch to the files, and warn of fusion weights that are zero."""
        for log in self._logs:
            log.record(int(trainer.epoch) + 1, _model(trainer))
            self._lent |= log.latest
            while log.warnings:
                _logger().warning(f"yolo_coordbifpn: {log.warnings.pop(0)}")

    def lend(self, trainer: Any) -> None:
        """Add the values to the metrics, for the host's loggers to read."""
        if self._lent:
            self._metrics = trainer.metrics
            trainer.metrics = {**(trainer.metrics or {}), **self._lent}

    def take_back(self, trainer: Any) -> None:
        """Give the trainer its own metrics back."""
        if self._lent:
            trainer.metrics, self._metrics, self._lent = self._metrics, None, {}

    def end(self, trainer: Any) -> None:
        """Draw the files, unless the training makes no plots, and say what is to be said at the end."""
        for log in self._logs:
            for sentence in log.end():
                _logger().info(f"yolo_coordbifpn: {sentence}")
            if trainer.args.plots:
                log.draw()


# Callbacks: plain functions, which the host can compare and send to other processes -----------------------------------


def _start(trainer: Any) -> None:
    _logs.pop(trainer, None)
    if is_on(SETTING):
        _guarded(trainer, _begin)


def _record(trainer: Any) -> None:
    _guarded(trainer, _Logs.record)


def _lend(trainer: Any) -> None:
    _guarded(trainer, _Logs.lend)


def _take_back(trainer: Any) -> None:
    _guarded(trainer, _Logs.take_back)


def _end(trainer: Any) -> None:
    _guarded(trainer, _Logs.end)


def _begin(trainer: Any) -> None:
    """Open the logs of a training, if its model has a fusion or attention."""
    logs = logs_of(trainer, _model(trainer))
    if logs:
        _logs[trainer] = _Logs(logs)


def _model(trainer: Any) -> Any:
    """Return the averaged model of a trainer."""
    model = trainer.ema.ema
    return getattr(model, "student_model", model)  # if this is a distillation


def _guarded(trainer: Any, work: Callable[..., None]) -> None:
    """Do a step of the log; if it fails, log a warning and end the log, not the training."""
    logs = _logs.get(trainer)
    if work is not _begin and logs is None:
        return
    try:
        work(trainer) if logs is None else work(logs, trainer)
    except Exception as error:
        _logs.pop(trainer, None)
        _logger().warning(
            f"yolo_coordbifpn: what the blocks do is no longer logged, the training continues: "
            f"{type(error).__name__}: {error}"
        )


BEFORE = {  # by event: added before the host's loggers
    "on_train_start": _start,
    "on_train_epoch_end": _record,  # before the host saves a checkpoint to resume from
    "on_fit_epoch_end": _lend,
}
AFTER = {"on_fit_epoch_end": _take_back, "on_train_end": _end}


def _logger() -> Any:
    from ultralytics.utils import LOGGER

    return LOGGER
