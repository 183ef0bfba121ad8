"""Exact resume: a training that is interrupted and resumed gives the same numbers as one that is not.

The host's checkpoints are not enough for that: they contain the averaged model in half precision. So the whole state is
saved after each epoch, and the random numbers of an epoch depend only on the seed and the epoch. The numbers are exact
with `workers=0` and an optimizer that steps at every batch (`nbs` <= `batch`).
"""

from __future__ import annotations

import io
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import write
from .transfers import TransferCount

_HOST_FILES = ("weights/last.pt", "weights/best.pt", "results.csv", "args.yaml")


class ResumeState:
    """The whole state of a training after its last complete epoch, saved in one file by the host's callbacks.

    Attributes:
        state: Contents of the file at the start, empty if there was none.
        seconds: Duration of each complete epoch.
        memory: Peak memory of the training, MiB.
        batch: Images in a batch, fewer than was asked for if the host found that they do not fit the memory.
        transfers: How many pretrained items were transferred.
    """

    def __init__(self, file: Path, seed: int) -> None:
        """Read the state from its file if there is one."""
        self.file = file
        self.seed = seed
        self.state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True) if file.is_file() else {}
        self.seconds: list[float] = list(self.state.get("seconds", []))
        self.memory = float(self.state.get("memory", 0))
        self.batch = int(self.state.get("batch", 0))
        self.transfers = TransferCount()
        self.transfers.items = self.state.get("transferred", "")
        self._epoch_start: float | None = None

    @property
    def finished(self) -> bool:
        """Return whether the training had ended when the state was saved."""
        return bool(self.state.get("finished"))

    def restore_files(self, folder: Path) -> Path:
        """Restore the host's files of the last complete epoch; return the checkpoint to resume from."""
        for name, content in self.state["files"].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write(folder / name, content)
        return folder / "weights" / "last.pt"

    def on_train_start(self, trainer: Any) -> None:
        """Set the exact state of the interrupted training in a resumed one."""
        self._seed_after_reset(trainer)
        if not self.state:
            return
        trainer.model.load_state_dict(self.state["model"])
        trainer.ema.ema.load_state_dict(self.state["ema"])
        trainer.ema.updates = self.state["updates"]
        trainer.optimizer.load_state_dict(self.state["optimizer"])
        trainer.scaler.load_state_dict(self.state["scaler"])
        for name, value in self.state["stopper"].items():
            setattr(trainer.stopper, name, value)
        trainer.best_fitness = self.state["best_fitness"]

    def on_train_epoch_start(self, trainer: Any) -> None:
        """Seed the random numbers of the epoch."""
        self._epoch_start = time.perf_counter()
        self._set_seed(trainer)
        _clear_mosaic_buffer(trainer.train_loader.dataset)

    def on_fit_epoch_end(self, trainer: Any) -> None:
        """Save the state after a complete epoch, with the host's files as they are now.

        The last epoch is saved by `finish`: what follows it, such as the choice of a grid's threshold, is part of it.
        """
        if self._epoch_start is None:  # called once more after the final validation
            return
        self.seconds.append(time.perf_counter() - self._epoch_start)
        self._epoch_start = None
        self.memory = max(self.memory, _peak_memory(str(trainer.device)))
        self.batch = int(trainer.batch_size)
        if trainer.stop or trainer.epoch + 1 >= trainer.epochs:
            return
        self._save(
            Path(trainer.save_dir),
            model=trainer.model.state_dict(),
            ema=trainer.ema.ema.state_dict(),
            updates=trainer.ema.updates,
            optimizer=trainer.optimizer.state_dict(),
            scaler=trainer.scaler.state_dict(),
            stopper={k: v for k, v in vars(trainer.stopper).items() if k in ("best_fitness", "best_epoch")},
            best_fitness=trainer.best_fitness,
        )

    def finish(self, folder: Path) -> None:
        """Save the host's files of a training that has ended; it will not be resumed."""
        self._save(folder, finished=True)

    def _save(self, folder: Path, **state: Any) -> None:
        state |= {
            "seconds": self.seconds,
            "transferred": self.transfers.items,
            "memory": self.memory,
            "batch": self.batch,
            "files": {x: (folder / x).read_bytes() for x in _HOST_FILES if (folder / x).is_file()},
        }
        stream = io.BytesIO()
        torch.save(state, stream)
        write(self.file, stream.getvalue())

    def _seed_after_reset(self, trainer: Any) -> None:
        """Set the seed again whenever the host resets its loader: when mosaic ends, and in the first resumed epoch."""
        loader = trainer.train_loader
        if not hasattr(loader, "reset"):
            return
        reset = loader.reset

        def reset_and_seed() -> None:
            reset()
            self._set_seed(trainer)

        loader.reset = reset_and_seed

    def _set_seed(self, trainer: Any) -> None:
        """Set all random number generators from the seed and the epoch."""
        loader = trainer.train_loader
        if loader.num_workers == 0 and hasattr(
            loader, "iterator"
        ):  # an iterator that was used draws more numbers than a new one
            loader.iterator = loader._get_iterator()
        number = (self.seed * 100_003 + trainer.epoch) % 2**31
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        generator = getattr(loader, "generator", None)
        if generator is not None:
            generator.manual_seed(number)


def _clear_mosaic_buffer(dataset: Any) -> None:
    """Empty the host's buffer of recent images, which mosaics are made from, as at the start of a training."""
    buffer = getattr(dataset, "buffer", None)
    if isinstance(buffer, list) and getattr(dataset, "cache", None) != "ram":
        for i in buffer:
            dataset.ims[i] = dataset.im_hw0[i] = dataset.im_hw[i] = None
        buffer.clear()


def _peak_memory(device: str) -> float:
    """Return the peak memory in MiB: of the GPU, or of this process on a CPU."""
    if device != "cpu" and torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        import psutil

        return round(psutil.Process().memory_info().peak_wset / 2**20, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
