"""Measure what INT8 costs in mAP, with our blocks and without: quantises the models of a comparison.

    yolo-coordbifpn compare models=yolo11n variants=coordatt-bifpn data=bccd/data.yaml seeds=0,1,2 epochs=25 ...
    python scripts/int8_map.py runs=runs/compare/compare data=bccd/data.yaml imgsz=256 formats=openvino,onnx

Each checkpoint is validated in PyTorch, and again after the host's INT8 export, calibrated on the training images.
formats= takes openvino, onnx, litert and any other format that the host quantises in this way. One row for each
checkpoint and format is added to out= as soon as it is known; a run that is started again skips those rows. The table
gives means over the seeds, the drop from PyTorch to INT8 with its 95 % interval (Student's t), and for the other models
the drop beyond that of the first model, paired by seed.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import ultralytics
from csv_rows import append, read
from markdown_table import markdown, plus_minus
from run_script import run_script

from yolo_coordbifpn.commands import UsageError, parse, whole_number
from yolo_coordbifpn.compare.statistics import difference, interval

OPTIONS = {
    "runs": "",
    "models": "yolo11n,yolo11n-coordatt-bifpn",
    "data": "",
    "imgsz": "640",
    "formats": "openvino",
    "out": "scripts/results/int8_map.csv",
}
PACKAGES = {
    "openvino": ("openvino", "nncf"),
    "onnx": ("onnx", "onnxruntime"),
    "litert": ("litert-torch", "ai-edge-quantizer"),
}
KINDS = ("PyTorch", "INT8")
METRICS = ("mAP50-95", "mAP50")
FIELDS = ("format", "model", "seed", *(f"{kind} {metric}" for metric in METRICS for kind in KINDS), "setting")


def main(words: list[str]) -> None:
    """Measure the checkpoints that have no row yet and print the table."""
    options = parse(words, OPTIONS)
    listed = Path(options["runs"]) / "runs.csv"
    if not listed.is_file() or not options["data"]:
        raise UsageError(f"runs= must be a folder of `yolo-coordbifpn compare` and data= its data set, got {options}.")
    out, imgsz, models = Path(options["out"]), whole_number(options, "imgsz", 32), options["models"].split(",")
    done = {(row["format"], row["model"], row["seed"]) for row in read(out)}
    runs = [run for run in read(listed) if run["model"] in models]
    for form, run in itertools.product(options["formats"].split(","), runs):
        row = {"format": form, "model": run["model"], "seed": run["seed"]}
        if tuple(row.values()) in done:
            continue
        row |= measure(listed.parent / run["best"], form, options["data"], imgsz)
        row["setting"] = _setting(form, options["data"], imgsz)
        append(out, FIELDS, row)
        print(row, flush=True)
    rows = [row for row in read(out) if row["model"] in models]
    for metric in METRICS:
        print(f"\n{table(rows, models, metric)}")
    print("", *sorted({row["setting"] for row in rows}), sep="\n")


def measure(checkpoint: Path, form: str, data: str, imgsz: int) -> dict[str, str]:
    """Validate a checkpoint in PyTorch and in INT8.

    Args:
        checkpoint: A trained model.
        form: The host's name of the export format.
        data: YAML of the data set; calibrated on its training images, measured on its validation images.
        imgsz: Size in pixels.

    Returns:
        The metrics of both, by name.
    """
    from ultralytics.models import YOLO

    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(shutil.copy(checkpoint, folder))
        int8: Any = YOLO(model).export(format=form, imgsz=imgsz, device="cpu", int8=True, data=data, split="train")
        for kind, file in zip(KINDS, (model, int8)):
            seen = {"data": data, "imgsz": imgsz, "batch": 1, "rect": False, "device": "cpu", "workers": 0}
            box = YOLO(file, task="detect").val(**seen, plots=False, verbose=False, project=folder).box
            found |= {f"{kind} {metric}": f"{value:.5f}" for metric, value in zip(METRICS, (box.map, box.map50))}
    return found


def table(rows: Sequence[Mapping[str, str]], models: Sequence[str], metric: str = METRICS[0]) -> str:
    """Write a table of means and drops in one metric; the first model is the one to compare with."""
    lines = []
    for form in dict.fromkeys(row["format"] for row in rows):
        of = {model: [row for row in rows if (row["format"], row["model"]) == (form, model)] for model in models}
        base = _drops(of[models[0]], metric)
        for model in models:
            drops = _drops(of[model], metric)
            beyond = "" if model == models[0] else plus_minus(difference(drops, base), sign="+")
            means = [f"{mean(float(row[f'{kind} {metric}']) for row in of[model]):.4f}" for kind in KINDS]
            lines.append([form, model, *means, plus_minus(interval([*drops.values()]), sign="+"), beyond])
    head = ["format", "model", *(f"{metric}, {kind}" for kind in KINDS), "drop", f"drop beyond that of {models[0]}"]
    return markdown(head, lines, 4)


def _drops(rows: Sequence[Mapping[str, str]], metric: str) -> dict[int, float]:
    """Return the drop from PyTorch to INT8 by seed."""
    return {int(row["seed"]): float(row[f"{KINDS[0]} {metric}"]) - float(row[f"{KINDS[1]} {metric}"]) for row in rows}


def _setting(form: str, data: str, imgsz: int) -> str:
    versions = {"ultralytics": ultralytics.__version__, "torch": torch.__version__.partition("+")[0]}
    versions |= {x: metadata.version(x) for x in PACKAGES.get(form, ())}
    return f"{Path(data).parent.name}, {imgsz} px, {', '.join(f'{k} {v}' for k, v in versions.items())}, CPU"


if __name__ == "__main__":
    run_script(main)
