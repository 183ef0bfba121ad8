"""Make large, sparse images of which the share of empty tiles is known, out of small ones.

    python scripts/large_images.py hituav=hituav/data.yaml out=big
    python scripts/large_images.py out=big

hituav= the data YAML of HIT-UAV; without it the images are drawn like those of `yolo-coordbifpn demo`
out=    folder to write
empty=  shares of empty tiles, in percent, separated by commas; default 50,80,95
count=  images for each share; default 3
seed=   default 0

An image is about 4,096 px wide and high and made of cells: those with objects are images of the second half of the
validation set, those without are object-free quarters of the same images, enlarged to a cell (drawn scenes: land,
water and trees). Cells with objects lie together, and as many are taken as bring the share of empty tiles next to
the one that is wanted; a tile is empty if no object has its centre in it, and the tiles are those of SAHI, 640 px with
an overlap of 0.2. Written are the images, `annotations.json` for each share in the form of COCO, and `data.yaml` for
training, whose validation set is the first half.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from run_script import run_script
from sahi.slicing import get_slice_bboxes

from yolo_coordbifpn.commands import UsageError, parse, whole_number
from yolo_coordbifpn.commands.scene_drawing import NAMES, OVERSAMPLING, Scene
from yolo_coordbifpn.commands.scenes import draw_scene, write_scenes

OPTIONS = {"hituav": "", "out": "", "empty": "50,80,95", "count": "3", "seed": "0"}
SIZE, TILE, OVERLAP = 4096, 640, 0.2  # pixels, pixels, share
_MARGIN = 8  # pixels between an object and an object-free part
Array = NDArray[Any]


@dataclass(frozen=True)
class Cell:
    """A part of a large image.

    Attributes:
        pixels: Shape (H, W, 3), RGB, uint8.
        objects: Class, left, top, width and height of each object, in pixels.
    """

    pixels: Array
    objects: tuple[tuple[int, float, float, float, float], ...] = ()


def main(words: list[str]) -> None:
    """Write the images and print their folders."""
    options = parse(words, OPTIONS)
    if not options["out"]:
        raise UsageError("out= must be the folder to write.")
    out, rng = Path(options["out"]), random.Random(whole_number(options, "seed", 0))
    out.mkdir(parents=True, exist_ok=True)
    if options["hituav"]:
        full, empty, names = _hituav(Path(options["hituav"]), out)
    else:
        full, empty, names = _drawn(out)
    for percent in map(int, options["empty"].split(",")):
        folder = out / f"{percent}"
        folder.mkdir(exist_ok=True)
        made = [_image(full, empty, percent / 100, rng) for _ in range(whole_number(options, "count", 1))]
        images, annotations = [], []
        for number, (cell, share) in enumerate(made, start=1):
            Image.fromarray(cell.pixels).save(folder / f"{number}.png")
            height, width = cell.pixels.shape[:2]
            images.append(
                {"id": number, "file_name": f"{number}.png", "width": width, "height": height, "empty": share}
            )
            annotations += [
                {"image_id": number, "category_id": c, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
                for c, x, y, w, h in cell.objects
            ]
        content = {
            "images": images,
            "annotations": [{"id": k, **x} for k, x in enumerate(annotations, start=1)],
            "categories": [{"id": k, "name": name} for k, name in names.items()],
        }
        (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
        shares = ", ".join(f"{share:.1%}" for _, share in made)
        print(f"{folder}: {shares} of the tiles are empty, {len(annotations)} objects")


def empty_tiles(objects: Any, width: int, height: int) -> float:
    """Return the share of the tiles of an image in which no object has its centre."""
    tiles = get_slice_bboxes(height, width, TILE, TILE, False, OVERLAP, OVERLAP)
    centres = [(x + w / 2, y + h / 2) for _, x, y, w, h in objects]
    full = sum(any(a <= x < c and b <= y < d for x, y in centres) for a, b, c, d in tiles)
    return 1 - full / len(tiles)


def _image(
    full: Callable[[random.Random], Cell], empty: Callable[[random.Random], Cell], share: float, rng: random.Random
) -> tuple[Cell, float]:
    """Put an image together; return it and its share of empty tiles."""
    height, width = full(rng).pixels.shape[:2]
    rows, columns = SIZE // height, SIZE // width
    middle = rng.randrange(rows), rng.randrange(columns)
    places = [(r, c) for r in range(rows) for c in range(columns)]
    places.sort(key=lambda x: (x[0] - middle[0]) ** 2 + (x[1] - middle[1]) ** 2)
    pixels = np.zeros((rows * height, columns * width, 3), dtype=np.uint8)
    objects: list[tuple[int, float, float, float, float]] = []
    for r, c in places:
        cell, candidate = empty(rng), full(rng)
        moved = [(k, x + c * width, y + r * height, w, h) for k, x, y, w, h in candidate.objects]
        now, then = (empty_tiles(x, pixels.shape[1], pixels.shape[0]) for x in (objects, [*objects, *moved]))
        if abs(then - share) <= abs(now - share) and now > share:
            cell, objects = candidate, [*objects, *moved]
        pixels[r * height : (r + 1) * height, c * width : (c + 1) * width] = cell.pixels
    return Cell(pixels, tuple(objects)), empty_tiles(objects, pixels.shape[1], pixels.shape[0])


def _hituav(data: Path, out: Path) -> tuple[Any, Any, dict[int, str]]:
    """Split the validation set, and return what draws a cell with objects and one without, and the classes."""
    config = yaml.safe_load(data.read_text(encoding="utf-8"))
    files = sorted((data.parent / config["val"]).absolute().iterdir())
    half = len(files) // 2
    (out / "val.txt").write_text("".join(f"{x}\n" for x in files[:half]), encoding="utf-8")
    train = str((data.parent / config["train"]).absolute())
    content = {"train": train, "val": str((out / "val.txt").absolute()), "names": config["names"]}
    (out / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    cells = [_read(x) for x in files[half:]]
    parts = [x for x in map(_free_part, cells) if x is not None]
    return (lambda rng: rng.choice(cells)), (lambda rng: _turned(rng.choice(parts), rng)), config["names"]


def _read(file: Path) -> Cell:
    """Read an image with its labels."""
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"))
    labels = file.parents[2] / "labels" / file.parent.name / f"{file.stem}.txt"
    rows = [[float(v) for v in line.split()] for line in labels.read_text(encoding="utf-8").splitlines()]
    height, width = pixels.shape[:2]
    return Cell(
        pixels,
        tuple((int(c), (x - w / 2) * width, (y - h / 2) * height, w * width, h * height) for c, x, y, w, h in rows),
    )


def _free_part(cell: Cell) -> Cell | None:
    """Enlarge an object-free quarter of a cell to a cell, as if the drone flew half as high; None if there is none."""
    height, width = cell.pixels.shape[:2]
    h, w = height // 2, width // 2
    for top in range(0, height - h + 1, h // 4):
        for left in range(0, width - w + 1, w // 4):
            near = (
                left - _MARGIN - a < x < left + w + _MARGIN and top - _MARGIN - b < y < top + h + _MARGIN
                for _, x, y, a, b in cell.objects
            )
            if not any(near):
                part = Image.fromarray(cell.pixels[top : top + h, left : left + w])
                return Cell(np.asarray(part.resize((width, height), Image.Resampling.BICUBIC)))
    return None


def _turned(cell: Cell, rng: random.Random) -> Cell:
    """Mirror an empty cell at random."""
    pixels = cell.pixels[:: rng.choice((1, -1)), :: rng.choice((1, -1))]
    return Cell(pixels)


def _drawn(out: Path) -> tuple[Any, Any, dict[int, str]]:
    """Draw a training set, and return what draws a cell with objects and one without, and the classes."""
    side = SIZE // 8
    write_scenes(out, train=300, val=100, size=side // 2, seed=0)

    def full(rng: random.Random) -> Cell:
        image, boxes = draw_scene(side, rng)
        objects = (((c, (x - w / 2) * side, (y - h / 2) * side, w * side, h * side)) for c, x, y, w, h in boxes)
        return Cell(np.asarray(image), tuple(objects))

    def empty(rng: random.Random) -> Cell:
        scene = Scene(side * OVERSAMPLING, rng)
        scene.land()
        if rng.random() < 0.6:
            scene.water()
        for _ in range(rng.randint(4, 14)):
            scene.tree()
        return Cell(np.asarray(scene.finish(side)[0]))

    return full, empty, dict(enumerate(NAMES))


if __name__ == "__main__":
    run_script(main)
