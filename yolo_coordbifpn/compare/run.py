"""One run of a comparison: the host's own training of one model with one seed, measured; goes on where it was cut off.

    python -m yolo_coordbifpn.compare.run FOLDER INDEX DEVICE

Every epoch begins with random numbers of its own, from the seed and the epoch. So all models of a seed see the same
pictures in the same order with the same augmentation, which pairs them; and with `workers=0` a run that was cut off and
goes on comes to the very numbers of one that was not (where the optimizer steps at every batch, `nbs` <= `batch`). The
host's checkpoints alone cannot do that: they hold the averaged model in half precision.
"""

from __future__ import annotations

import json
import logging
import platform
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

import yolo_coordbifpn

from ..files import write
from ..host.machine import machine
from ..host.models import open_model
from .plan import Plan, Run
from .validation import validate

_TRANSFERRED = re.compile(r"Transferred (\d+)/(\d+) items|yolo_coordbifpn: (\d+) of (\d+) pretrained items kept")


def run(folder: Path, index: int, device: str) -> None:
    """Train, validate and measure one run of a plan, and write its `result.json`.

    Args:
        folder: Folder of the plan.
        index: Index of the run.
        device: As the host takes it: `cpu`, `0`, ...
    """
    plan = Plan.read(folder)
    trial = plan.runs[index]
    trial.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(trial.folder / "run.lock"):  # if another process still works on it, what it comes to is ours too
        for part in trial.folder.rglob("*.part"):  # of a process that was killed while it wrote
            part.unlink()
        if trial.result is None:
            best, training = _train(plan, trial, device)
            measured = {**training, **validate(plan, trial, best, device)}
            write(trial.folder / "result.json", json.dumps({**_who(trial), **measured}, indent=2))
        (trial.folder / "cut.pt").unlink(missing_ok=True)


# Training -------------------------------------------------------------------------------------------------------------


class _Record:
    """What a run must not lose: after each epoch the whole state of the training, as one file."""

    def __init__(self, trial: Run, setting_up: FileLock) -> None:
        self.setting_up = setting_up
        self.file = trial.folder / "cut.pt"
        self.seed = trial.seed
        self.state: dict[str, Any] = {}
        if self.file.is_file():
            self.state = torch.load(self.file, map_location="cpu", weights_only=True)
        self.seconds: list[float] = list(self.state.get("seconds", []))
        self.transferred = self.state.get("transferred")
        self.memory = float(self.state.get("memory", 0))  # the most that was taken, MiB
        self._begun = 0.0

    def put_back(self, folder: Path) -> Path:
        """Write the host's own files as they were after the last whole epoch; return the checkpoint to go on from."""
        for name, content in self.state["files"].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write(folder / name, content)
        return folder / "weights" / "last.pt"

    def on_train_start(self, trainer: Any) -> None:
        """Let the next run set up; give a resumed training the exact state of the one that was cut off."""
        self.setting_up.release()
        loader = trainer.train_loader
        if hasattr(loader, "reset"):  # called in the epoch that closes mosaic, and in the first one after a resume
            reset = loader.reset

            def reset_and_seed() -> None:
                reset()
                self._draw_from(trainer)

            loader.reset = reset_and_seed
        if not self.state:
            return
        trainer.model.load_state_dict(self.state["model"])
        trainer.ema.ema.load_state_dict(self.state["ema"])
        trainer.ema.updates = self.state["updates"]
        trainer.optimizer.load_state_dict(self.state["optimizer"])
        trainer.scaler.load_state_dict(self.state["scaler"])
        trainer.stopper.__dict__.update(self.state["stopper"])
        trainer.best_fitness = self.state["best_fitness"]

    def on_train_epoch_start(self, trainer: Any) -> None:
        """Begin the epoch with random numbers of its own."""
        self._begun = time.perf_counter()
        self._draw_from(trainer)
        _forget_pictures(trainer.train_loader.dataset)

    def _draw_from(self, trainer: Any) -> None:
        """Set all random numbers by the seed and the epoch."""
        loader = trainer.train_loader
        if loader.num_workers == 0 and hasattr(loader, "iterator"):  # one that goes on draws more than a new one
            loader.iterator = loader._get_iterator()
        number = (self.seed * 100_003 + trainer.epoch) % 2**31
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        generator = getattr(loader, "generator", None)
        if generator is not None:
            generator.manual_seed(number)

    def on_fit_epoch_end(self, trainer: Any) -> None:
        """Save the state after a whole epoch, with the host's files as they are now."""
        if not self._begun:  # called once more after the final validation
            return
        self.seconds.append(time.perf_counter() - self._begun)
        self._begun = 0.0
        self.memory = max(self.memory, _peak_memory(str(trainer.device)))
        folder = Path(trainer.save_dir)
        files = ("weights/last.pt", "weights/best.pt", "results.csv", "args.yaml")
        state = {
            "epoch": trainer.epoch,
            "finished": bool(trainer.stop) or trainer.epoch + 1 >= trainer.epochs,
            "seconds": self.seconds,
            "transferred": self.transferred,
            "memory": self.memory,
            "files": {x: (folder / x).read_bytes() for x in files if (folder / x).is_file()},
            "model": trainer.model.state_dict(),
            "ema": trainer.ema.ema.state_dict(),
            "updates": trainer.ema.updates,
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "stopper": {k: v for k, v in vars(trainer.stopper).items() if k in ("best_fitness", "best_epoch")},
            "best_fitness": trainer.best_fitness,
        }
        part = self.file.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.file)


