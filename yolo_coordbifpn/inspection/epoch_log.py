"""The files that a training with blocks writes, a few rows for each epoch: fusion weights, and effects of attention."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..files import write
from ..graph.layers import pixels
from ..graph.paths import Fusion, fusions
from .attention_plot import COLUMNS as EFFECT_COLUMNS
from .attention_plot import plot_effects
from .effects import Effect, attention_blocks, effects
from .fusion_plot import COLUMNS, plot_fusion_weights


class EpochLog:
    """One file of one training; a resumed training continues its rows.

    Attributes:
        file: The CSV in the run's folder.
        latest: Values of the last recorded epoch by name, for the host's loggers.
        warnings: What is to be said about the epochs so far; the caller removes what it has logged.
    """

    name: str
    columns: list[str]

    def __init__(self, folder: Path, epoch: int) -> None:
        """Keep the rows of the file up to an epoch.

        Args:
            folder: Folder of the run.
            epoch: The number of epochs that are finished.
        """
        self.file = folder / f"{self.name}.csv"
        self.latest: dict[str, float] = {}
        self.warnings: list[str] = []
        self._epoch = epoch
        self._keep(epoch)

    def record(self, epoch: int, model: Any) -> None:
        """Append the values of a model after an epoch; if the epoch is repeated, its earlier rows are dropped."""
        if epoch <= self._epoch:  # the host repeats an epoch that diverged to NaN
            self._keep(epoch - 1)
        self._epoch = epoch
        rows = [[epoch, *row] for row in self.measure(epoch, model)]
        with self.file.open("a", encoding="utf-8", newline="") as stream:
            stream.write(_csv(rows))

    def measure(self, epoch: int, model: Any) -> list[list[Any]]:
        """Return the rows of an epoch without their first column, and set `latest`."""
        raise NotImplementedError

    def draw(self) -> None:
        """Draw the whole file beside it."""
        raise NotImplementedError

    def end(self) -> list[str]:
        """Return what is to be said at the end of the training."""
        return []

    def _keep(self, epoch: int) -> None:
        write(self.file, _csv([self.columns, *_rows_until(self.file, len(self.columns), epoch)]))


class FusionLog(EpochLog):
    """`fusion_weights.csv`: the normalised weight of each input of each fusion."""

    name, columns = "fusion_weights", COLUMNS

    def __init__(self, folder: Path, epoch: int) -> None:
        """Keep the rows of the file up to an epoch, see `EpochLog`."""
        super().__init__(folder, epoch)
        self._model: Any = None
        self._nodes: list[Fusion] = []
        self._dead: set[tuple[int, str]] = set()

    def measure(self, epoch: int, model: Any) -> list[list[Any]]:
        """Return the rows of an epoch, and add to `warnings` the weights that have become 0."""
        rows: list[list[Any]] = []
        if self._model is not model:  # the host makes a new one when it goes back after a NaN
            self._model, self._nodes = model, fusions(model)
        for node in self._nodes:
            for name, weight in node.shares:
                rows.append([node.layer, node.name, name, f"{weight:.6g}"])
                self.latest[f"fusion/layer{node.layer}_{node.name}/{name}".replace(" ", "_")] = weight
                self._note_zero(node, name, weight, epoch)
        return rows

    def draw(self) -> None:
        """Draw the weights by epoch."""
        plot_fusion_weights(self.file, self.file.with_suffix(".png"))

    def _note_zero(self, node: Fusion, name: str, weight: float, epoch: int) -> None:
        """Add a warning once when a weight has become zero, where it no longer gets a gradient."""
        if weight != 0:
            self._dead.discard((node.layer, name))
        elif (node.layer, name) not in self._dead:
            self._dead.add((node.layer, name))
            self.warnings.append(
                f"from epoch {epoch} on {node} no longer reads {name!r}: its fusion weight is 0, where the ReLU gives "
                "it no gradient"
            )


class AttentionLog(EpochLog):
    """`attention.csv`: what each attention block does to the features of one image, see `effects`."""

    name, columns = "attention", EFFECT_COLUMNS

    def __init__(self, folder: Path, epoch: int, image: Tensor) -> None:
        """Log the effects on this image; of the other arguments see `EpochLog`."""
        super().__init__(folder, epoch)
        self._image = image
        self._last: list[Effect] = []

    def measure(self, epoch: int, model: Any) -> list[list[Any]]:
        """Return the rows of an epoch."""
        parameter = next(model.parameters())
        self._last = effects(model, self._image.to(parameter.device, parameter.dtype))
        rows: list[list[Any]] = []
        for x in self._last:
            values = {"change": x.change, "channel_low": x.low, "channel_high": x.high, "within_map": x.within}
            rows.append([x.layer, x.name, *("" if v is None else f"{v:.6g}" for v in values.values())])
            place = f"attention/layer{x.layer}_{x.name}".replace(" ", "_")
            self.latest |= {f"{place}/{k}": v for k, v in values.items() if v is not None}
        return rows

    def draw(self) -> None:
        """Draw the effects by epoch."""
        plot_effects(self.file, self.file.with_suffix(".png"))

    def end(self) -> list[str]:
        """Name the blocks that have stayed the identity."""
        asleep = [x for x in self._last if x.asleep]
        if not asleep:
            return []
        names = ", ".join(map(str, asleep[:4])) + (f" and {len(asleep) - 4} more" if len(asleep) > 4 else "")
        most = max(x.change for x in asleep)
        return [
            f"{names} {'has' if len(asleep) == 1 else 'have'} stayed the identity: the output differs by at most "
            f"{most:.1%} from the input. The model is the stock model there; a longer training, a higher learning rate "
            "or a training from scratch moves a block more"
        ]


def logs_of(trainer: Any, model: Any) -> list[EpochLog]:
    """Make the logs of a training, and remove the files of an earlier one in the same folder that has no log now.

    Args:
        trainer: A trainer of the host, before its first epoch.
        model: The model whose values are logged.
    """
    folder, epoch = Path(trainer.save_dir), int(trainer.start_epoch)
    found: list[EpochLog] = []
    if fusions(model):
        found.append(FusionLog(folder, epoch))
    if attention_blocks(model):
        found.append(AttentionLog(folder, epoch, _image(trainer, model)))
    if not epoch:  # with exist_ok=True, the files may be there
        for name in {FusionLog.name, AttentionLog.name} - {x.name for x in found}:
            for suffix in (".csv", ".png"):
                (folder / f"{name}{suffix}").unlink(missing_ok=True)
    return found


def _image(trainer: Any, model: Any) -> Tensor:
    """Return the first image of the validation data as the model gets it, random pixels if there is none."""
    dataset = getattr(getattr(trainer, "test_loader", None), "dataset", None)
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):  # the host's transforms draw numbers, and the training must not change
        item: Any = dataset[0] if dataset is not None and len(dataset) else None
    random.setstate(before[0])
    np.random.set_state(before[1])
    image = item.get("img") if isinstance(item, dict) else None
    if not isinstance(image, Tensor) or image.ndim != 3:
        return pixels(model)
    return (image.float() / 255 if image.dtype == torch.uint8 else image.float())[None]


def _rows_until(file: Path, columns: int, epoch: int) -> list[list[str]]:
    """Read the complete rows up to an epoch; the last one may be cut if the process was killed."""
    if not file.is_file() or not epoch:
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.reader(stream) if len(row) == columns]
    return [row for row in rows if row[0].isdecimal() and int(row[0]) <= epoch]


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
