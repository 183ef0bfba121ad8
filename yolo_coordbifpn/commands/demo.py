"""Make a small data set and train a model on it, without any download.

    yolo-coordbifpn demo
    yolo-coordbifpn demo folder=demo model=yolo11n-coordatt-bifpn.yaml epochs=15 seed=0

folder=     folder to write to; default yolo-coordbifpn-demo
model=      model to train; default yolo11n-coordatt-bifpn.yaml
epochs=     epochs to train; default 15, four to eight minutes on two CPU cores
seed=       seed of the scenes and of the training; default 0

It draws aerial scenes with cars, trucks, boats, houses and tanks into FOLDER/scenes, prints the stock `yolo train`
command, runs it, and shows the mAP and where the plots are. A repeated demo keeps the earlier training: it writes to
train2, train3, ...
"""

from __future__ import annotations

import csv
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from . import UsageError, whole_number

OPTIONS = {"folder": "yolo-coordbifpn-demo", "model": "yolo11n-coordatt-bifpn.yaml", "epochs": "15", "seed": "0"}
SIZE = 192  # pixels
# For a few minutes from scratch on two cores: no gradient accumulation (nbs), one epoch of warm-up, no mosaic.
RECIPE = f"imgsz={SIZE} batch=8 nbs=8 optimizer=AdamW lr0=0.002 warmup_epochs=1 mosaic=0 workers=2"


def run(options: dict[str, str]) -> int:
    """Run the demo; return the exit status of the training."""
    epochs, seed = whole_number(options, "epochs", 1), whole_number(options, "seed", 0)
    folder = Path(options["folder"]).expanduser().resolve()
    if folder.is_file():
        raise UsageError(f"folder= is a file: {folder}.")
    yolo = shutil.which("yolo", path=sysconfig.get_path("scripts")) or shutil.which("yolo")
    if yolo is None:
        print(
            "yolo-coordbifpn demo: there is no `yolo`: pip install ultralytics (or ultralytics-opencv-headless)",
            file=sys.stderr,
        )
        return 1
    from .scenes import write_scenes

    join = subprocess.list2cmdline if os.name == "nt" else shlex.join  # what the reader's shell understands
    start = time.monotonic()
    data = write_scenes(folder / "scenes", train=320, val=64, size=SIZE, seed=seed)
    words = ["train", f"model={options['model']}", f"data={data}", f"epochs={epochs}", f"seed={seed}", *RECIPE.split()]
    words += [f"project={folder}", "name=train"]
    print(f"Wrote 384 scenes to {data.parent}. Training on them with stock Ultralytics:\n")
    print(f"  {join(['yolo', *words])}\n")
    sys.stdout.flush()
    before = set(folder.glob("train*/results.csv"))
    status = subprocess.run([yolo, *words]).returncode
    results = sorted(set(folder.glob("train*/results.csv")) - before)
    if status or not results:
        print("yolo-coordbifpn demo: the training failed; its own message is above.", file=sys.stderr)
        return status or 1
    _report(results[-1], time.monotonic() - start)
    return 0


def _report(results: Path, seconds: float) -> None:
    """Print the result of the training and what to try next."""
    with results.open(newline="", encoding="utf-8") as file:
        rows = [{k.strip(): v.strip() for k, v in row.items()} for row in csv.DictReader(file)]
    epochs = [tuple(float(row[f"metrics/{x}(B)"]) for x in ("mAP50-95", "mAP50")) for row in rows]
    map50_95, map50 = max(epochs)
    best = results.parent / "weights" / "best.pt"
    print(f"\nmAP50 {map50:.3f}, mAP50-95 {map50_95:.3f} on the validation scenes, after {seconds / 60:.1f} minutes.")
    print(f"Plots: {results.parent / 'val_batch0_pred.jpg'} and others in the same folder.")
    print(f"Next: yolo predict model={best} source={results.parent.parent / 'scenes' / 'images' / 'val'}")