def _forget_pictures(dataset: Any) -> None:
    """Empty the host's buffer of recent pictures, from which mosaics are drawn, as it is when a training begins."""
    buffer = getattr(dataset, "buffer", None)
    if isinstance(buffer, list) and getattr(dataset, "cache", None) != "ram":
        for i in buffer:
            dataset.ims[i] = dataset.im_hw0[i] = dataset.im_hw[i] = None
        buffer.clear()


class _Listener(logging.Handler):
    """Catches from the host's log how many pretrained items came along."""

    def __init__(self, record: _Record) -> None:
        super().__init__()
        self.record = record
        self.ours = False

    def emit(self, record: logging.LogRecord) -> None:
        """Remember the line of ours if there is one, else the host's."""
        match = _TRANSFERRED.search(record.getMessage())
        if match and (match[3] or not self.ours):
            self.ours = bool(match[3])
            self.record.transferred = "/".join(x for x in match.groups() if x)


def _train(plan: Plan, trial: Run, device: str) -> tuple[Path, dict[str, Any]]:
    """Train a run to its end; return its best checkpoint, and what the training took."""
    from ultralytics.utils import LOGGER

    # one at a time until the training begins: two that write the host's list of labels at once trip over each other
    record = _Record(trial, FileLock(plan.folder / "setting_up.lock"))
    listener = _Listener(record)
    if not record.state:  # going on, the host reports its own checkpoint
        LOGGER.addHandler(listener)
    folder = trial.folder / "train"
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if record.state:
        last = record.put_back(folder)
    if not record.state.get("finished"):
        record.setting_up.acquire()
        model = open_model(last if record.state else trial.model, trial.model)
        for event in ("on_train_start", "on_train_epoch_start", "on_fit_epoch_end"):
            model.add_callback(event, getattr(record, event))
        if record.state:
            model.train(resume=True, device=device)
        else:
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was cut off in its first epoch
            where = {"project": str(trial.folder), "name": "train", "exist_ok": True}
            model.train(**{"plots": False, **plan.train, **where, "seed": trial.seed, "device": device})
    LOGGER.removeHandler(listener)
    return folder / "weights" / "best.pt", {
        "epochs": len(record.seconds),
        "train_seconds": round(sum(record.seconds), 2),
        "peak_memory_mib": record.memory,
        "items": record.transferred or "",
    }


def _peak_memory(device: str) -> float:
    """Return the most memory that was taken, in MiB: of the GPU, or of this process on a CPU."""
    if device != "cpu" and torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        import psutil

        return round(psutil.Process().memory_info().peak_wset / 2**20, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def _who(trial: Run) -> dict[str, Any]:
    """Say what was run, with which versions, and where."""
    import ultralytics

    return {
        "model": trial.label,
        "seed": trial.seed,
        "ultralytics": ultralytics.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "yolo_coordbifpn": yolo_coordbifpn.__version__,
        "commit": _commit(),
        "machine": machine(),
    }


def _commit() -> str:
    """Return the commit of this package's checkout, empty if it is installed from a wheel."""
    root = Path(yolo_coordbifpn.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
