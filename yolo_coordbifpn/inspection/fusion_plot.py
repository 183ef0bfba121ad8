"""Plot of the fusion weights by epoch."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

from ..files import write
from .labels import spread
from .palette import GREY, path_styles

COLUMNS = ["epoch", "layer", "node", "input", "weight"]  # of fusion_weights.csv
_Lines = dict[str, tuple[list[int], list[float]]]  # input -> epochs and weights


def plot_fusion_weights(source: Path, save: Path) -> None:
    """Draw `fusion_weights.csv` into a PNG file, see `draw_fusion_weights`.

    Args:
        source: The file that a training has written.
        save: PNG file to write.

    Raises:
        ValueError: If the file has no rows.
    """
    write(save, draw_fusion_weights(source))


def draw_fusion_weights(source: Path) -> bytes:
    """Draw `fusion_weights.csv`: a panel for each fusion, a line for each of its inputs.

    Args:
        source: The file that a training has written, with the columns epoch, layer, node, input and weight (normalised,
            0...1).

    Returns:
        A PNG file.

    Raises:
        ValueError: If the file has no rows.
    """
    from matplotlib.figure import Figure

    panels = _read(source)
    if not panels:
        raise ValueError(f"{source} has no fusion weights")
    columns = min(len(panels), 2 if len(panels) <= 4 else 4)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.9 * columns, 0.5 + 2.1 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    # the same for all panels, so that slopes can be compared
    span = max(0.06, 1.25 * max(_range(lines) for lines in panels.values()))
    for k, (axes, (title, lines)) in enumerate(zip(grid.flat, panels.items())):
        _panel(axes, title, lines, span)
        axes.tick_params(labelbottom=k + columns >= len(panels))  # epochs below the lowest panel of each column
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel("share of the input", fontsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=150, format="png")
    return stream.getvalue()


def _read(source: Path) -> dict[str, _Lines]:
    panels: dict[str, _Lines] = {}
    with source.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if not all(row.get(x) for x in COLUMNS):  # the last one may be cut if the training was killed
                continue
            lines = panels.setdefault(f"{row['node']} (layer {row['layer']})", {})
            epochs, weights = lines.setdefault(row["input"], ([], []))
            epochs.append(int(row["epoch"]))
            weights.append(float(row["weight"]))
    return panels


def _range(lines: _Lines) -> float:
    values = [x for _, weights in lines.values() for x in weights]
    return max(values) - min(values)


def _panel(axes: Any, title: str, lines: _Lines, span: float) -> None:
    """Draw one fusion, with the names of its inputs at the ends of their lines."""
    from matplotlib.ticker import MaxNLocator

    values = [x for _, weights in lines.values() for x in weights]
    middle = (max(values) + min(values)) / 2
    low = max(-0.02, middle - span / 2)  # a share is never negative
    axes.set_ylim(low, low + span)
    last = max(epoch for epochs, _ in lines.values() for epoch in epochs)
    first = min(epoch for epochs, _ in lines.values() for epoch in epochs)
    axes.hlines(1 / len(lines), first, last, color=GREY, linewidth=0.8, zorder=0)  # equal shares
    places = spread([weights[-1] for _, weights in lines.values()], span * 0.11)
    for (name, (epochs, weights)), place, style in zip(lines.items(), places, path_styles(lines)):
        every = max(1, len(epochs) // 8)
        axes.plot(epochs, weights, markersize=4, linewidth=1.4, markevery=every, **style)
        axes.annotate(
            f"{name} {weights[-1]:.3f}", (last, place), (6, 0), textcoords="offset points", color=style["color"],
            fontsize=8, va="center", annotation_clip=False,
        ).set_in_layout(False)  # fmt: skip
    width = last - first + 1
    room = 0.3 + 0.042 * max(map(len, lines))  # for the names and their shares, in widths of the curves
    axes.set_xlim(first - 0.02 * width, last + room * width)
    ticks = [x for x in MaxNLocator(integer=True, nbins=5).tick_values(first, last) if first < x < last]
    axes.set_xticks(sorted({first, *(x for x in ticks if last - x > (last - first) / 10), last}))
    axes.spines["bottom"].set_bounds(first, last)
    axes.tick_params(labelsize=8)
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
