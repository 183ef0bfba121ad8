"""The gates of CoordAtt and the maps of SpatialGate drawn over an image, for one model or for two below each other."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .gates import Gates, InspectedImage, SpatialMap
from .labels import plain

_COLUMNS = 3  # of maps, beside the detections
LEAST_SPAN = 0.02  # of the colour scale of a map: small differences must look small


@dataclass(frozen=True)
class _Row:
    """Maps beside each other: of one CoordAtt, the means over all channels or one channel, or of some SpatialGate."""

    region: tuple[float, float, float, float]
    maps: dict[str, NDArray[np.float32]]  # by title, each of shape (H, W)


def draw(images: Mapping[str, InspectedImage]) -> bytes:
    """Draw the gates of CoordAtt, with their product, and the factors of SpatialGate over an image with its detections.

    Args:
        images: The same image as inspected with each model, by the name of the model. The names are shown for several
            models; without gates the detections are shown alone.

    Returns:
        A PNG file. For each CoordAtt it has a row with the means over the channels, where channels that differ may
        cancel, and a row with the channel whose gates differ most, the same for a block of the same place in all
        models. For each SpatialGate it has the factor 1 + gamma * A(U), three of them in a row. A colour scale is below
        each map; maps of the same place have the same scale.
    """
    from matplotlib.figure import Figure

    channels = {g.name: g.strongest for image in images.values() for g in image.gates}  # the last model decides
    rows = {
        label: [*(row for g in image.gates for row in _rows(g, channels[g.name])), *_map_rows(image.maps)]
        for label, image in images.items()
    }
    scales = _scales(row for some in rows.values() for row in some)
    beside = not scales
    lines, columns = (1, len(images)) if beside else (sum(max(1, len(x)) for x in rows.values()), 1 + _COLUMNS)
    height, width = next(iter(images.values())).pixels.shape[:2]
    side = 2.5
    tall = float(np.clip(height / width, 0.4, 1.8)) * side
    figure = Figure(figsize=(columns * (side + 0.15), lines * (tall + 0.8)), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    line = 0
    for k, (label, image) in enumerate(images.items()):
        axes = grid[0, k] if beside else grid[line, 0]
        axes.imshow(image.annotated)
        names = ([label] if len(images) > 1 else []) + [image.name]
        axes.set_title("\n".join(plain(_end(x)) for x in names), fontsize=8.5)
        for row, cells in zip(rows[label], grid[line:, 1:]):
            for axes, (title, values) in zip(cells, row.maps.items()):
                _overlay(figure, axes, image.pixels, values, row.region, scales[title])
                axes.set_title(plain(title), fontsize=8)
        line += max(1, len(rows[label]))
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110, format="png", facecolor="white")
    return stream.getvalue()


def _end(text: str) -> str:
    """Return a text, or the end of a long one."""
    return text if len(text) < 34 else f"...{text[-30:]}"


def _rows(gates: Gates, channel: int) -> list[_Row]:
    count = len(gates.height)
    one = gates.strongest if channel >= count else channel  # another model may have fewer channels there
    texts = {f"mean of {count} channels": slice(None), f"channel {one}": slice(one, one + 1)}
    return [
        _Row(
            gates.region,
            {f"{gates.name}\n{k}, {text}": v for k, v in _maps(gates.height[part], gates.width[part]).items()},
        )
        for text, part in texts.items()
    ]


def _map_rows(maps: Sequence[SpatialMap]) -> list[_Row]:
    """Put the factors of spatial gates beside each other, three in a row."""
    return [
        _Row(maps[k].region, {f"{x.name}\nfactor of the detailed feature": x.factor for x in maps[k : k + _COLUMNS]})
        for k in range(0, len(maps), _COLUMNS)
    ]


def _maps(height: NDArray[np.float32], width: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return gates of shapes (C, H) and (C, W) and their product as maps of shape (H, W), means over the channels."""
    h, w = height[:, :, None], width[:, None]
    whole = np.ones_like(h * w)
    return {"height gate": (h * whole).mean(0), "width gate": (w * whole).mean(0), "product": (h * w).mean(0)}


def _scales(rows: Iterable[_Row]) -> dict[str, tuple[float, float]]:
    """Return the ends of the colour scale of each map, by its title."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for title, x in row.maps.items():
            values.setdefault(title, []).extend((float(x.min()), float(x.max())))
    scales = {}
    for key, found in values.items():
        middle, half = (min(found) + max(found)) / 2, max(max(found) - min(found), LEAST_SPAN) / 2
        scales[key] = (middle - half, middle + half)
    return scales


def _overlay(
    figure: Any,
    axes: Any,
    image: NDArray[np.uint8],
    values: NDArray[np.float32],
    region: Sequence[float],
    scale: tuple[float, float],
) -> None:
    """Draw a map over a pale grey image, at its region, with a colour scale below it."""
    height, width = image.shape[:2]
    grey = image.mean(2) if image.ndim == 3 else image
    axes.imshow(grey, cmap="gray", vmin=-260, vmax=300)  # pale, so that the brightness of the map is visible
    left, top, right, bottom = region
    heat = axes.imshow(values, cmap="cividis", alpha=0.55, extent=(left, right, bottom, top), interpolation="nearest")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    heat.set_clim(*scale)
    bar = figure.colorbar(heat, ax=axes, orientation="horizontal", fraction=0.05, pad=0.02)
    bar.solids.set_alpha(1)
    bar.set_ticks(scale, labels=[f"{x:.3f}" for x in scale])
    bar.ax.tick_params(labelsize=7)
