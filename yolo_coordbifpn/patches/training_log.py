"""Patch: every training logs the fusion weights in the run's folder, without a flag.

The host gives each trainer its loggers (TensorBoard, Weights & Biases, MLflow, ...) with `add_integration_callbacks`,
in the one process that writes. Ours is added with them. After each epoch it appends the normalised weights to
`fusion_weights.csv` and adds them to the trainer's metrics only while the host's loggers read these, so neither
`results.csv` nor a user's callback sees them. At the end it draws them as `fusion_weights.png`. The weights are those
of the averaged model (EMA), which is also the one in the checkpoints. An error here is logged once and does not stop
the training.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from ..errors import HostError
from ..files import write
from ..graph.paths import Fusion, fusions
from ..inspection.fusion_plot import COLUMNS, plot_fusion_weights
from .hook import is_on
from .replacement import Undo, is_replaced, replace

SETTING = "YOLO_COORDBIFPN_FUSION_LOG"  # environment variable: 0 or off switches the log off
_logs: WeakKeyDictionary[Any, _FusionLog] = WeakKeyDictionary()  # by trainer


def patch_training_log(callbacks: ModuleType) -> Undo:
    """Give each trainer of the host our log besides the host's own loggers.

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
        self._epoch = int(trainer.start_epoch)  # the last one that is logged
        self._dead: set[tuple[int, str]] = set()
        self._lent: dict[str, float] = {}
        self._metrics: Any = None
        self._keep(self._epoch)  # a resumed training continues its own rows

    def record(self, trainer: Any) -> None:
        """Append the weights after an epoch to the file, and warn of those that are zero."""
        epoch = int(trainer.epoch) + 1
        if epoch <= self._epoch:  # the host repeats an epoch that diverged to NaN
            self._keep(epoch - 1)
        self._epoch = epoch
        rows = []
        for node in self._nodes:
            for name, weight in node.shares:
                rows.append([epoch, node.layer, node.name, name, f"{weight:.6g}"])
                self._lent[f"fusion/layer{node.layer}_{node.name}/{name}".replace(" ", "_")] = weight
                self._warn_of_zero(node, name, weight, epoch)
        with self.file.open("a", encoding="utf-8", newline="") as stream:
            stream.write(_csv(rows))

    def lend(self, trainer: Any) -> None:
        """Add the weights to the metrics, for the host's loggers to read."""
        if self._lent:
            self._metrics = trainer.metrics
            trainer.metrics = {**(trainer.metrics or {}), **self._lent}

    def take_back(self, trainer: Any) -> None:
        """Give the trainer its own metrics back."""
        if self._lent:
            trainer.metrics, self._metrics, self._lent = self._metrics, None, {}

    def draw(self, trainer: Any) -> None:
        """Draw the whole file, unless the training makes no plots."""
        if trainer.args.plots:
            plot_fusion_weights(self.file, self.file.with_suffix(".png"))

    def _keep(self, epoch: int) -> None:
        """Keep the rows of the file up to an epoch."""
        write(self.file, _csv([COLUMNS, *_rows_until(self.file, epoch)]))

    def _warn_of_zero(self, node: Fusion, name: str, weight: float, epoch: int) -> None:
        """Warn once when a weight has become zero, where it no longer gets a gradient."""
        if weight != 0:
            self._dead.discard((node.layer, name))
        elif (node.layer, name) not in self._dead:
            self._dead.add((node.layer, name))
            _logger().warning(
                f"yolo_coordbifpn: from epoch {epoch} on {node} no longer reads {name!r}: its fusion weight is 0, "
                "where the ReLU gives it no gradient"
            )


# Callbacks: plain functions, which the host can compare and send to other processes -----------------------------------


def _start(trainer: Any) -> None:
    _logs.pop(trainer, None)
    if is_on(SETTING):
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
    nodes = fusions(getattr(model, "student_model", model))  # if this is a distillation
    if not nodes and not trainer.start_epoch:  # with exist_ok=True, files of an earlier training may be there
        for name in ("fusion_weights.csv", "fusion_weights.png"):
            (Path(trainer.save_dir) / name).unlink(missing_ok=True)
    if nodes:
        _logs[trainer] = _FusionLog(trainer, nodes)


def _guarded(trainer: Any, work: Callable[..., None]) -> None:
    """Do a step of the log; if it fails, log a warning and end the log, not the training."""
    log = _logs.get(trainer)
    if work is not _begin and log is None:
        return
    try:
        work(trainer) if log is None else work(log, trainer)
    except Exception as error:
        _logs.pop(trainer, None)
        _logger().warning(
            f"yolo_coordbifpn: the fusion weights are no longer logged, the training continues: "
            f"{type(error).__name__}: {error}"
        )


def _add(trainer: Any, event: str, function: Callable[[Any], None]) -> None:
    """Add a callback unless it is there already."""
    if function not in trainer.callbacks[event]:
        trainer.callbacks[event].append(function)


def _logger() -> Any:
    from ultralytics.utils import LOGGER

    return LOGGER


def _rows_until(file: Path, epoch: int) -> list[list[str]]:
    """Read the complete rows up to an epoch; the last one may be cut if the process was killed."""
    if not file.is_file() or not epoch:
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.reader(stream) if len(row) == len(COLUMNS)]
    return [row for row in rows if row[0].isdecimal() and int(row[0]) <= epoch]


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
