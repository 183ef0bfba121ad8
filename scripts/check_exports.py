"""Check that every export format gives the boxes of PyTorch, with our blocks and without.

    python scripts/check_exports.py weights=yolo11n.pt models=yolo11n formats=onnx,openvino source=coco8/images/val

Each model of models= is checked twice: the stock model, and the model with variant=coordatt-bifpn. The gates, fusion
weights, gains and new columns of the second are first moved away from their initial values, at which the model equals
the stock model. Both are exported by the host's `export`, opened by the host's `YOLO(file)`, and run on the images of
source= (by default those that come with Ultralytics). Boxes with scores from 0.25, with their masks and keypoints, are
matched with those of PyTorch; a box within 0.05 of that score may be missing on one side.

formats= is `all`, or names separated by commas; `formats=list` prints the names. weights= has one file for each of
models=. Each format runs in its own process, for at most limit= seconds. A format whose packages are not installed is
skipped, and the log says so. Rows are written to out= as they come; formats that need other packages are added by a run
in another environment. Logs and models are kept in project=. scripts/int8_map.py measures INT8 with calibration.
"""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import ultralytics
from csv_rows import read, write
from export_formats import FORMATS
from export_run import NOT_FOR_IT, compare
from markdown_table import markdown
from run_script import run_script
from torch import Tensor, nn

from yolo_coordbifpn.blocks.rezero import ReZero
from yolo_coordbifpn.commands import UsageError, parse, whole_number
from yolo_coordbifpn.registry import TABLE

OPTIONS = {
    "models": "yolo11n",
    "variant": "coordatt-bifpn",
    "weights": "",
    "source": "",
    "imgsz": "640",
    "formats": "all",
    "limit": "600",
    "out": "scripts/results/exports.csv",
    "project": "runs/exports",
    "run": "",
}
FIELDS = (
    "model", "format", "verdict", "boxes", "missing", "new", "iou", "score", "classes", "masks", "keypoints",
    "seconds", "megabytes", "reason", "versions",
)  # fmt: skip


def main(words: list[str]) -> None:
    """Check the chosen formats and print the tables."""
    options = parse(words, OPTIONS)
    if options["run"]:
        _run(Path(options["run"]))
        return
    if options["formats"] == "list":
        print("\n".join(f"{name:22} {' '.join(FORMATS[name].packages)}" for name in FORMATS))
        return
    names = list(FORMATS) if options["formats"] == "all" else options["formats"].split(",")
    if unknown := set(names) - set(FORMATS):
        raise UsageError(f"formats= has no {', '.join(sorted(unknown))}. Choose from: {', '.join(FORMATS)}.")
    out, project = Path(options["out"]), Path(options["project"]).resolve()
    limit = whole_number(options, "limit", 1)
    job = {
        "source": [str(path) for path in images(options["source"])],
        "imgsz": whole_number(options, "imgsz", 32),
    }
    stock = options["models"].split(",")
    weights = options["weights"].split(",") if options["weights"] else [f"{name}.pt" for name in stock]
    if len(weights) != len(stock):
        raise UsageError(f"weights= has {len(weights)} files for {len(stock)} models: give one for each.")
    for name, file in zip(stock, weights):
        both = (name, f"{name}-{options['variant']}")
        checkpoints = [build(model, file, project) for model in both]
        for format_name, (model, checkpoint) in itertools.product(names, zip(both, checkpoints)):
            row = check(model, {**job, "format": format_name, "model": str(checkpoint)}, project, limit)
            print(f"{model}, {format_name}: {_cell(row)}", flush=True)
            _save(out, row)
        print(f"\n{table(read(out), *both)}\n", flush=True)


def images(source: str) -> list[Path]:
    """List the images of files and folders, separated by commas; by default those that come with Ultralytics."""
    from ultralytics.utils import ASSETS

    found: list[Path] = []
    for place in [Path(word) for word in source.split(",")] if source else [ASSETS]:
        files = sorted(place.glob("*.jpg")) if place.is_dir() else [place]
        if not files or not files[0].is_file():
            raise UsageError(f"source= must be images, or folders of *.jpg, got {str(place)!r}.")
        found += [file.resolve() for file in files]
    return found


def build(name: str, weights: str, project: Path) -> Path:
    """Build a model with pretrained weights, move its blocks away from the identity, and save it as a checkpoint."""
    from ultralytics.models import YOLO

    torch.manual_seed(0)
    yolo: Any = YOLO(f"{name}.yaml")
    yolo.load(weights)
    unsettle(yolo.model)
    project.mkdir(parents=True, exist_ok=True)
    file = project / f"{name}.pt"
    yolo.save(file)
    return file


