"""Does every export format give the boxes of PyTorch, with our blocks as without? Runs each and compares.

    python scripts/check_exports.py weights=yolo11n.pt models=yolo11n formats=onnx,openvino source=coco8/images/val

Each model of models= is taken twice: the stock one, and with variant=coordatt-bifpn, whose gates, fusion weights,
gains and new columns are first moved away from where they start, because at its start it equals the stock model. Both
are exported by the host's `export`, opened by the host's `YOLO(file)`, and run on the pictures of source= (those that
come with Ultralytics, if none are given). The boxes from a score of 0.25 up are matched with those of PyTorch, masks
and keypoints with them; a box that is within 0.05 of that score may be missing on one side.

formats=all, or names with commas between them (formats=list prints those there are). weights= goes with models=, one
file each. A format runs in a process of its own, for limit= seconds at most; one whose packages are missing is told and
left out. Rows go into out= as soon as they are there; formats that need other packages are added to it by a run in
another environment. Logs and models are in project=. What INT8 with calibration costs is measured by int8_map.py.
"""

from __future__ import annotations

import copy
import csv
import itertools
import json
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import ultralytics
from csv_rows import read
from torch import Tensor, nn
from torchvision.ops import box_iou

from yolo_coordbifpn import BiFPN_Add, BiFPN_Concat, CoordAtt
from yolo_coordbifpn.commands import UsageError, parse, whole_number

SCORE, SLACK = 0.25, 0.05
NOT_FOR_IT = "not for this head"


@dataclass(frozen=True)
class Tolerance:
    """How far the boxes may be from those of PyTorch for a format to be said to work."""

    missing: float  # share of the boxes
    iou: float
    score: float


FLOAT32 = Tolerance(missing=0.0, iou=0.99, score=0.01)
FLOAT16 = Tolerance(missing=0.0, iou=0.85, score=0.03)
EIGHT_BITS = Tolerance(missing=0.25, iou=0.5, score=1.0)  # of a weight, or of bfloat16's fraction


@dataclass(frozen=True)
class Format:
    """An export format with its options, as the host's `export` takes them."""

    options: dict[str, Any]
    packages: tuple[str, ...] = ()
    tolerance: Tolerance = FLOAT32
    runs: bool = True  # on this machine, not only on the device that it is made for
    precision: str = "f32"  # that OpenVINO computes in

    @property
    def dynamic(self) -> bool:
        """Whether it takes pictures of any size."""
        return bool(self.options.get("dynamic"))


def _format(name: str, *packages: str, tolerance: Tolerance = FLOAT32, runs: bool = True, **options: Any) -> Format:
    return Format({"format": name, **options}, packages, tolerance, runs)


ONNX = ("onnx", "onnxruntime", "onnxslim")
LITERT = ("litert-torch", "ai-edge-litert")
FORMATS = {
    "torchscript": _format("torchscript"),
    "torchscript-dynamic": _format("torchscript", dynamic=True),
    "torchscript-nms": _format("torchscript", nms=True),
    "torch.export": _format("torch.export"),
    "torch.export-dynamic": _format("torch.export", dynamic=True),
    "onnx": _format("onnx", *ONNX),
    "onnx-unsimplified": _format("onnx", *ONNX, simplify=False),
    "onnx-dynamic": _format("onnx", *ONNX, dynamic=True),
    "onnx-half": _format("onnx", *ONNX, half=True, tolerance=FLOAT16),
    "onnx-nms": _format("onnx", *ONNX, nms=True),
    "onnx-end2end": _format("onnx", *ONNX, nms=False),
    "openvino": _format("openvino", "openvino"),
    "openvino-bfloat16": Format({"format": "openvino"}, ("openvino",), EIGHT_BITS, precision="bf16"),
    "openvino-dynamic": _format("openvino", "openvino", dynamic=True),
    "openvino-half": _format("openvino", "openvino", half=True, tolerance=FLOAT16),
    "openvino-nms": _format("openvino", "openvino", nms=True),
    "ncnn": _format("ncnn", "ncnn", "pnnx"),
    "ncnn-half": _format("ncnn", "ncnn", "pnnx", half=True, tolerance=FLOAT16),
    "mnn": _format("mnn", "MNN", *ONNX),
    "mnn-half": _format("mnn", "MNN", *ONNX, half=True, tolerance=FLOAT16),
    "mnn-int8": _format("mnn", "MNN", *ONNX, int8=True, tolerance=EIGHT_BITS),
    "litert": _format("litert", *LITERT),
    "litert-w8a32": _format("litert", *LITERT, "ai-edge-quantizer", quantize="w8a32", tolerance=EIGHT_BITS),
    "executorch": _format("executorch", "executorch"),
    "paddle": _format("paddle", "paddlepaddle", "x2paddle"),
    "saved_model": _format("saved_model", "onnx2tf", "tf_keras", *ONNX),
    "pb": _format("pb", "onnx2tf", "tf_keras", *ONNX),
    "coreml": _format("coreml", "coremltools", runs=platform.system() == "Darwin"),
    "coreml-nms": _format("coreml", "coremltools", nms=True, runs=platform.system() == "Darwin"),
}
OPTIONS = {
    "models": "yolo11n",
    "variant": "coordatt-bifpn",
    "weights": "",
    "source": "",
    "imgsz": "640",
    "formats": "all",
    "limit": "600",
    "out": "scripts/exports.csv",
    "project": "runs/exports",
    "run": "",
}
FIELDS = (
    "model", "format", "verdict", "boxes", "missing", "new", "iou", "score", "classes", "masks", "keypoints",
    "seconds", "megabytes", "reason", "versions",
)  # fmt: skip


