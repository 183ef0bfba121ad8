"""One run of a comparison: the host's own training of one model with one seed, measured; goes on where it was cut off.

    python -m yolo_coordbifpn.host.trial FOLDER INDEX DEVICE

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
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

import yolo_coordbifpn

from ..compare.plan import Plan, Run, write

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
    lock = FileLock(trial.folder / "run.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        lock.acquire()  # another process still works on it; what it comes to is ours too
    with lock:
        if trial.result is None:
            best, training = _train(plan, trial, device)
            measured = {**training, **_validate(plan, trial, best, device)}
            write(trial.folder / "result.json", json.dumps({**_who(trial), **measured}, indent=2))
        (trial.folder / "cut.pt").unlink(missing_ok=True)


# Training -------------------------------------------------------------------------------------------------------------


class _Record:
    """What a run must not lose: after each epoch the whole state of the training, as one file."""

    def __init__(self, trial: Run) -> None:
        self.file = trial.folder / "cut.pt"
        self.seed = trial.seed
        self.state: dict[str, Any] = {}
        if self.file.is_file():
            self.state = torch.load(self.file, map_location="cpu", weights_only=False)
        self.seconds: list[float] = list(self.state.get("seconds", []))
        self.transferred = self.state.get("transferred")
        self._begun = 0.0

    def put_back(self, folder: Path) -> Path:
        """Write the host's own files as they were after the last whole epoch; return the checkpoint to go on from."""
        for name, content in self.state["files"].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write(folder / name, content)
        return folder / "weights" / "last.pt"

    def on_train_start(self, trainer: Any) -> None:
        """Give a resumed training the exact state of the one that was cut off."""
        if not self.state:
            return
        loader = trainer.train_loader
        if getattr(loader, "iterator", 0) is None:  # newer hosts make it when it is first used
            loader.iterator = loader._get_iterator()
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
        number = (self.seed * 100_003 + trainer.epoch) % 2**31
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        generator = getattr(trainer.train_loader, "generator", None)
        if generator is not None:
            generator.manual_seed(number)
        _forget_pictures(trainer.train_loader.dataset)

    def on_fit_epoch_end(self, trainer: Any) -> None:
        """Save the state after a whole epoch, with the host's files as they are now."""
        if not self._begun:  # called once more after the final validation
            return
        self.seconds.append(time.perf_counter() - self._begun)
        self._begun = 0.0
        folder = Path(trainer.save_dir)
        files = ("weights/last.pt", "weights/best.pt", "results.csv", "args.yaml")
        state = {
            "epoch": trainer.epoch,
            "finished": bool(trainer.stop) or trainer.epoch + 1 >= trainer.epochs,
            "seconds": self.seconds,
            "transferred": self.transferred,
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

    def emit(self, record: logging.LogRecord) -> None:
        """Remember the line of ours if there is one, else the host's."""
        match = _TRANSFERRED.search(record.getMessage())
        if match and (match[3] or "kept" not in str(self.record.transferred)):
            self.record.transferred = f"{match[3]} of {match[4]} kept" if match[3] else f"{match[1]} of {match[2]}"


def _train(plan: Plan, trial: Run, device: str) -> tuple[Path, dict[str, Any]]:
    """Train a run to its end; return its best checkpoint, and what the training took."""
    from ultralytics.utils import LOGGER

    record = _Record(trial)
    listener = _Listener(record)
    LOGGER.addHandler(listener)
    folder = trial.folder / "train"
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if record.state:
        last = record.put_back(folder)
    if not record.state.get("finished"):
        model = _engine(str(last) if record.state else trial.model)
        for event in ("on_train_start", "on_train_epoch_start", "on_fit_epoch_end"):
            model.add_callback(event, getattr(record, event))
        if record.state:
            model.train(resume=True, device=device)
        else:
            where = {"project": str(trial.folder), "name": "train", "exist_ok": True}
            model.train(**{"plots": False, **plan.train, **where, "seed": trial.seed, "device": device})
    LOGGER.removeHandler(listener)
    return folder / "weights" / "best.pt", {
        "epochs": len(record.seconds),
        "train_seconds": round(sum(record.seconds), 2),
        "peak_memory_mib": _peak_memory(device),
        "items": record.transferred or "",
    }


def _engine(model: str) -> Any:
    """Return the host's model object for a YAML or a checkpoint."""
    from ultralytics.models import RTDETR, YOLO

    return (RTDETR if Path(model).stem.startswith("rtdetr") else YOLO)(model)


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


# Measuring ------------------------------------------------------------------------------------------------------------


def _validate(plan: Plan, trial: Run, best: Path, device: str) -> dict[str, Any]:
    """Validate the best checkpoint as the host does; add AP by class and by size, parameters and GFLOPs."""
    from .summary import count

    model = _engine(str(best))
    seen: list[Any] = []
    model.add_callback("on_val_end", seen.append)
    keys = ("data", "imgsz", "batch", "workers", "single_cls", "iou", "max_det", "rect", "split", "classes")
    options = {k: plan.train[k] for k in keys if k in plan.train}
    where = {"project": str(trial.folder), "name": "val", "exist_ok": True, "plots": False, "device": device}
    metrics = model.val(**options, **where, save_json=model.task in ("detect", "segment", "pose"))
    size = count(_engine(str(best)).model)
    results = {k: float(v) for k, v in metrics.results_dict.items()}
    return {
        "task": model.task,
        "metrics": results,
        "classes": _classes(metrics),
        "sizes": _sizes(seen[-1]) if model.task in ("detect", "segment", "pose") else {},
        "parameters": size.parameters,
        "gflops": round(size.gflops, 4),
        "best": str(best.relative_to(plan.folder)),
    }


def _classes(metrics: Any) -> dict[str, float]:
    """Return mAP50-95 of each class that the validation data has."""
    box = getattr(metrics, "box", None)
    if box is None or not len(getattr(box, "ap_class_index", ())):
        return {}
    return {str(metrics.names[c]): float(box.maps[c]) for c in box.ap_class_index}


def _sizes(validator: Any) -> dict[str, float]:
    """Return COCO's AP of small, medium and large boxes, of the validation that was just done."""
    from PIL import Image
    from ultralytics.data.utils import exif_size

    from ..compare.sizes import average_precision

    truths, sizes = [], {}
    for label in validator.dataloader.dataset.labels:
        with Image.open(label["im_file"]) as picture:
            width, height = exif_size(picture)
        image = Path(label["im_file"]).stem
        sizes[image] = (width, height)
        for c, (x, y, w, h) in zip(label["cls"].reshape(-1), label["bboxes"]):
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            truths.append((image, int(c), [float(v) for v in box]))
    back = {x: i for i, x in enumerate(validator.class_map)}
    found = [(str(x["image_id"]), back[x["category_id"]], x["bbox"], x["score"]) for x in validator.jdict]
    numeric = {str(int(x)) if x.isnumeric() else x: x for x in sizes}  # the host writes 007 as 7
    return average_precision(sizes, truths, [(numeric[x], c, box, score) for x, c, box, score in found])


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


def machine() -> str:
    """Name the processor, and the GPU if there is one."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name(0))
    from ultralytics.utils.torch_utils import get_cpu_info

    return f"{get_cpu_info()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
