"""Make a crowd out of BCCD: more red cells, pasted so that each overlaps a neighbour by a chosen IoU.

    python scripts/crowd_cells.py data=bccd/data.yaml out=crowd

data=   the data YAML of BCCD, with folders of images under `train` and `val`
out=    folder to write; the new data YAML is in it
pasted= cells pasted into each image; default 8
low=    smallest IoU of a pasted cell with its neighbour; default 0.3
high=   largest; default 0.75
seed=   default 0

The images of the new set are those of BCCD, and their labels too, with those of the pasted cells. A pasted cell is a
real one of the same part of the data, of nearly the size of its neighbour. The microscope looks through the cells, so
the light that a pasted cell absorbs is multiplied into the image, inside the ellipse of its box: both stay visible,
as real cells do that lie over each other. The IoU is drawn evenly between the bounds, the direction too; the box is
moved in this direction until it has the IoU. Nothing else is controlled: where three cells meet, an IoU can be larger.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from run_script import run_script

from yolo_coordbifpn.commands import UsageError, parse, whole_number

OPTIONS = {"data": "", "out": "", "pasted": "8", "low": "0.3", "high": "0.75", "seed": "0"}
Array = NDArray[Any]
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
CELL = 0  # class of the red cells


def main(words: list[str]) -> None:
    """Write the set."""
    options = parse(words, OPTIONS)
    if not options["data"] or not options["out"]:
        raise UsageError("data= must be the data YAML of BCCD, and out= the folder to write.")
    source, out = Path(options["data"]), Path(options["out"])
    if out.resolve() == source.parent.resolve():
        raise UsageError(f"out={out} is the folder of the data itself, whose images would be overwritten.")
    config = yaml.safe_load(source.read_text(encoding="utf-8"))
    low, high = float(options["low"]), float(options["high"])
    generator = random.Random(whole_number(options, "seed", 0))
    for part in ("train", "val"):
        files = sorted((source.parent / config[part]).glob("*.jpg"))
        images = [(_read(x), _labels(x)) for x in files]
        cells = [x for image, labels in images for x in _cells(image, labels)]
        for name in ("images", "labels"):
            (out / name / part).mkdir(parents=True, exist_ok=True)
        for file, (image, labels) in zip(files, images):
            for _ in range(whole_number(options, "pasted", 0)):
                labels = paste(image, labels, generator.choice(cells), generator, (low, high))
            cv2.imwrite(str(out / "images" / part / file.name), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
            _write(out / "labels" / part / f"{file.stem}.txt", image, labels)
    content = {"train": "images/train", "val": "images/val", "names": config["names"]}
    (out / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    print(out / "data.yaml")


def paste(
    image: Array,
    labels: list[tuple[int, Box]],
    cell: Array,
    generator: random.Random,
    bounds: tuple[float, float],
) -> list[tuple[int, Box]]:
    """Paste one cell beside another one of the image, in place.

    Args:
        image: Pixels, shape (H, W, 3), 0...255.
        labels: Class and box of each object.
        cell: The light that the cell lets through, shape (h, w, 3), 0...1.
        generator: Draws neighbour, size, direction and IoU.
        bounds: Smallest and largest IoU.

    Returns:
        The labels with that of the new cell; as they were if the image has no red cell, or no room there.
    """
    neighbours = [box for c, box in labels if c == CELL]
    if not neighbours:
        return labels
    x1, y1, x2, y2 = generator.choice(neighbours)
    width, height = ((b - a) * generator.uniform(0.9, 1.1) for a, b in ((x1, x2), (y1, y2)))
    angle, target = generator.uniform(0, 2 * np.pi), generator.uniform(*bounds)
    near, far = 0.0, 2 * max(x2 - x1, y2 - y1)
    for _ in range(30):  # bisection: the IoU falls with the distance
        middle = (near + far) / 2
        cx, cy = (x1 + x2) / 2 + middle * np.cos(angle), (y1 + y2) / 2 + middle * np.sin(angle)
        box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        near, far = (middle, far) if iou(box, (x1, y1, x2, y2)) > target else (near, middle)
    left, top, right, bottom = (round(x) for x in box)
    if left < 0 or top < 0 or right > image.shape[1] or bottom > image.shape[0]:
        return labels
    light = cv2.resize(cell, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    image[top:bottom, left:right] = (image[top:bottom, left:right] * light).round().clip(0, 255)
    return [*labels, (CELL, (float(left), float(top), float(right), float(bottom)))]


def iou(a: Box, b: Box) -> float:
    """Return the IoU of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def _cells(image: Array, labels: list[tuple[int, Box]]) -> list[Array]:
    """Cut out the red cells that touch no other object, as the light that they let through, 1 outside their ellipse."""
    found = []
    boxes = [box for _, box in labels]
    background = np.percentile(image.reshape(-1, 3), 90, axis=0)
    for c, box in labels:
        x1, y1, x2, y2 = (int(x) for x in box)
        inside = x1 > 1 and y1 > 1 and x2 < image.shape[1] - 1 and y2 < image.shape[0] - 1
        if c != CELL or not inside or sum(iou(box, x) > 0 for x in boxes) > 1 or min(x2 - x1, y2 - y1) < 40:
            continue
        light = np.minimum(image[y1:y2, x1:x2] / background, 1.0).astype(np.float32)
        y, x = np.mgrid[-1 : 1 : (y2 - y1) * 1j, -1 : 1 : (x2 - x1) * 1j]
        weight = np.clip((1 - np.hypot(x, y)) / 0.1, 0, 1)[..., None].astype(np.float32)  # soft at the rim
        found.append(light * weight + (1 - weight))
    return found


def _read(file: Path) -> Array:
    """Read an image.

    Raises:
        UsageError: If that is not possible.
    """
    image = cv2.imread(str(file))
    if image is None:
        raise UsageError(f"data=: {file} cannot be read as an image.")
    return image


def _labels(image: Path) -> list[tuple[int, Box]]:
    """Read the labels of an image, boxes in pixels."""
    height, width = _read(image).shape[:2]
    file = image.parents[2] / "labels" / image.parent.name / f"{image.stem}.txt"
    rows = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    found = []
    for c, *numbers in rows:
        x, y, w, h = map(float, numbers)
        box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        found.append((int(c), box))
    return found


def _write(file: Path, image: Array, labels: list[tuple[int, Box]]) -> None:
    """Write labels as the host reads them."""
    height, width = image.shape[:2]
    lines = [
        f"{c} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} {(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f}"
        for c, (x1, y1, x2, y2) in labels
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
