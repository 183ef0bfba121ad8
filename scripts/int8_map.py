"""What does INT8 cost in mAP, with our blocks and without? Quantises the models of a comparison by the host's exports.

    yolo-coordbifpn compare models=yolo11n variants=coordatt-bifpn data=bccd/data.yaml seeds=0,1,2 epochs=25 ...
    python scripts/int8_map.py runs=runs/compare/compare data=bccd/data.yaml imgsz=256 formats=openvino,onnx

Each checkpoint is validated as it is, and exported in INT8, calibrated on the training pictures; formats= takes
openvino, onnx, litert and whatever else the host quantises so. One row a checkpoint and format goes into out= as soon
as it is there; rows that are there are not done again. Then the table is printed: means over the seeds, and the drop
from PyTorch to INT8 with its 95 % interval (Student's t), of the other models paired by seed with the first one's.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import ultralytics
from csv_rows import append, read

from yolo_coordbifpn.commands import UsageError, parse, whole_number
from yolo_coordbifpn.compare.statistics import Interval, difference, interval

OPTIONS = {
    "runs": "",
    "models": "yolo11n,yolo11n-coordatt-bifpn",
    "data": "",
    "imgsz": "640",
    "formats": "openvino",
    "out": "scripts/int8_map.csv",
}
PACKAGES = {
    "openvino": ("openvino", "nncf"),
    "onnx": ("onnx", "onnxruntime"),
    "litert": ("litert-torch", "ai-edge-quantizer"),
}
KINDS = ("PyTorch", "INT8")
METRICS = ("mAP50-95", "mAP50")
FIELDS = ("format", "model", "seed", *(f"{kind} {metric}" for metric in METRICS for kind in KINDS), "setting")


def main() -> None:
    """Measure the checkpoints that are missing and print the table."""
    options = parse(sys.argv[1:], OPTIONS)
    listed = Path(options["runs"]) / "runs.csv"
    if not listed.is_file() or not options["data"]:
        raise UsageError(f"runs= must be a folder of `yolo-coordbifpn compare`, data= its data set, got {options}.")
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
    print(f"\n{table([row for row in read(out) if row['model'] in models], models)}")


def measure(checkpoint: Path, form: str, data: str, imgsz: int) -> dict[str, str]:
    """Validate a checkpoint in PyTorch and in INT8.

    Args:
        checkpoint: A trained model.
        form: The host's name of the export format.
        data: YAML of the data set; its training pictures calibrate, its validation pictures measure.
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


def table(rows: list[dict[str, str]], models: list[str]) -> str:
    """Write means and drops in Markdown."""
    lines = []
    for metric in METRICS:
        lines.append(f"| {metric} | model | {' | '.join(KINDS)} | drop | drop beyond that of {models[0]} |")
        lines.append("|---|---" + "|--:" * 4 + "|")
        for form in dict.fromkeys(row["format"] for row in rows):
            of = {model: [row for row in rows if (row["format"], row["model"]) == (form, model)] for model in models}
            base = _drops(of[models[0]], metric)
            for model in models:
                cells = [f"{mean(float(row[f'{kind} {metric}']) for row in of[model]):.4f}" for kind in KINDS]
                drops = _drops(of[model], metric)
                cells.append(_signed(interval(list(drops.values()))))
                cells.append("" if model == models[0] else _signed(difference(drops, base)))
                lines.append(f"| {form} | {model} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, *sorted({row["setting"] for row in rows})])


def _drops(rows: list[dict[str, str]], metric: str) -> dict[int, float]:
    """Return the drop from PyTorch to INT8 by seed."""
    return {int(row["seed"]): float(row[f"{KINDS[0]} {metric}"]) - float(row[f"{KINDS[1]} {metric}"]) for row in rows}


def _signed(found: Interval) -> str:
    return f"{found.mean:+.4f}" if found.count < 2 else f"{found.mean:+.4f} ± {found.half:.4f}"


def _setting(form: str, data: str, imgsz: int) -> str:
    versions = {"ultralytics": ultralytics.__version__, "torch": torch.__version__.partition("+")[0]}
    versions |= {x: metadata.version(x) for x in PACKAGES.get(form, ())}
    return f"{Path(data).parent.name}, {imgsz} px, {', '.join(f'{k} {v}' for k, v in versions.items())}, CPU"


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"int8_map: {error}")
