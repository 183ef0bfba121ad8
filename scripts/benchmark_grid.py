"""Time SAHI with every tile against SAHI with a grid activation that skips the empty ones, on large sparse images.

    python scripts/benchmark_grid.py hituav=hituav/data.yaml weights=yolo11n.pt

hituav=  the data YAML of HIT-UAV; without it only drawn scenes are measured
weights= COCO weights to train from
folder=  folder of images and trainings, kept if they exist; default runs/benchmark_grid
rounds=  how often each image is timed; default 5
out=     the CSV; default scripts/results/benchmark_grid.csv
plot=    the plot; default scripts/results/pictures/grid.png

yolo11n-grid is trained by the stock command, on ordinary images, and chooses its own threshold at the end. The large
images are those of large_images.py, from the half of the validation set that chose nothing. A tile of 640 px is seen
at 320 px. The time is that of the process, on one thread, so that other work of the machine does not count, from the
pixels of the image to the merged detections: the median of the rounds with every tile, times the median of the ratios
of neighbours, summed over the images. The floor is the time when every tile is skipped. mAP50 is that of the large
images, from detections above 0.01. The last row is the time of the model itself on ordinary images, none of which
is skipped, against the same model without the grid: medians, and the median of the ratios of neighbours.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import large_images
import numpy as np
import torch
import ultralytics
from csv_rows import read, write
from faster_coco_eval import COCO, COCOeval_faster
from markdown_table import markdown
from matplotlib.figure import Figure
from run_script import run_script
from ultralytics.models import YOLO

import yolo_coordbifpn
from yolo_coordbifpn.blocks.grid import GridActivation
from yolo_coordbifpn.commands import UsageError, parse, whole_number
from yolo_coordbifpn.grids.measure import needed_grid
from yolo_coordbifpn.grids.tiles import TileModel, Tiling, read_image
from yolo_coordbifpn.host.machine import machine

OPTIONS = {
    "hituav": "",
    "weights": "",
    "folder": "runs/benchmark_grid",
    "rounds": "5",
    "out": "scripts/results/benchmark_grid.csv",
    "plot": "scripts/results/pictures/grid.png",
}
FIELDS = (
    "set", "empty", "tiles", "skipped", "threshold", "every (s)", "skipping (s)", "ratio", "floor", "mAP50, every",
    "mAP50, skipping", "versions", "machine",
)  # fmt: skip
SHARES = (50, 80, 95)
TRAINING = {"hituav": (30, 320), "drawn": (12, 256)}  # epochs and image size
_CONF, _LOW = 0.25, 0.01


def main(words: list[str]) -> None:
    """Measure both sets and print the table."""
    options = parse(words, OPTIONS)
    if not options["weights"]:
        raise UsageError("weights= must be COCO weights such as yolo11n.pt.")
    yolo_coordbifpn.install()
    torch.set_num_threads(1)
    out, rounds = Path(options["out"]), whole_number(options, "rounds", 1)
    rows: list[dict[str, Any]] = []
    for name in ("hituav", "drawn") if options["hituav"] else ("drawn",):
        folder = Path(options["folder"]).absolute() / name
        if not (folder / "data.yaml").exists():
            large_images.main([f"out={folder}", *([f"hituav={options['hituav']}"] if name == "hituav" else [])])
        best = _trained(folder, Path(options["weights"]))
        for share in SHARES:
            rows.append(measure(name, best, folder / f"{share}", rounds))
            write(out, FIELDS, rows)
        if name == "hituav":
            draw(best, folder / "80" / "1.png", Path(options["plot"]))
    write(out, FIELDS, [*rows, ordinary(best, rounds)])
    print(table(read(out)))


def measure(name: str, best: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Measure the images of a folder; return the row."""
    files = sorted(folder.glob("*.png"))
    models = {kind: _model(best, kind) for kind in ("every", "skipping", "floor")}
    seconds = dict.fromkeys(models, 0.0)
    count = skipped = 0
    for file in files:
        pixels = read_image(file)
        times: dict[str, list[float]] = {kind: [] for kind in models}
        for k in range(rounds + 1):  # the first round warms up
            for kind, model in models.items():
                start = time.process_time()
                found = model.predict(pixels)
                if k:
                    times[kind].append(time.process_time() - start)
                if not k and kind == "skipping":
                    count, skipped = count + len(found.tiles), skipped + len(found.skipped)
        every = statistics.median(times["every"])
        for kind, x in times.items():  # by the ratios of neighbours: the machine has slower minutes
            seconds[kind] += every * statistics.median(a / b for a, b in zip(x, times["every"]))
    maps = [_map50(folder, files, _model(best, kind, _LOW)) for kind in ("every", "skipping")]
    empty = statistics.mean(x["empty"] for x in _content(folder)["images"])
    return {
        "set": name,
        "empty": round(empty, 4),
        "tiles": count,
        "skipped": round(skipped / count, 4),
        "threshold": models["skipping"].threshold,
        "every (s)": round(seconds["every"], 3),
        "skipping (s)": round(seconds["skipping"], 3),
        "ratio": round(seconds["every"] / seconds["skipping"], 3),
        "floor": round(seconds["every"] / seconds["floor"], 3),
        "mAP50, every": round(maps[0], 4),
        "mAP50, skipping": round(maps[1], 4),
        **_where(),
    }