def main() -> None:
    """Check the formats that are asked for and print the tables."""
    options = parse(sys.argv[1:], OPTIONS)
    if options["run"]:
        _run(Path(options["run"]))
        return
    if options["formats"] == "list":
        print("\n".join(f"{name:22} {' '.join(FORMATS[name].packages)}" for name in FORMATS))
        return
    names = list(FORMATS) if options["formats"] == "all" else options["formats"].split(",")
    if unknown := set(names) - set(FORMATS):
        raise UsageError(f"formats= knows no {', '.join(sorted(unknown))}. There are: {', '.join(FORMATS)}.")
    out, project = Path(options["out"]), Path(options["project"]).resolve()
    limit = whole_number(options, "limit", 1)
    job = {
        "source": [str(path) for path in pictures(options["source"])],
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
            _write(out, row)
        print(f"\n{table(out, *both)}\n", flush=True)


def pictures(source: str) -> list[Path]:
    """List the pictures of files and folders, with commas between them; those of Ultralytics if there are none."""
    from ultralytics.utils import ASSETS

    found: list[Path] = []
    for place in [Path(word) for word in source.split(",")] if source else [ASSETS]:
        files = sorted(place.glob("*.jpg")) if place.is_dir() else [place]
        if not files or not files[0].is_file():
            raise UsageError(f"source= must be pictures, or folders of *.jpg, got {str(place)!r}.")
        found += [file.resolve() for file in files]
    return found


def build(name: str, weights: str, project: Path) -> Path:
    """Build a model with pretrained weights and save it as a checkpoint, its blocks stirred if it has any."""
    from ultralytics.models import YOLO

    torch.manual_seed(0)
    yolo: Any = YOLO(f"{name}.yaml")
    yolo.load(weights)
    stir(yolo.model)
    project.mkdir(parents=True, exist_ok=True)
    file = project / f"{name}.pt"
    yolo.save(file)
    return file


def stir(model: nn.Module, seed: int = 0) -> None:
    """Move our blocks, in place, away from the identity: gates by place, uneven weights, gains, added edges."""
    random = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor, spread: float) -> Tensor:
        return spread * torch.randn(tensor.shape, generator=random)

    blocks = [m for m in model.modules() if isinstance(m, (CoordAtt, BiFPN_Add, BiFPN_Concat))]
    for block in blocks:
        if isinstance(block, CoordAtt):
            norm: Any = block.bn1
            norm.running_mean.copy_(noise(norm.running_mean, 0.1))
            norm.running_var.copy_(1 + noise(norm.running_var, 0.1).abs())
            for conv in (block.conv_h, block.conv_w):
                conv.weight.data.copy_(noise(conv.weight, 0.3))
        else:
            block.weight.data += 0.3 * torch.rand(block.weight.shape, generator=random)
        block.gain *= 1.05
    for conv in [m for m in model.modules() if blocks and isinstance(m, nn.Conv2d) and m.groups == 1]:
        weight = conv.weight.data
        new = weight.flatten(2).abs().amax((0, 2)) == 0  # columns of the added edges start as zeros
        weight[:, new] = noise(weight[:, new], 0.3 * float(weight.std()))


