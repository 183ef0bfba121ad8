"""Callback of a trainer: the threshold of a `GridActivation` is chosen on the validation set, and stored.

At the end of a training `best.pt` and `last.pt` are complete. Each gets the largest threshold that keeps
99.5 % of the objects with its own weights. An error here is logged, and leaves the checkpoints without a threshold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..blocks.grid import grid_of
from ..grids.measure import measure, store
from ..grids.report import verdict
from ..host.models import open_model, quiet


def choose(trainer: Any) -> None:
    """Choose the thresholds of the checkpoints of a training; a callback."""
    from ultralytics.utils import LOGGER

    model = trainer.ema.ema
    if grid_of(getattr(model, "student_model", model)) is None:
        return
    for file in (Path(x) for x in (trainer.last, trainer.best) if Path(x).is_file()):
        try:
            with quiet():
                found = open_model(file).model.to(trainer.device)
            curve = measure(found, map(trainer.validator.preprocess, _whole(trainer)))
            threshold = curve.best()
            store(file, threshold)
        except Exception as error:
            LOGGER.warning(
                f"yolo_coordbifpn: {file.name} has no threshold for its grid, so it skips nothing: "
                f"{type(error).__name__}: {error}. yolo-coordbifpn grid model={file} data=... chooses one"
            )
        else:
            LOGGER.info(f"yolo_coordbifpn: {file.name}: {verdict(curve, threshold)} (validation set)")


def _whole(trainer: Any) -> Any:
    """Return batches of the whole validation set, of which a process of several GPUs has a part."""
    loader = trainer.test_loader
    sampler = getattr(loader, "sampler", None)
    if sampler is None or len(sampler) == len(loader.dataset):
        return loader
    return trainer.get_dataloader(trainer.data[trainer.args.split], batch_size=loader.batch_size, rank=-1, mode="val")