def ordinary(best: Path, rounds: int) -> dict[str, Any]:
    """Time the model on images none of which is skipped, with and without the grid; return the row."""
    with_grid: Any = YOLO(best).model
    with_grid = with_grid.float().fuse().eval()
    needed_grid(with_grid, best.name).threshold = 1e-9
    without = copy.deepcopy(with_grid)
    layers = list(without.model)
    grid = needed_grid(without, best.name)
    layers[grid.i] = torch.nn.Identity()
    layers[grid.i].i, layers[grid.i].f, layers[grid.i].type = grid.i, grid.f, "Identity"
    without.model = torch.nn.Sequential(*layers)
    image = torch.rand(1, 3, 640, 640, generator=torch.Generator().manual_seed(0))
    pairs = list[list[float]]()
    with torch.inference_mode():
        for k in range(60 * rounds + 6):
            pair = [0.0, 0.0]
            for which in (0, 1) if k % 2 else (1, 0):
                start = time.process_time()
                (without, with_grid)[which](image)
                pair[which] = time.process_time() - start
            pairs.append(pair)
    pairs = pairs[6:]  # the first warm up
    plain, gridded = (statistics.median(x) for x in zip(*pairs))
    return {
        "set": "one image of 640 px",
        "threshold": 1e-9,
        "every (s)": round(plain, 4),
        "skipping (s)": round(gridded, 4),
        "ratio": round(statistics.median(a / b for a, b in pairs), 3),
        **_where(),
    }


