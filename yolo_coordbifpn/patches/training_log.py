"""Patch: during every training the run's folder tells how the fusions weigh their inputs, with no flag.

The host gives each trainer its loggers (TensorBoard, Weights & Biases, MLflow, ...) by `add_integration_callbacks`, in
the one process that writes. Ours goes with them: after each epoch the normalised weights are added to
`fusion_weights.csv`, and stand in the trainer's metrics for just as long as the host's loggers read them, so that
neither `results.csv` nor a user's callback ever sees them; at the end they are drawn as `fusion_weights.png`. The
weights are those of the averaged model (EMA), which the checkpoints hold. Whatever goes wrong here is told once and
does not touch the training.
"""

from __future__ import annotations

import csv
import functools
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from ..errors import HostError
from ..files import write
from ..graph.paths import Fusion, fusions
from ..inspection.fusion_plot import COLUMNS, plot_fusion_weights
from .replacement import Undo, is_replaced, replace

SETTING = "YOLO_COORDBIFPN_FUSION_LOG"  # 0 switches the log off
_logs: WeakKeyDictionary[Any, _FusionLog] = WeakKeyDictionary()  # by trainer


def patch_training_log(callbacks: ModuleType) -> Undo:
    """Let each trainer of the host have our log beside the host's own loggers.

    Args:
        callbacks: `ultralytics.utils.callbacks`.

    Returns:
        A function that undoes the patch.

    Raises:
        HostError: If the host registers its loggers another way.
    """
    original = getattr(callbacks, "add_integration_callbacks", None)
    if not callable(original):
        raise HostError(f"{callbacks.__name__} has no add_integration_callbacks")

    @functools.wraps(original)
    def add_integration_callbacks(instance: Any) -> None:
        trains = any(x.__name__ == "BaseTrainer" for x in type(instance).__mro__)
        if trains:
            _add(instance, "on_train_start", _start)
            _add(instance, "on_train_epoch_end", _record)  # before the host saves a checkpoint to resume from
            _add(instance, "on_fit_epoch_end", _lend)
        original(instance)
        if trains:
            _add(instance, "on_fit_epoch_end", _take_back)
            _add(instance, "on_train_end", _draw)

    return replace(callbacks, "add_integration_callbacks", add_integration_callbacks)


def training_log_holds(callbacks: ModuleType | None) -> bool:
    """Return whether the host's function that adds loggers, as it is now, is ours."""
    return is_replaced(callbacks, "add_integration_callbacks", __name__)


class _FusionLog:
    """The log of one training.

    Attributes:
        file: `fusion_weights.csv` in the run's folder.
    """

    def __init__(self, trainer: Any, nodes: list[Fusion]) -> None:
        self.file = Path(trainer.save_dir) / "fusion_weights.csv"
        self._nodes = nodes
        self._epoch = int(trainer.start_epoch)  # the last one that is written down
        self._dead: set[tuple[int, str]] = set()
        self._lent: dict[str, float] = {}
        self._metrics: Any = None
        self._keep(self._epoch)  # a resumed training goes on with its own rows

    def record(self, trainer: Any) -> None:
        """Add the weights after an epoch to the file; tell of those that have died."""
        epoch = int(trainer.epoch) + 1
        if epoch <= self._epoch:  # the host trains an epoch again that came to NaN
            self._keep(epoch - 1)
        self._epoch = epoch
        rows = []
        for node in self._nodes:
            for name, weight in node.shares:
                rows.append([epoch, node.layer, node.name, name, f"{weight:.6g}"])
                self._lent[f"fusion/layer{node.layer}_{node.name}/{name}".replace(" ", "_")] = weight
                self._tell_dead(node, name, weight, epoch)
        with self.file.open("a", encoding="utf-8", newline="") as stream:
            stream.write(_csv(rows))

    def lend(self, trainer: Any) -> None:
        """Put the weights among the metrics, for the host's loggers to read."""
        if self._lent:
            self._metrics = trainer.metrics
            trainer.metrics = {**(trainer.metrics or {}), **self._lent}

    def take_back(self, trainer: Any) -> None:
        """Give the trainer its own metrics again."""
        if self._lent:
            trainer.metrics, self._metrics, self._lent = self._metrics, None, {}

    def draw(self, trainer: Any) -> None:
        """Draw the whole file, unless the training is to make no plots."""
        if trainer.args.plots:
            plot_fusion_weights(self.file, self.file.with_suffix(".png"))

    def _keep(self, epoch: int) -> None:
        """Keep of the file what there is up to an epoch."""
        write(self.file, _csv([COLUMNS, *_rows_until(self.file, epoch)]))

    def _tell_dead(self, node: Fusion, name: str, weight: float, epoch: int) -> None:
        """Say it once in the log when a weight has come to zero, where it gets no gradient any more."""
        if weight != 0:
            self._dead.discard((node.layer, name))
        elif (node.layer, name) not in self._dead:
            self._dead.add((node.layer, name))
            _logger().warning(
                f"yolo_coordbifpn: from epoch {epoch} on {node} does not read {name!r} any more: its fusion weight has "
                "come to 0, where the ReLU gives it no gradient"
            )


# Callbacks: plain functions, which the host can compare and send to other processes -----------------------------------


def _start(trainer: Any) -> None:
    _logs.pop(trainer, None)
    if os.environ.get(SETTING, "1") != "0":
        _guarded(trainer, _begin)


def _record(trainer: Any) -> None:
    _guarded(trainer, _FusionLog.record)


def _lend(trainer: Any) -> None:
    _guarded(trainer, _FusionLog.lend)


def _take_back(trainer: Any) -> None:
    _guarded(trainer, _FusionLog.take_back)


def _draw(trainer: Any) -> None:
    _guarded(trainer, _FusionLog.draw)


def _begin(trainer: Any) -> None:
    """Open the log of a training, if its model has a fusion."""
    model = trainer.ema.ema
    nodes = fusions(getattr(model, "student_model", model))  # of a distillation
    if nodes:
        _logs[trainer] = _FusionLog(trainer, nodes)


def _guarded(trainer: Any, work: Callable[..., None]) -> None:
    """Do a step of the log; if it fails, say so and end the log, not the training."""
    log = _logs.get(trainer)
    if work is not _begin and log is None:
        return
    try:
        work(trainer) if log is None else work(log, trainer)
    except Exception as error:
        _logs.pop(trainer, None)
        _logger().warning(
            f"yolo_coordbifpn: the fusion weights are not logged any more, the training goes on: "
            f"{type(error).__name__}: {error}"
        )


def _add(trainer: Any, event: str, function: Callable[[Any], None]) -> None:
    """Add a callback that is not there yet."""
    if function not in trainer.callbacks[event]:
        trainer.callbacks[event].append(function)


def _logger() -> Any:
    from ultralytics.utils import LOGGER

    return LOGGER


def _rows_until(file: Path, epoch: int) -> list[list[str]]:
    """Read the whole rows that there are up to an epoch; a kill may have cut the last one."""
    if not file.is_file() or not epoch:
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.reader(stream) if len(row) == len(COLUMNS)]
    return [row for row in rows if row[0].isdecimal() and int(row[0]) <= epoch]


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