def check(model: str, job: dict[str, Any], project: Path, limit: int) -> dict[str, Any]:
    """Check one format of one model in a process of its own, and give the row of its outcome."""
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
    """Do the job of a file, and write what came out beside it."""
    try:
        result = _compare(json.loads(file.read_text(encoding="utf-8")))
    except BaseException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        result = {"reason": f"{type(error).__name__}: {lines[0]}"[:300]}
        raise
    finally:
        file.with_name("result.json").write_text(json.dumps(result), encoding="utf-8")


def _compare(job: dict[str, Any]) -> dict[str, Any]:
    """Export a model here, run it and PyTorch's, and compare their boxes."""
    from ultralytics.models import YOLO

    kind, size = FORMATS[job["format"]], job["imgsz"]
    model = Path(shutil.copy(job["model"], "."))
    eager: Any = YOLO(model)
    if kind.options.get("nms") is False and getattr(eager.model.model[-1], "one2one_cv2", None) is None:
        return {"verdict": NOT_FOR_IT}
    if kind.options["format"] == "torch.export":
        file, exported = _through_torch_export(model, kind, size)
    else:
        given = {"conf": SCORE - SLACK} if kind.options.get("nms") else {}
        if kind.options["format"] == "openvino":
            _compute_in(kind.precision)
        file = Path(YOLO(model).export(imgsz=size, device="cpu", **{**kind.options, **given}))
        exported = YOLO(file, task=eager.task) if kind.runs else None
    files = [x for x in file.rglob("*") if x.is_file()] if file.is_dir() else [file]
    result: dict[str, Any] = {"megabytes": round(sum(x.stat().st_size for x in files) / 2**20, 1)}
    if exported is None:
        return {**result, "verdict": "converted"}
    sizes = (size, size * 3 // 4 // 32 * 32, size // 2 // 32 * 32) if kind.dynamic else (size,)
    head = {"nms": False} if kind.options.get("nms") is False else {}
    pairs = []
    for imgsz in sizes:
        seen = {"imgsz": imgsz, "conf": SCORE - SLACK, "rect": kind.dynamic, "device": "cpu", "verbose": False, **head}
        for picture in job["source"]:
            pairs.append([yolo.predict(picture, **seen)[0] for yolo in (eager, exported)])
    found = differences(pairs)
    return {**result, **found, "verdict": "works" if _within(found, kind.tolerance) else "differs"}


def _compute_in(precision: str) -> None:
    """Make OpenVINO compute in one precision; by itself it takes bfloat16 for float32 where the processor can."""
    import openvino

    compiled = openvino.Core.compile_model

    def compile_model(core: Any, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        return compiled(core, *args, config={**(config or {}), "INFERENCE_PRECISION_HINT": precision}, **kwargs)

    openvino.Core.compile_model = compile_model


def _through_torch_export(model: Path, kind: Format, size: int) -> tuple[Path, Any]:
    """Take the model through torch.export and a file, and put the program into the place of the host's inference."""
    from ultralytics.models import YOLO

    yolo: Any = YOLO(model)
    network = copy.deepcopy(yolo.model).eval().fuse(verbose=False)
    network.model[-1].export, network.model[-1].format = True, "torch.export"
    network.model[-1].dynamic = kind.dynamic
    x = torch.zeros(1, 3, size, size)
    with torch.no_grad():
        network(x)
        sides = {axis: 32 * torch.export.Dim(name, min=2, max=64) for axis, name in ((2, "h"), (3, "w"))}
        program = torch.export.export(Bare(network), (x,), dynamic_shapes=(sides,) if kind.dynamic else None)
    file = Path("model.pt2")
    torch.export.save(program, file)
    loaded = torch.export.load(file).module()
    yolo.predict(torch.zeros(1, 3, size, size), imgsz=size, device="cpu", verbose=False)  # sets the predictor up
    yolo.predictor.inference = lambda im, *args, **kwargs: loaded(im)
    return file, yolo


class Bare(nn.Module):
    """A model with its one input alone."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap the model."""
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        """Run it."""
        return self.model(x)


def differences(pairs: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """Match the boxes of PyTorch's results with those of the exported model, picture by picture.

    Args:
        pairs: For each picture the host's results of PyTorch and of the exported model, boxes from a score of 0.2 up.

    Returns:
        Number of boxes of PyTorch from a score of 0.25 up; how many of them are missing, how many are new; over the
        matched ones the least IoU, the largest difference in score, the number of other classes, and where there are
        any, the least IoU of masks and the largest distance of keypoints in pixels.
    """
    found = {"boxes": 0, "missing": 0, "new": 0, "iou": 1.0, "score": 0.0, "classes": 0}
    for eager, exported in pairs:
        old, new = eager.boxes.cpu(), exported.boxes.cpu()
        matched = match(old.xyxy, old.cls, new.xyxy, new.cls)
        for boxes, key, seen in ((old, "missing", [i for i, _ in matched]), (new, "new", [j for _, j in matched])):
            certain = set((boxes.conf >= SCORE).nonzero().flatten().tolist())
            found[key] += len(certain - set(seen))
            found["boxes"] += len(certain) if key == "missing" else 0
        for i, j in matched:
            if max(old.conf[i], new.conf[j]) < SCORE:
                continue
            found["iou"] = min(found["iou"], float(_iou(old.xyxy[i : i + 1], new.xyxy[j : j + 1])))
            found["score"] = max(found["score"], abs(float(old.conf[i] - new.conf[j])))
            found["classes"] += int(old.cls[i] != new.cls[j])
            if eager.masks is not None:
                a, b = eager.masks.data[i].cpu() > 0.5, exported.masks.data[j].cpu() > 0.5
                found["masks"] = min(found.get("masks", 1.0), float((a & b).sum() / (a | b).sum().clamp_min(1)))
            if eager.keypoints is not None:
                gap = (eager.keypoints.xy[i].cpu() - exported.keypoints.xy[j].cpu()).norm(dim=1).max()
                found["keypoints"] = max(found.get("keypoints", 0.0), float(gap))
    return {key: round(value, 5) for key, value in found.items()}


def match(boxes: Tensor, classes: Tensor, others: Tensor, other_classes: Tensor) -> list[tuple[int, int]]:
    """Pair boxes, each (n, 4) as x1, y1, x2, y2, that overlap by half or more, those of one class first."""
    iou = _iou(boxes, others)
    rank = (iou + (classes[:, None] == other_classes)) * (iou >= 0.5)
    pairs: list[tuple[int, int]] = []
    while rank.numel() and rank.max() > 0:
        i, j = divmod(int(rank.argmax()), rank.shape[1])
        pairs.append((i, j))
        rank[i], rank[:, j] = 0, 0
    return pairs


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Compute IoU, also of boxes whose right side lies left of the left one, as heads put out a few."""
    return box_iou(*(torch.cat((x[:, :2].minimum(x[:, 2:]), x[:, :2].maximum(x[:, 2:])), 1) for x in (boxes, others)))


def _within(found: dict[str, Any], tolerance: Tolerance) -> bool:
    """Tell whether the differences are within the tolerance."""
    changed = max(found["missing"], found["new"], found["classes"])
    return bool(
        changed <= tolerance.missing * found["boxes"]
        and found["iou"] >= tolerance.iou
        and found["score"] <= tolerance.score
    )


def _write(out: Path, row: dict[str, Any]) -> None:
    """Put a row into the CSV, in the place of an older one."""
    rows = {(x["model"], x["format"]): x for x in read(out)}
    key = (row["model"], row["format"])
    if row["verdict"] == "not installed" and key in rows:  # checked in another environment
        return
    rows[key] = row
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows.values())


def table(out: Path, stock: str, ours: str) -> str:
    """Write the outcomes of two models side by side, in Markdown; formats of one kind and outcome share a line."""
    rows = {(x["model"], x["format"]): x for x in read(out)}
    lines: dict[tuple[str, str, str], list[str]] = {}
    for name, kind in FORMATS.items():
        if (ours, name) not in rows or (stock, name) not in rows or rows[ours, name]["verdict"] == NOT_FOR_IT:
            continue
        mine = _cell(rows[ours, name])
        if rows[stock, name]["verdict"] == rows[ours, name]["verdict"] == "fails":
            mine = "fails, as the stock model does"
        lines.setdefault((kind.options["format"], _cell(rows[stock, name]), mine), []).append(f"`{name}`")
    head = [f"| format | {stock} | {ours} |", "|---|---|---|"]
    return "\n".join(head + [f"| {', '.join(names)} | {old} | {new} |" for (_, old, new), names in lines.items()])


def _cell(row: dict[str, Any]) -> str:
    """Tell one outcome in words."""
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


def _same(row: dict[str, Any]) -> bool:
    """Tell whether boxes, scores, masks and keypoints are those of PyTorch up to rounding."""
    changed = any(int(row[key]) for key in ("missing", "new", "classes"))
    near = not changed and float(row["iou"]) > 0.999 and float(row["score"]) < 0.001
    return near and float(row.get("masks") or 1) > 0.99 and float(row.get("keypoints") or 0) < 0.1


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"check_exports: {error}")
