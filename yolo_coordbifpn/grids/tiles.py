"""Large images, predicted tile by tile through SAHI; tiles in which the model's grid sees nothing are skipped.

Slicing, merging across tiles, conversion to COCO and drawing are those of SAHI (Akyon et al., arXiv 2202.06934). It
runs the model on batches of tiles, out of which the empty ones drop: see `patches/grid_skipping.py`.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from sahi.logger import logger
from sahi.models.ultralytics import UltralyticsDetectionModel
from sahi.predict import get_sliced_prediction
from sahi.prediction import ObjectPrediction
from sahi.slicing import get_slice_bboxes
from sahi.utils.cv import Colors, read_image_as_pil, read_image_size, visualize_object_predictions

from ..errors import InspectError
from ..files import write
from ..graph.layers import image_channels
from .measure import noted_scores

_TASKS = {"detect": "boxes", "segment": "masks", "obb": "rotated boxes"}  # what SAHI merges
_COPIES = 5  # of an image's pixels in memory, at most: read, shaded, drawn on, encoded
_SHADE = 0.45  # brightness of skipped tiles in a drawn image


@dataclass(frozen=True)
class Tiling:
    """How images are cut and predicted.

    Attributes:
        size: Width and height of a tile, in pixels.
        overlap: Share of a tile that it has in common with the next, 0...1.
        batch: Number of tiles in a forward pass.
        whole: Predict the whole image too, reduced to the size of a tile, for objects that are larger than one.
        conf: Scores below are no detections.
        imgsz: Size at which the model sees a tile, in pixels.
        device: Device of the host; None for its choice.
    """

    size: int
    overlap: float
    batch: int
    whole: bool
    conf: float
    imgsz: int
    device: str | None = None

    def boxes(self, width: int, height: int) -> list[list[int]]:
        """Return the tiles of an image: left, top, right, bottom, in pixels."""
        return get_slice_bboxes(
            height,
            width,
            self.size,
            self.size,
            False,
            overlap_height_ratio=self.overlap,
            overlap_width_ratio=self.overlap,
        )


@dataclass
class TiledImage:
    """An image that was predicted tile by tile.

    Attributes:
        pixels: The image, (height, width, 3), RGB, uint8.
        result: SAHI's result, with the objects.
        tiles: Left, top, right, bottom of each tile, in pixels.
        scores: Largest score of the grid in each tile; empty without a grid.
        skipped: Indices of the tiles that ran up to the grid alone.
    """

    pixels: Any
    result: Any
    tiles: list[list[int]]
    scores: list[float]
    skipped: list[int]


class _Model(UltralyticsDetectionModel):
    """SAHI's model, whose device the host chooses and checks, and whose tiles are quick to resize."""

    def set_device(self, device: str | None = None) -> None:
        """Keep the device for the host's `predict`."""
        self.device: Any = device

    def perform_batch_inference(self, images: list[Any]) -> None:
        """Predict tiles, each (height, width, 3), RGB.

        SAHI reverses the channels without copying, and OpenCV takes 20 times as long to resize a reversed tile as a
        contiguous one: so each tile is given as the reverse of a contiguous BGR tile.
        """
        super().perform_batch_inference([cv2.cvtColor(x, cv2.COLOR_RGB2BGR)[:, :, ::-1] for x in images])


