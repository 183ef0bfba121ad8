"""The gates of CoordAtt for one image, as arrays and drawn over the image.

Source: Hou, Zhou, Feng, CVPR 2021, arXiv 2103.02907, equations 6 to 9.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..blocks import CoordAtt

LEAST_SPAN = 0.02  # of the colour scale of a map


@dataclass(frozen=True)
class Gates:
    """The gates of one CoordAtt for one image.

    Attributes:
        name: Level and layer of the block, such as `P5, layer 9`.
        height: Height gate, shape (C, H), 0...1: the factor of each channel in each row of the feature map.
        width: Width gate, shape (C, W), 0...1: the same for the columns.
        gain: Constant factor of the block's output, see `CoordAtt`.
        region: Left, top, right and bottom of the feature map on the image, in the image's pixels; it extends beyond
            the image where the host has padded it.
    """

    name: str
    height: NDArray[np.float32]
    width: NDArray[np.float32]
    gain: float
    region: tuple[float, float, float, float]

    @property
    def product(self) -> NDArray[np.float32]:
        """Return the product of both gates, mean over the channels, shape (H, W), 0...1."""
        return np.einsum("ch,cw->hw", self.height, self.width) / len(self.height)

    @property
    def strongest(self) -> int:
        """Return the channel whose gates differ most over the image."""
        return int((np.ptp(self.height, axis=1) + np.ptp(self.width, axis=1)).argmax())

    @property
    def spread(self) -> tuple[float, float]:
        """Return how much a channel's gates differ over the image: the mean over the channels, and the maximum."""
        spans = np.concatenate((np.ptp(self.height, axis=1), np.ptp(self.width, axis=1)))
        return float(spans.mean()), float(spans.max())


@dataclass(frozen=True)
class Picture:
    """One image, with its detections and the gates of the blocks.

    Attributes:
        name: Name of the file, without its extension.
        image: The image, shape (height, width, 3), RGB, 0...255.
        found: The same with the host's drawing of the results: boxes, masks, key points or classes.
        gates: The gates of each CoordAtt, in the order of the layers.
    """

    name: str
    image: NDArray[np.uint8]
    found: NDArray[np.uint8]
    gates: tuple[Gates, ...]


def attention(model: Any) -> dict[str, CoordAtt]:
    """Return the CoordAtt blocks of a model, as layers or inside them, by their names in `model.model`."""
    return {name: m for name, m in model.model.named_modules() if isinstance(m, CoordAtt)}


def draw(picture: Picture) -> bytes:
    """Draw the height gate, the width gate and their product over an image, next to its detections.

    Args:
        picture: An image of any size; without gates its detections are shown alone.

    Returns:
        A PNG file. For each CoordAtt it has a row with the means over the channels, where channels that differ may
        cancel, and a row with the channel whose gates differ most; a colour scale is below each map.
    """
    from matplotlib.figure import Figure

    height, width = picture.image.shape[:2]
    rows = max(1, 2 * len(picture.gates))
    columns = 4 if picture.gates else 1
    side = 2.5
    tall = float(np.clip(height / width, 0.4, 1.8)) * side
    figure = Figure(figsize=(columns * (side + 0.15), rows * (tall + 0.8)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    grid[0, 0].imshow(picture.found)
    grid[0, 0].set_title(picture.name if len(picture.name) < 34 else f"{picture.name[:30]}...", fontsize=8.5)
    for k, gates in enumerate(picture.gates):
        all_channels, one = list(range(len(gates.height))), gates.strongest
        for line, channels, text in (
            (2 * k, all_channels, f"mean of {len(all_channels)} channels"),
            (2 * k + 1, [one], f"channel {one}"),
        ):
            maps = _maps(gates.height[channels], gates.width[channels])
            for axes, (name, values) in zip(grid[line, 1:], maps.items()):
                _overlay(figure, axes, picture.image, values, gates.region)
                axes.set_title(f"{gates.name}\n{name}, {text}", fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110, format="png", facecolor="white")
    return stream.getvalue()


def _maps(height: NDArray[np.float32], width: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return gates of shapes (C, H) and (C, W) and their product as maps of shape (H, W), means over the channels."""
    h, w = height[:, :, None], width[:, None]
    whole = np.ones_like(h * w)
    return {"height gate": (h * whole).mean(0), "width gate": (w * whole).mean(0), "product": (h * w).mean(0)}


def _overlay(
    figure: Any, axes: Any, image: NDArray[np.uint8], values: NDArray[np.float32], region: Sequence[float]
) -> None:
    """Draw a map over a pale grey image, at its region, with a colour scale below it."""
    height, width = image.shape[:2]
    grey = image.mean(2) if image.ndim == 3 else image
    axes.imshow(grey, cmap="gray", vmin=-260, vmax=300)  # pale, so that the brightness of the map is visible
    left, top, right, bottom = region
    heat = axes.imshow(values, cmap="cividis", alpha=0.55, extent=(left, right, bottom, top), interpolation="nearest")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    low, high = float(values.min()), float(values.max())
    middle, half = (low + high) / 2, max(high - low, LEAST_SPAN) / 2  # small differences must look small
    heat.set_clim(middle - half, middle + half)
    bar = figure.colorbar(heat, ax=axes, orientation="horizontal", fraction=0.05, pad=0.02)
    bar.solids.set_alpha(1)
    bar.set_ticks([middle - half, middle + half], labels=[f"{x:.3f}" for x in (middle - half, middle + half)])
    bar.ax.tick_params(labelsize=7)
