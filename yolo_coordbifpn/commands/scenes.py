"""A small detection data set of aerial scenes, drawn by code from a seed, without any download.

Each image shows a stretch of coast or land from above. Fields, water, roads, trees and their shadows are background;
cars, trucks, boats, houses and storage tanks, from a few pixels to a third of the image, are the objects.
"""

from __future__ import annotations

import random
from pathlib import Path

import yaml
from PIL import Image

from .scene_drawing import NAMES, OVERSAMPLING, Scene

__all__ = ["NAMES", "draw_scene", "write_scenes"]


def write_scenes(folder: Path, train: int, val: int, size: int, seed: int) -> Path:
    """Write the data set in the host's layout: images, labels, data.yaml.

    Args:
        folder: Folder to write to; created if it does not exist.
        train: Number of training images.
        val: Number of validation images.
        size: Height and width of an image in pixels.
        seed: The same seed gives the same images.

    Returns:
        Path of the `data.yaml`.
    """
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image, boxes = draw_scene(size, random.Random(f"{seed}/{split}/{number}"))
            image.save(folder / "images" / split / f"{number:04}.png")
            lines = (f"{c} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for c, x, y, w, h in boxes)
            (folder / "labels" / split / f"{number:04}.txt").write_text("".join(lines), encoding="utf-8")
    names = dict(enumerate(NAMES))
    data = {"path": str(folder.resolve()), "train": "images/train", "val": "images/val", "names": names}
    (folder / "data.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return folder / "data.yaml"


def draw_scene(size: int, rng: random.Random) -> tuple[Image.Image, list[tuple[int, float, float, float, float]]]:
    """Draw one image.

    Args:
        size: Height and width in pixels.
        rng: Source of all randomness.

    Returns:
        The image, and its boxes as (class, x centre, y centre, width, height), all but the class in 0...1.
    """
    scene = Scene(size * OVERSAMPLING, rng)
    scene.land()
    if rng.random() < 0.6:
        scene.water()
    for _ in range(rng.choice((1, 1, 2))):
        scene.road()
    if scene.shore is not None:
        for _ in range(rng.randint(2, 5)):
            scene.boat()
    for _ in range(rng.randint(1, 4)):
        scene.house()
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        scene.tank()
    for road in scene.roads:
        for _ in range(rng.randint(1, 3)):
            scene.vehicle(road, "truck")
        for _ in range(rng.randint(2, 5)):
            scene.vehicle(road, "car")
    for _ in range(rng.randint(4, 14)):
        scene.tree()
    return scene.finish(size)
