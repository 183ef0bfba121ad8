"""Plot of what the attention blocks do by epoch."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from ..files import write_figure
from .palette import GREY, style

COLUMNS = ["epoch", "layer", "block", "change", "channel_low", "channel_high", "within_map"]  # of attention.csv
_LABELLED = 8  # more blocks have no legend


def plot_effects(source: Path, save: Path) -> None:
    """Draw `attention.csv` into a PNG file: the change by each block, and the factors of the channels of CoordAtt.

    Args:
        source: The file that a training has written.
        save: PNG file to write.

    Raises:
        ValueError: If the file has no rows.
    """
    from matplotlib.figure import Figure

    blocks = _read(source)
    if not blocks:
        raise ValueError(f"{source} has no effects of attention")
    spreads = [rows for rows in blocks.values() if rows[0]["channel_low"]]
    figure = Figure(figsize=(6.4, 2.6 if not spreads else 4.8), layout="constrained")
    axes = figure.subplots(2 if spreads else 1, 1, sharex=True, squeeze=False)[:, 0]
    for k, (name, rows) in enumerate(blocks.items()):
        epochs = [int(x["epoch"]) for x in rows]
        look: dict[str, Any] = {**style(k), "markersize": 4, "markevery": max(1, len(epochs) // 8)}
        axes[0].plot(epochs, [float(x["change"]) for x in rows], label=name, linewidth=1.4, **look)
        if rows[0]["channel_low"]:
            for column in ("channel_low", "channel_high"):
                axes[1].plot(epochs, [float(x[column]) for x in rows], linewidth=1.2, **look)
    axes[0].set_ylabel("change, ||f(x) - x|| / ||x||", fontsize=8)
    axes[0].set_ylim(bottom=0)
    if len(blocks) <= _LABELLED:
        axes[0].legend(frameon=False, fontsize=8)
    if spreads:
        axes[1].axhline(1, color=GREY, linewidth=0.8, zorder=0)
        axes[1].set_ylabel("factor of the channels,\n5 % and 95 % quantile", fontsize=8)
    for x in axes:
        x.tick_params(labelsize=8)
        x.spines[["top", "right"]].set_visible(False)
        x.locator_params(axis="x", integer=True)
    axes[-1].set_xlabel("epoch", fontsize=9)
    write_figure(figure, save)


def _read(source: Path) -> dict[str, list[dict[str, str]]]:
    """Read the rows of each block."""
    blocks: dict[str, list[dict[str, str]]] = {}
    with source.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["change"] in (None, "") or row["within_map"] is None:  # the last one, if the training was killed
                continue
            blocks.setdefault(f"layer {row['layer']}: {row['block']}", []).append(row)
    return blocks