def draw(best: Path, file: Path, out: Path) -> None:
    """Draw the scores of the cells over an image, skipped tiles dark, with the objects."""
    model, cells = _model(best, "skipping"), list[Any]()

    def note(module: Any, *args: Any) -> None:
        if type(module) is GridActivation and module.logits is not None:
            cells.extend(module.logits.sigmoid()[:, 0].numpy())

    hook = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        model.predict(read_image(file))  # the host's warm-up
        cells.clear()
        image = model.predict(read_image(file))
    finally:
        hook.remove()
    height, width = image.pixels.shape[:2]
    scores = np.zeros((height // 32, width // 32))
    light = np.full((height // 32, width // 32), 0.45)
    for k, (tile, cell) in enumerate(zip(image.tiles, cells)):
        left, top, right, bottom = (x // 32 for x in tile)
        part = np.s_[top:bottom, left:right]
        fine = np.kron(cell, np.ones((4, 4)))[: bottom - top, : right - left]  # a cell is 64 px of 320: 128 px of 640
        scores[part] = np.maximum(scores[part], fine)
        if k not in image.skipped:
            light[part] = 1
    grey = image.pixels[::4, ::4].mean(2) * np.kron(light, np.ones((8, 8)))
    figure = Figure(figsize=(10, 5), layout="constrained")
    left_axes, right_axes = figure.subplots(1, 2)
    extent = (0, width, height, 0)
    left_axes.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=extent)
    for x in image.result.object_prediction_list:
        a, b, c, d = x.bbox.to_xyxy()
        left_axes.plot([a, c, c, a, a], [b, b, d, d, b], color="#D55E00", linewidth=1)
    left_axes.set_title(f"{len(image.tiles)} tiles, dark where they are skipped; detections", fontsize=10)
    shown = right_axes.imshow(scores, extent=extent, cmap="viridis", vmin=0)
    boxes = [x["bbox"] for x in _content(file.parent)["annotations"] if x["image_id"] == int(file.stem)]
    right_axes.scatter([x + w / 2 for x, _, w, _ in boxes], [y + h / 2 for _, y, _, h in boxes], s=4, c="#D55E00")
    right_axes.set_title(f"scores of the grid, threshold {model.threshold:.4f}; labelled objects", fontsize=10)
    figure.colorbar(shown, ax=right_axes, shrink=0.8)
    for axes in (left_axes, right_axes):
        axes.set(xticks=[], yticks=[])
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def table(rows: list[dict[str, str]]) -> str:
    """Write the table of the page."""
    head = ["images", "empty tiles", "skipped", "time, every tile", "time, skipping", "quicker", "at most"]
    head += ["mAP50, every tile", "mAP50, skipping"]
    body = [
        (
            {"hituav": "HIT-UAV", "drawn": "drawn scenes"}.get(row["set"], row["set"]),
            *(f"{float(row[k]):.0%}" if row[k] else "" for k in ("empty", "skipped")),
            *(f"{float(row[k]):.2f} s" for k in ("every (s)", "skipping (s)")),
            *(f"{float(row[k]):.2f} x" if row[k] else "" for k in ("ratio", "floor")),
            *(f"{float(row[k]):.3f}" if row[k] else "" for k in ("mAP50, every", "mAP50, skipping")),
        )
        for row in rows
    ]
    return markdown(head, body, len(head) - 1)


def _trained(folder: Path, weights: Path) -> Path:
    """Train, unless that is done; return the checkpoint."""
    best = folder / "train" / "weights" / "best.pt"
    epochs, imgsz = TRAINING[folder.name]
    if not (folder / "train" / "done").exists():
        YOLO("yolo11n-grid.yaml").train(
            data=str(folder / "data.yaml"), pretrained=str(weights.absolute()), epochs=epochs, project=str(folder),
            imgsz=imgsz, name="train", exist_ok=True, workers=0, seed=0, plots=False,
            cache="ram",
        )  # fmt: skip
        (folder / "train" / "done").touch()
    return best


def _model(best: Path, kind: str, conf: float = _CONF) -> TileModel:
    """Open the checkpoint for tiles; `every` skips none of them, and `floor` all."""
    yolo = YOLO(best)
    grid = needed_grid(yolo.model, best.name)
    grid.threshold = {"every": 0.0, "skipping": grid.threshold, "floor": 1.0}[kind]
    return TileModel(yolo, Tiling(large_images.TILE, large_images.OVERLAP, 16, False, conf, 320, "cpu"), best.name)


def _map50(folder: Path, files: list[Path], model: TileModel) -> float:
    """Return mAP50 of the images of a folder, as COCO does."""
    found = [
        {"image_id": int(file.stem), "category_id": x.category.id, "bbox": x.bbox.to_xywh(), "score": x.score.value}
        for file in files
        for x in model.predict(read_image(file)).result.object_prediction_list
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO({"info": {}, **_content(folder)})
        evaluation = COCOeval_faster(truth, truth.loadRes(found), "bbox")
        evaluation.params.maxDets = [1, 10, 1000]  # a large image has many objects
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, -1]
    return float(precision[precision > -1].mean())


def _content(folder: Path) -> Any:
    """Read the annotations of a folder."""
    return json.loads((folder / "annotations.json").read_text(encoding="utf-8"))


def _where() -> dict[str, str]:
    """Return versions and machine for the CSV."""
    return {
        "versions": f"ultralytics {ultralytics.__version__}, torch {torch.__version__}, sahi {version('sahi')}",
        "machine": machine(torch.device("cpu")),
    }


if __name__ == "__main__":
    run_script(main)
