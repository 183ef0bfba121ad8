"""Plots of a comparison: a metric by epoch and against latency, readable in greyscale and for the colour-blind.

Each model has its own colour, marker and line.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from ..files import write_figure
from ..inspection.labels import plain
from ..inspection.palette import style
from .metrics import short_name
from .plan import Plan
from .statistics import interval


def curves(plan: Plan, metric: str) -> Path | None:
    """Plot the mean and 95 % interval of a metric by epoch, as the host validates it during the training.

    Returns:
        The file `curves.png`, or None if no run has such a column.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    shown: dict[str, Any] = {}
    for k, label in enumerate(plan.labels):
        rows = [x for run in plan.runs if run.label == label and run.result and (x := _by_epoch(run.folder, metric))]
        if not rows:
            continue
        epochs = range(min(map(len, rows)))
        found = [interval([row[i] for row in rows]) for i in epochs]
        x = [i + 1 for i in epochs]
        look = style(k)
        (shown[label],) = axes.plot(x, [f.mean for f in found], markersize=4, markevery=max(1, len(x) // 10), **look)
        if len(rows) > 1:
            axes.fill_between(x, [f.low for f in found], [f.high for f in found], color=look["color"], alpha=0.12, lw=0)
    if not shown:
        return None
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # a single epoch gets one tick
    axes.set_ylabel(short_name(metric))
    axes.set_ylim(0, min(axes.get_ylim()[1], 1))
    axes.grid(alpha=0.25)
    _legend(figure, shown)
    axes.set_title(f"Mean and 95 % interval over {plan.seed_counts} seeds", fontsize=10)
    return write_figure(figure, plan.folder / "curves.png", dpi=200)


def pareto(plan: Plan, metric: str, latency: dict[str, Any]) -> Path | None:
    """Plot a metric against latency, with the 95 % interval over seeds and the quartiles of the latency.

    Returns:
        The file `pareto.png`, or None if no latency is known.
    """
    from matplotlib.figure import Figure

    times = latency.get("models", {})
    if not times:
        return None
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    scores = plan.scores(metric)
    shown: dict[str, Any] = {}
    for k, label in enumerate(plan.labels):
        if label not in times:
            continue
        found = interval(list(scores[label].values()))
        time = times[label]
        shown[label] = axes.errorbar(
            time["median"],
            found.mean,
            xerr=[[time["median"] - time["low"]], [time["high"] - time["median"]]],
            yerr=None if found.count < 2 else [[found.mean - found.low], [found.high - found.mean]],
            **{**style(k), "linestyle": "none"},
            markersize=max(14 - 1.7 * k, 6),  # a larger point stays visible behind a smaller one
            markeredgecolor="white",
            markeredgewidth=0.7,
            elinewidth=1,
            capsize=3,
        )
    axes.set_xlabel(f"latency (ms), batch 1, {latency['imgsz']} px, {latency['device']}", fontsize=9)
    axes.set_ylabel(short_name(metric))
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 1))  # an interval of few seeds may extend beyond any possible value
    axes.grid(alpha=0.25)
    _legend(figure, shown)
    axes.set_title("Bars: 95 % interval over seeds, quartiles of the latency", fontsize=10)
    return write_figure(figure, plan.folder / "pareto.png", dpi=200)


def _legend(figure: Any, shown: dict[str, Any]) -> None:
    """Draw the names of the models below the axes, where they cover no point; one may begin with `_`."""
    columns = 2 if max(map(len, shown), default=0) < 36 else 1
    names = [*map(plain, shown)]
    figure.legend([*shown.values()], names, frameon=False, loc="outside lower center", ncols=columns)


def _by_epoch(folder: Path, metric: str) -> list[float]:
    """Read a column of the host's `results.csv`."""
    file = folder / "train" / "results.csv"
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        rows = [{k.strip(): v for k, v in row.items()} for row in csv.DictReader(stream)]
    return [float(row[metric]) for row in rows if row.get(metric)]
