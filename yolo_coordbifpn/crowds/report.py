"""Table, CSV and plot of several NMS on the same predictions."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write, write_figure
from ..inspection.palette import style
from .scores import CROWDED, Score


def table(scores: Sequence[Score]) -> str:
    """Write the table; a star marks the largest mAP50-95 of each kind."""
    stars = best(scores).values()
    rows = [{**x.row(), "": "*" if x in stars else ""} for x in scores]
    cells = [[*rows[0]], *([*row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(map(str.rjust, line, widths)).rstrip() for line in cells)


def best(scores: Sequence[Score]) -> dict[str, Score]:
    """Return the score with the largest mAP50-95 of each kind."""
    kinds = dict.fromkeys(x.kind for x in scores)
    return {kind: max((x for x in scores if x.kind == kind), key=lambda x: x.map) for kind in kinds}


def verdict(scores: Sequence[Score]) -> str:
    """Say in a sentence whether the adaptive threshold is better than the best fixed one."""
    if all(math.isnan(x.recall) for x in scores):
        return "The data have no objects, so no NMS is better than another."
    found = best(scores)
    fixed, adaptive = found["fixed"], found.get("adaptive")
    if adaptive is None:
        return "The model has no DensityHead, so there is no adaptive NMS to measure; model names take -anms."
    more = adaptive.map - fixed.map
    which = "better than" if more > 5e-5 else "worse than" if more < -5e-5 else "as good as"
    return (
        f"Adaptive NMS at its best N_t, {adaptive.threshold:.2f}, is {which} the best fixed threshold, "
        f"{fixed.threshold:.2f}: mAP50-95 {adaptive.map:.4f} and {fixed.map:.4f}. Both thresholds are chosen on these "
        "data."
    )


def write_report(scores: Sequence[Score], folder: Path) -> list[Path]:
    """Write `nms.csv` and `nms.png` into a folder, which is made if it is missing; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(scores[0].row()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(x.row() for x in scores)
    write(folder / "nms.csv", stream.getvalue())
    return [folder / "nms.csv", _draw(scores, folder / "nms.png")]


def _draw(scores: Sequence[Score], file: Path) -> Path:
    """Plot mAP against the threshold, and the recall of crowded objects against the false positives."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for k, kind in enumerate(best(scores)):
        own = [x for x in scores if x.kind == kind]
        look: dict[str, Any] = {**style(k), "markersize": 5, "label": kind}
        left.plot([x.threshold for x in own], [x.map for x in own], **look)
        right.plot([x.false_positives for x in own], [x.crowded[-1] for x in own], **look)
    left.set(xlabel="overlap threshold, N_t", ylabel="mAP50-95")
    right.set(xlabel="false positives per image", ylabel=f"recall of objects with density > {CROWDED[-1]}")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    return write_figure(figure, file)
