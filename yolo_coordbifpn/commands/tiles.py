"""Predict large images tile by tile through SAHI; a model with a grid activation skips empty tiles.

    yolo-coordbifpn tiles model=best.pt source=scene.tif
    yolo-coordbifpn tiles model=best.pt source=images/ size=640 overlap=0.2 conf=0.25 batch=16 device=0

model=    a checkpoint for detect, segment or obb; without a grid, every layer runs on every tile
source=   an image, a folder of images, a pattern with *, or several of these separated by commas
size=     width and height of a tile in pixels; default 640
overlap=  share of a tile that it has in common with the next; default 0.2
whole=    predict each whole image too, reduced to the size of a tile, for objects larger than one; default False
batch=    tiles in a forward pass; default 16
imgsz=    size at which the model sees a tile; default that of the tile
conf=     score below which there is no detection; default 0.25
device=   device, as for yolo predict
draw=     draw the detections on each image; default True
project=  parent of the folder to write to; default runs/tiles
name=     name of the folder to write to; default tiles; a number is added if it exists

Slicing, merging and drawing are those of SAHI. predictions.json is a COCO data set whose annotations have scores;
IMAGE.png shows the detections, and dark what only skipped tiles cover. An image that cannot be read, or that is larger
than the memory, is named and left out. An interrupt keeps what is done.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import UsageError, folder_of, host_arguments, need, share, truth, whole_number

if TYPE_CHECKING:
    from ..grids.tiles import TileModel

OPTIONS = {
    "model": "",
    "source": "",
    "size": "640",
    "overlap": "0.2",
    "whole": "False",
    "batch": "16",
    "imgsz": "",
    "conf": "0.25",
    "device": "",
    "draw": "True",
    "project": "",
    "name": "",
}


def run(options: dict[str, str]) -> int:
    """Predict the images; return 1 if one of them could not be read."""
    need("tiles", "tiles", "psutil", "rich", "sahi")
    if not options["model"].endswith(".pt") or not options["source"]:
        raise UsageError("model= must be a checkpoint such as best.pt, and source= an image or a folder of images.")
    size, draw = whole_number(options, "size", 32), truth(options, "draw")
    from ..grids.tiles import TileModel, Tiling
    from ..inspection.sources import image_files, opened, split_sources
    from ..patches.install import install

    tiling = Tiling(
        size,
        share(options, "overlap", below=0.95),
        whole_number(options, "batch", 1),
        truth(options, "whole"),
        share(options, "conf"),
        whole_number(options, "imgsz", 32) if options["imgsz"] else size,
        options["device"] or None,
    )
    install()
    if options["device"]:
        host_arguments("predict", {"device": options["device"]})
    files = image_files(split_sources(options["source"]), "tiles")
    if not files:
        raise UsageError(f"source= names no image, got {options['source']!r}.")
    model = TileModel(opened(options["model"]), tiling, options["model"])
    print(_grid_of(model, options["model"]))
    return _predict(model, files, draw, folder_of(options, "tiles"))


def _grid_of(model: TileModel, name: str) -> str:
    """Say whether the model skips tiles."""
    if model.grid is None:
        return f"{name} has no grid: every layer runs on every tile. Models such as yolo11n-grid.yaml skip empty ones."
    if not model.threshold:
        return f"{name} has a grid with the threshold 0, which skips nothing: yolo-coordbifpn grid chooses one."
    return f"{name} skips tiles in which its grid scores below {model.threshold:.4f}."


def _predict(model: TileModel, files: list[Path], draw: bool, folder: Path) -> int:
    """Predict images and write the results; return the exit status."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from ultralytics.utils.files import increment_path

    from ..errors import InspectError
    from ..grids import tiles
    from ..inspection.sources import distinct_names

    folder = increment_path(folder, mkdir=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("tiles, left"), TimeRemainingColumn())
    found: list[dict[str, Any]] = []
    failures: list[str] = []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        counts = {file: model.count(file) for file in files}
        bar, before = progress.add_task("", total=sum(counts.values())), 0
        try:
            for file, name in zip(files, distinct_names(files)):
                start = time.perf_counter()
                try:
                    pixels = tiles.read_image(file)
                    image = model.predict(pixels, lambda done: progress.update(bar, completed=before + done))  # noqa: B023
                except InspectError as error:
                    failures.append(str(error))
                    continue
                finally:
                    before += counts[file]
                    progress.update(bar, completed=before)
                found.append(tiles.summary(image, file, len(found) + 1))
                seconds = time.perf_counter() - start
                if draw:
                    drawn = increment_path(folder / f"{name.replace('/', '_')}.png", sep="_")
                    tiles.draw(image, folder, drawn.stem)
                progress.console.print(_line(found[-1], seconds), soft_wrap=True, markup=False, highlight=False)
        finally:
            if found:
                tiles.write_json(found, model.yolo.names, folder / "predictions.json")
    for failure in failures:
        print(f"yolo-coordbifpn tiles: {failure}", file=sys.stderr)
    if found:
        total, skipped = (sum(x[key] for x in found) for key in ("tiles", "skipped"))
        print(f"{len(found)} image{'s' * (len(found) != 1)}, {total} tiles, {skipped} skipped ({skipped / total:.0%})")
        print(folder / "predictions.json")
    return 1 if failures else 0


def _line(summary: dict[str, Any], seconds: float) -> str:
    """Write the line of an image."""
    return (
        f"{summary['file_name']}: {summary['width']} x {summary['height']}, {summary['tiles']} tiles, "
        f"{summary['skipped']} skipped, {len(summary['objects'])} objects, {seconds:.1f} s"
    )