def unsettle(model: nn.Module, seed: int = 0) -> None:
    """Move the blocks away from the identity, in place: their weights and gains, and columns of added edges."""
    random = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor, spread: float) -> Tensor:
        return spread * torch.randn(tensor.shape, generator=random)

    blocks: list[Any] = [m for m in model.modules() if type(m) in TABLE]
    for block in blocks:
        for p in block.parameters():
            p.data += 0.3 * torch.rand(p.shape, generator=random) if p.ndim == 1 else noise(p, p[0].numel() ** -0.5)
        norms: list[Any] = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.running_mean.copy_(noise(norm.running_mean, 0.1))
            norm.running_var.copy_(1 + noise(norm.running_var, 0.1).abs())
        if hasattr(block, "gain"):
            block.gain *= 1.05
    for m in (m for m in model.modules() if isinstance(m, ReZero)):
        m.weight.data += 0.5
    for conv in [m for m in model.modules() if blocks and isinstance(m, nn.Conv2d) and m.groups == 1]:
        weight = conv.weight.data
        new = weight.flatten(2).abs().amax((0, 2)) == 0  # columns of the added edges start as zeros
        weight[:, new] = noise(weight[:, new], 0.3 * float(weight.std()))


def check(model: str, job: dict[str, Any], project: Path, limit: int) -> dict[str, Any]:
    """Check one format of one model in its own process, and return its row."""
    kind = FORMATS[job["format"]]
    row: dict[str, Any] = {"model": model, "format": job["format"], "verdict": "fails"}
    try:
        versions = {"ultralytics": ultralytics.__version__, "torch": torch.__version__.partition("+")[0]}
        versions |= {x: metadata.version(x) for x in kind.packages}
        row["versions"] = ", ".join(f"{k} {v}" for k, v in versions.items())
    except metadata.PackageNotFoundError:
        row.update(verdict="not installed", reason=f"pip install {' '.join(kind.packages)}")
        return row
    folder = project / model / job["format"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    with (folder / "log.txt").open("w", encoding="utf-8") as log, tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        command = [sys.executable, str(Path(__file__).resolve()), f"run={folder / 'job.json'}"]
        try:
            status = subprocess.run(command, cwd=scratch, stdout=log, stderr=log, timeout=limit).returncode
        except subprocess.TimeoutExpired:
            row["reason"] = f"no end after {limit} s"
            return row
    row["seconds"] = round(time.perf_counter() - start, 1)
    if not (folder / "result.json").exists():
        row["reason"] = f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return row
    row.update(json.loads((folder / "result.json").read_text(encoding="utf-8")))
    return row


def _run(file: Path) -> None:
    """Do the job of a file, and write the result beside it."""
    try:
        result = compare(json.loads(file.read_text(encoding="utf-8")))
    except BaseException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        result = {"reason": f"{type(error).__name__}: {lines[0]}"[:300]}
        raise
    finally:
        file.with_name("result.json").write_text(json.dumps(result), encoding="utf-8")


def _save(out: Path, row: dict[str, Any]) -> None:
    """Put a row into the CSV, in place of an older one."""
    rows = {(x["model"], x["format"]): x for x in read(out)}
    key = (row["model"], row["format"])
    if row["verdict"] == "not installed" and key in rows:  # checked in another environment
        return
    rows[key] = row
    write(out, FIELDS, rows.values())


def table(listed: Sequence[Mapping[str, Any]], stock: str, ours: str) -> str:
    """Write the outcomes of two models side by side; formats of one kind with equal outcomes share a line."""
    rows = {(x["model"], x["format"]): x for x in listed}
    lines: dict[tuple[str, str, str], list[str]] = {}
    for name, kind in FORMATS.items():
        if (ours, name) not in rows or (stock, name) not in rows or rows[ours, name]["verdict"] == NOT_FOR_IT:
            continue
        mine = _cell(rows[ours, name])
        if rows[stock, name]["verdict"] == rows[ours, name]["verdict"] == "fails":
            mine = "fails, as the stock model does"
        lines.setdefault((kind.options["format"], _cell(rows[stock, name]), mine), []).append(f"`{name}`")
    return markdown(["format", stock, ours], [(", ".join(names), old, new) for (_, old, new), names in lines.items()])


def _cell(row: Mapping[str, Any]) -> str:
    """Write one outcome in words."""
    if row["verdict"] not in {"works", "differs"}:
        return f"{row['verdict']}: {row['reason']}" if row.get("reason") else str(row["verdict"])
    parts = [] if row["verdict"] == "works" else ["differs"]
    if not _same(row):
        parts.append(f"{int(row['boxes']) - int(row['missing'])} of {row['boxes']} boxes")
        parts += [
            f"{row[key]} {what}" for key, what in (("new", "new"), ("classes", "of another class")) if int(row[key])
        ]
        parts += [f"IoU {float(row['iou']):.3f}", f"score {float(row['score']):.3f}"]
        parts += [f"masks {float(row['masks']):.3f}"] if row.get("masks") else []
        parts += [f"keypoints {float(row['keypoints']):.2f} px"] if row.get("keypoints") else []
    return ", ".join(parts or ["the same boxes"])


def _same(row: Mapping[str, Any]) -> bool:
    """Return whether boxes, scores, masks and keypoints are those of PyTorch up to rounding."""
    changed = any(int(row[key]) for key in ("missing", "new", "classes"))
    near = not changed and float(row["iou"]) > 0.999 and float(row["score"]) < 0.001
    return near and float(row.get("masks") or 1) > 0.99 and float(row.get("keypoints") or 0) < 0.1


if __name__ == "__main__":
    run_script(main)
