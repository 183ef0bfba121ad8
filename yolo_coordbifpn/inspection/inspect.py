"""Inspection of a trained model: the weights of its fusions, and its CoordAtt gates for given images."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..graph.paths import Fusion, fusions
from .capture import attention_names, capture
from .gates import Picture, attention
from .sources import image_files, opened, torch_model


@dataclass(frozen=True)
class Inspection:
    """What the blocks of a model learned.

    Attributes:
        model: A copy of the model as it was loaded, not fused for inference.
        fusions: Its weighted fusions.
        pictures: Each image with its detections and gates.
    """

    model: Any
    fusions: list[Fusion]
    pictures: list[Picture]

    @property
    def attention(self) -> list[str]:
        """Return the names of its CoordAtt blocks."""
        return list(attention(self.model))


def fusion_weights(model: Any) -> list[Fusion]:
    """Return how the weighted fusions of a model weight their inputs.

    Args:
        model: A YOLO object, its torch model, or the name of a checkpoint or model YAML.

    Returns:
        For each BiFPN_Concat and BiFPN_Add its place, the names of its inputs, and `weights`: the normalised weights,
        shape (inputs,), no unit, 0...1, sum just under 1. Empty for a stock model.

    Raises:
        InspectError: If the model is none of these, such as an exported model.
    """
    return fusions(torch_model(opened(model)))


def inspect(model: Any, source: str | Path | list[str | Path] | None = None, **arguments: Any) -> Inspection:
    """Show what the blocks of a model learned, on given images.

    The gates are those of the forward pass of the host's own prediction. Its letterbox is undone: `Gates.region` says
    where on the image a map lies.

    Args:
        model: A YOLO object, or the name of a checkpoint or model YAML.
        source: An image, a folder of images, or a list of both; None for the fusions alone.
        arguments: Arguments of the host's `predict`, such as `imgsz`, `conf` and `device`.

    Returns:
        The fusions with their weights, shape (inputs,); for each image its pixels, shape (height, width, 3), and for
        each CoordAtt the height gate, shape (C, H), the width gate, shape (C, W), and their product, shape (H, W).

    Raises:
        InspectError: If the model or an image does not exist or cannot be opened.
    """
    yolo = opened(model)
    whole = copy.deepcopy(torch_model(yolo))  # some hosts fuse the model that they predict with
    files = [] if source is None else image_files(source)
    names = attention_names(whole)
    return Inspection(whole, fusions(whole), [capture(yolo, file, names, arguments) for file in files])
