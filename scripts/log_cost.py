"""Measure what the log of fusion weights and attention costs a training, against the time of an epoch.

    python scripts/log_cost.py model=yolo11n-bifpn-add.yaml epochs=3 imgsz=192

Trains on 64 scenes drawn by code, on the CPU, and prints the median time of an epoch and of the log in it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import ultralytics
from run_script import run_script
from ultralytics.models import YOLO

from yolo_coordbifpn.commands import parse
from yolo_coordbifpn.commands.scenes import write_scenes
from yolo_coordbifpn.patches import training_log


def measure(model: str, epochs: int, imgsz: int) -> None:
    """Train, and time each step of the log."""
    seconds: dict[str, list[float]] = defaultdict(list)
    work_in_log = training_log._guarded

    def timed(trainer: Any, work: Callable[..., None]) -> None:
        start = time.perf_counter()
        work_in_log(trainer, work)
        seconds[work.__name__].append(time.perf_counter() - start)

    training_log._guarded = timed
    whole: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        data = write_scenes(Path(folder) / "scenes", train=64, val=16, size=imgsz, seed=0)
        yolo = YOLO(model)
        yolo.add_callback("on_fit_epoch_end", lambda trainer: whole.append(trainer.epoch_time))
        yolo.train(data=str(data), epochs=epochs, imgsz=imgsz, batch=8, workers=0, device="cpu", project=folder)
    print(f"{model}, {imgsz} px, 64 + 16 images, Ultralytics {ultralytics.__version__}, torch {torch.__version__}, CPU")
    epoch = statistics.median(whole[:epochs])
    each = sum(statistics.median(seconds[x]) for x in ("record", "lend", "take_back"))
    print(f"epoch {epoch:.2f} s; the log takes {1000 * each:.2f} ms of it: {each / epoch:.3%}")
    print(f"once: {1000 * seconds['_begin'][0]:.0f} ms at the start, {1000 * seconds['end'][0]:.0f} ms for the plot")


def main(words: list[str]) -> None:
    """Measure with the given options."""
    given = parse(words, {"model": "yolo11n-bifpn-add.yaml", "epochs": "3", "imgsz": "192"})
    measure(given["model"], int(given["epochs"]), int(given["imgsz"]))


if __name__ == "__main__":
    run_script(main)
