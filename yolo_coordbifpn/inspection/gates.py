"""The gates of CoordAtt and the maps of SpatialGate for one image, as arrays.

Source: Hou, Zhou, Feng, CVPR 2021, arXiv 2103.02907, equations 6 to 9; for SpatialGate see the block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..blocks import CoordAtt, SpatialGate

TOLERANCE = 0.01  # gates and shares that differ by no more count as equal


@dataclass(frozen=True, repr=False)
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

    @property
    def factors(self) -> NDArray[np.float32]:
        """Return the factor of each channel with its gain, mean over the image, shape (C,)."""
        return self.gain * self.height.mean(1) * self.width.mean(1)

    @property
    def flat(self) -> bool:
        """Return whether no gate differs by more than 0.01 over the image."""
        return self.spread[1] <= TOLERANCE

    @property
    def at_start(self) -> bool:
        """Return whether every gate is within 0.01 of 1/2, as in a block that is initialised as the identity."""
        return bool(np.abs(np.concatenate((self.height, self.width), axis=1) - 0.5).max() <= TOLERANCE)

    def __repr__(self) -> str:
        (channels, height), width = self.height.shape, self.width.shape[1]
        return f"Gates({self.name}, {channels} channels, {height} x {width})"


@dataclass(frozen=True, repr=False)
class SpatialMap:
    """The map of one SpatialGate for one image.

    Attributes:
        name: Level and layer of the block, such as `P4, layer 18`.
        map: A(U), shape (H, W), 0...1: where the semantic feature attends.
        gamma: The block's gamma, by which the map amplifies the detailed feature.
        region: As in `Gates`.
    """

    name: str
    map: NDArray[np.float32]
    gamma: float
    region: tuple[float, float, float, float]

    @property
    def factor(self) -> NDArray[np.float32]:
        """Return the factor of the detailed feature at each place, 1 + gamma * A(U), shape (H, W)."""
        return 1 + self.gamma * self.map

    @property
    def flat(self) -> bool:
        """Return whether the factor differs by no more than 0.01 over the image."""
        return float(np.ptp(self.factor)) <= TOLERANCE

    def __repr__(self) -> str:
        return f"SpatialMap({self.name}, gamma {self.gamma:.3f}, {self.map.shape[0]} x {self.map.shape[1]})"


@dataclass(frozen=True, repr=False)
class InspectedImage:
    """One image, with the results of the prediction and the gates of the blocks.

    Attributes:
        name: Name of the file without its extension, after its folder if another image has the same name.
        pixels: The image, shape (height, width, 3), RGB, 0...255.
        annotated: The same with the host's drawing of the results: boxes, masks, key points or classes.
        gates: The gates of each CoordAtt, in the order of the layers.
        maps: The map of each SpatialGate, in the order of the layers.
    """

    name: str
    pixels: NDArray[np.uint8]
    annotated: NDArray[np.uint8]
    gates: tuple[Gates, ...]
    maps: tuple[SpatialMap, ...] = ()

    def __repr__(self) -> str:
        height, width = self.pixels.shape[:2]
        counts = f"{len(self.gates)} CoordAtt" + (f", {len(self.maps)} SpatialGate" if self.maps else "")
        return f"InspectedImage({self.name}, {width} x {height} pixels, {counts})"


def attention(model: Any) -> dict[str, CoordAtt]:
    """Return the CoordAtt blocks of a model, as layers or inside them, by their names in `model.model`."""
    return {name: m for name, m in model.model.named_modules() if isinstance(m, CoordAtt)}


def spatial_gates(model: Any) -> dict[str, SpatialGate]:
    """Return the SpatialGate blocks of a model, as layers or inside them, by their names in `model.model`."""
    return {name: m for name, m in model.model.named_modules() if isinstance(m, SpatialGate)}