class TileModel:
    """A model of the host under SAHI.

    Attributes:
        yolo: The host's model object.
        threshold: That of its grid; 0 if it has none.
    """

    def __init__(self, yolo: Any, tiling: Tiling, name: str) -> None:
        """Put a model under SAHI.

        Args:
            yolo: The host's model object, of a checkpoint.
            tiling: How images are cut.
            name: Name of the model for messages.

        Raises:
            InspectError: If the model is for a task whose results SAHI does not merge, or for images of other channels.
        """
        from ..blocks.grid import grid_of

        if yolo.task not in _TASKS:
            raise InspectError(
                f"{name} is a model for {yolo.task}; SAHI merges the results of tiles for {', '.join(_TASKS)}"
            )
        if image_channels(yolo.model) not in (1, 3):
            raise InspectError(
                f"{name} takes images of {image_channels(yolo.model)} channels; tiles are cut from images of 3 or 1"
            )
        self.yolo, self.tiling = yolo, tiling
        self.grid = grid_of(yolo.model)
        self.threshold = float(self.grid.threshold) if self.grid is not None else 0.0
        stride = int(max(yolo.model.stride))
        size = -(-tiling.imgsz // stride) * stride  # else the host rounds it for each batch, with a warning
        self._sahi = _Model(model=yolo, confidence_threshold=tiling.conf, image_size=size, device=tiling.device)

    def count(self, file: Path) -> int:
        """Return the number of tiles of an image, from its header; 0 if it cannot be read."""
        try:
            return len(self.tiling.boxes(*_quietly(read_image_size, file)))
        except Exception:  # `predict` says what is wrong
            return 0

    def predict(self, pixels: Any, progress: Callable[[int], None] = lambda done: None) -> TiledImage:
        """Predict an image.

        Args:
            pixels: Shape (height, width, 3), RGB, uint8.
            progress: Is given the number of tiles that are done, after each batch.
        """
        height, width = pixels.shape[:2]
        tiling, scores = self.tiling, list[float]()
        with noted_scores() as noted:

            def after(done: int, total: int) -> None:
                scores.extend(noted[-1] if noted else ())
                progress(done)

            result = get_sliced_prediction(
                pixels,
                self._sahi,
                slice_height=tiling.size,
                slice_width=tiling.size,
                overlap_height_ratio=tiling.overlap,
                overlap_width_ratio=tiling.overlap,
                perform_standard_pred=tiling.whole,
                batch_size=tiling.batch,
                progress_callback=after,
                auto_slice_resolution=False,
                verbose=0,
            )
        skipped = [k for k, score in enumerate(scores) if score < self.threshold]
        return TiledImage(pixels, result, tiling.boxes(width, height), scores, skipped)


def read_image(file: Path) -> Any:
    """Return the pixels of an image, (height, width, 3), RGB, uint8.

    Raises:
        InspectError: If it cannot be read, or is larger than the memory allows.
    """
    try:
        width, height = _quietly(read_image_size, file)
        needed, free = _COPIES * 3 * width * height, psutil.virtual_memory().available
        if needed > free:
            raise InspectError(
                f"{file}: {width} x {height} pixels need {needed / 2**30:.1f} GiB of memory, of which "
                f"{free / 2**30:.1f} GiB are free: cut the image into parts, each with a margin of a tile"
            )
        return _pixels(file)
    except InspectError:
        raise
    except Exception as error:  # SAHI tries several readers, and raises what the last one does
        raise InspectError(f"{file}: this is not an image, or its format is not supported") from error


def _pixels(file: Path) -> Any:
    """Read an image as `yolo predict` does, or if OpenCV cannot, as SAHI does."""
    from ultralytics.utils.patches import imread

    with contextlib.suppress(cv2.error):  # more pixels than OpenCV allows
        pixels = imread(str(file))
        if pixels is not None and pixels.ndim == 3 and pixels.shape[2] == 3:
            return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
    return np.ascontiguousarray(_quietly(read_image_as_pil, file, return_arr=True))


def _quietly(read: Callable[..., Any], file: Path, **options: Any) -> Any:
    """Read a file with SAHI, without its log of the readers that failed."""
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return read(str(file), **options)
    finally:
        logger.setLevel(level)


def draw(image: TiledImage, folder: Path, name: str) -> Path:
    """Draw the objects of an image; what only skipped tiles cover is dark.

    Args:
        image: The image.
        folder: Folder to write to.
        name: Name of the file, without its extension.
    """
    pixels = image.pixels.copy()
    if image.skipped:
        dark = np.ones(pixels.shape[:2], dtype=bool)
        for k in set(range(len(image.tiles))) - set(image.skipped):
            left, top, right, bottom = image.tiles[k]
            dark[top:bottom, left:right] = False
        for rows, row in zip(pixels, dark):  # row by row, to save memory
            rows[row] = (rows[row] * _SHADE).astype("uint8")
    objects = [_with_outline(x, pixels) for x in image.result.object_prediction_list]
    visualize_object_predictions(
        pixels,
        objects,
        rect_th=2,  # SAHI's own lines and letters grow with the image, and cover the objects
        text_size=0.5,
        text_th=1,
        output_dir=str(folder),
        file_name=name,
        export_format="png",
    )
    return folder / f"{name}.png"


def _with_outline(found: Any, pixels: Any) -> Any:
    """Draw the outline of a mask, and return the object without it: SAHI fills it in copies of the whole image."""
    parts = found.mask.segmentation if found.mask is not None else []
    if not parts or (len(parts) == 1 and len(parts[0]) == 8):  # a rotated box, of which SAHI draws the outline
        return found
    colour = Colors()(found.category.id)
    cv2.polylines(pixels, [np.reshape(x, (-1, 1, 2)).astype(np.int32) for x in parts], True, colour, 2)
    box = found.bbox.to_xyxy()
    return ObjectPrediction(box, found.category.id, found.category.name, score=found.score.value)


def write_json(images: Sequence[dict[str, Any]], names: dict[int, str], file: Path) -> None:
    """Write the objects of images as a COCO data set whose annotations have scores.

    Args:
        images: See `summary`.
        names: Names of the classes.
        file: The file.
    """
    annotations = [x for image in images for x in image["objects"]]
    data = {
        "images": [{k: v for k, v in image.items() if k != "objects"} for image in images],
        "annotations": [{"id": k, **x} for k, x in enumerate(annotations, start=1)],
        "categories": [{"id": k, "name": name} for k, name in names.items()],
    }
    write(file, json.dumps(data, default=float))  # SAHI has scores of NumPy


def summary(image: TiledImage, file: Path, number: int) -> dict[str, Any]:
    """Return what the JSON has of an image, with its `objects` in the form of COCO.

    Args:
        image: The image.
        file: Its file.
        number: Its `image_id`.
    """
    height, width = image.pixels.shape[:2]
    return {
        "id": number,
        "file_name": str(file),
        "width": width,
        "height": height,
        "tiles": len(image.tiles),
        "skipped": len(image.skipped),
        "objects": image.result.to_coco_predictions(image_id=number),
    }
