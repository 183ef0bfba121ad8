"""The tables and the plot of the study, from the rows of its runs, and the latency of its treatments.

    python scripts/study_report.py latency=True    measures the treatments; writes scripts/results/study_latency.csv
    python scripts/study_report.py                 draws scripts/results/study.png

The tables are in scripts/results/study.md, where `python scripts/make_tables.py` writes them. Differences from the
stock model are paired by seed. Their 95 % intervals are adjusted for the number of treatments of a stage (Dunnett in
blocks, see `yolo_coordbifpn.compare.simultaneous`).
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from csv_rows import read, write
from markdown_table import markdown, with_bounds
from run_script import run_script
from study_plan import STAGES, TREATMENTS

import yolo_coordbifpn
from yolo_coordbifpn.commands import parse, truth
from yolo_coordbifpn.compare.latency import in_turn
from yolo_coordbifpn.compare.simultaneous import critical_value, differences, error_variance
from yolo_coordbifpn.compare.statistics import Interval
from yolo_coordbifpn.host.machine import machine
from yolo_coordbifpn.host.models import build, load
from yolo_coordbifpn.inspection.palette import BLACK, GREY, VERMILION

RESULTS = Path(__file__).resolve().parent / "results"
STOCK, METRIC = "stock", "mAP50-95"
SIZE = {"hituav": "AP small", "bccd": "AP medium"}  # of which each class has at least 50 objects
FIELDS = ("imgsz", "treatment", "ratio", "low", "high", "rounds", "machine")
ROUNDS = 200
Rows = Sequence[Mapping[str, str]]


def main(words: list[str]) -> None:
    """Measure the latency, or draw."""
    if truth(parse(words, {"latency": "False"}), "latency"):
        measure(RESULTS / "study_latency.csv")
    else:
        draw(read(RESULTS / "study.csv"), read(RESULTS / "study_latency.csv"), RESULTS / "study.png")


def scores(rows: Rows, stage: str, metric: str) -> dict[str, dict[int, float]]:
    """Return a metric of a stage by treatment and seed, the stock model first."""
    found: dict[str, dict[int, float]] = {STOCK: {}}
    for row in rows:
        if row["stage"] == stage and row[metric]:
            found.setdefault(row["treatment"], {})[int(row["seed"])] = float(row[metric])
    return found


def table(rows: Rows, latency: Rows, stage: str) -> str:
    """Write the treatments of a stage, the best first: differences from the stock model, and what the blocks do."""
    gains = differences(scores(rows, stage, METRIC))
    others = {x: differences(scores(rows, stage, x)) for x in ("mAP50", SIZE[STAGES[stage].data])}
    costs = {x["treatment"]: latency_of(x) for x in latency if int(x["imgsz"]) == STAGES[stage].imgsz}
    lines = []
    for name in sorted(gains, key=lambda x: gains[x].mean, reverse=True):
        runs = [x for x in rows if x["stage"] == stage and x["treatment"] == name]
        lines.append(
            (
                name, gains[name].count, with_bounds(gains[name]), *(_mean(x.get(name)) for x in others.values()),
                costs.get(name, ""), _mean_of(runs, "channel low", "channel high"), _mean_of(runs, "spread"),
            )
        )  # fmt: skip
    head = ["treatment", "seeds", f"{METRIC} (95 % interval)", *others]
    return markdown(
        [*head, "latency / stock (quartiles)", "factor of channels", "spread in a map"], lines, len(head) + 2
    )


def latency_of(row: Mapping[str, str]) -> str:
    """Write the median of a latency ratio and its quartiles."""
    median, low, high = (f"{float(row[x]):.2f}" for x in ("ratio", "low", "high"))
    return f"{median} ({low} ... {high})"


def chosen(rows: Rows, stage: str) -> str:
    """Write the mean gain of the treatments that were carried on, with the seed that chose them and with the others."""
    found, plan = scores(rows, stage, METRIC), STAGES[stage]
    first = [found[x][plan.seeds[0]] - found[STOCK][plan.seeds[0]] for x in plan.carried if x != STOCK]
    fresh = [found[x][s] - found[STOCK][s] for x in plan.carried if x != STOCK for s in plan.seeds[1:]]
    return (
        f"{statistics.mean(first):+.4f} with the seed that chose them and {statistics.mean(fresh):+.4f} with the other"
    )


def power(rows: Rows) -> str:
    """Write the score of the stock model, and the smallest effect that each stage with two or more seeds could see."""
    lines = []
    for stage, plan in STAGES.items():
        found = scores(rows, stage, METRIC)
        base, *others = found.values()
        seeds = max((sorted(x.keys() & base.keys()) for x in others), key=len, default=[])
        if len(seeds) > 1:
            effect = with_bounds(_smallest_effect(found, len(seeds))).replace("+", "")
            stock = f"{statistics.mean(base.values()):.3f}"
            lines.append((f"`{stage}`", plan.epochs, len(others), len(seeds), stock, effect))
    return markdown(["stage", "epochs", "treatments", "seeds", f"stock {METRIC}", "smallest effect on it"], lines, 5)


def _smallest_effect(found: Mapping[str, Mapping[int, float]], seeds: int) -> Interval:
    """Compute the difference from the stock model whose interval lies above 0 with a probability of 80 %.

    Returns:
        The difference at the estimated variance, and at the bounds of the 95 % interval of the variance.
    """
    from scipy import special, stats

    variance, freedom = error_variance(found)
    shift = special.nctdtrinc(freedom, 0.2, critical_value(len(found) - 1, freedom, sides=2))
    effect = float(shift) * math.sqrt(2 * variance / seeds)
    low, high = (effect * math.sqrt(freedom / x) for x in stats.chi2.ppf((0.975, 0.025), freedom))
    return Interval(effect, low, high, seeds)


def _mean(found: Interval | None) -> str:
    return f"{found.mean:+.4f}" if found and not math.isnan(found.mean) else ""


def _mean_of(runs: Iterable[Mapping[str, str]], *columns: str) -> str:
    """Write the means of columns over runs, nothing if they are empty."""
    values = [[float(run[x]) for x in columns] for run in runs if all(run[x] for x in columns)]
    return " ... ".join(f"{statistics.mean(x):.3f}" for x in zip(*values))


def measure(file: Path) -> None:
    """Time the fused models of all treatments of the stages in turn, as ratios to the stock model; equal ones once."""
    yolo_coordbifpn.install()
    same: dict[Any, str] = {}  # by model and size, the first treatment that has it
    first = {name: same.setdefault((str(x.blocks), x.scale, x.larger), name) for name, x in TREATMENTS.items()}
    where = machine(torch.device("cpu"))
    rows: list[dict[str, Any]] = []
    for size in sorted({stage.imgsz for stage in STAGES.values()}):
        calls = {name: _call(name, size) for name in same.values()}
        with torch.inference_mode():
            times = in_turn(calls, torch.device("cpu"), ROUNDS)
        for name in TREATMENTS:
            q = statistics.quantiles([a / b for a, b in zip(times[first[name]], times[STOCK])], n=4)
            values = {"ratio": f"{q[1]:.3f}", "low": f"{q[0]:.3f}", "high": f"{q[2]:.3f}"}
            rows.append({"imgsz": size, "treatment": name, **values, "rounds": ROUNDS, "machine": where})
    write(file, FIELDS, rows)


def _call(name: str, size: int) -> Any:
    """Return a call of the fused model of a treatment on one image."""
    treatment = TREATMENTS[name]
    stock = f"yolo11{treatment.scale}.yaml"
    model = build(yolo_coordbifpn.graft(stock, **treatment.blocks) if treatment.blocks else load(stock))
    side = size + treatment.larger
    return functools.partial(model.eval().fuse(verbose=False), torch.rand(1, 3, side, side))


def draw(rows: Rows, latency: Rows, file: Path) -> None:
    """Draw each stage: gain against latency with the line through its rivals, if any; each gain with its interval."""
    from matplotlib.figure import Figure

    gains = {x: found for x in STAGES if (found := differences(scores(rows, x, METRIC)))}
    heights = [1 + 0.22 * max(8 if _rivals(x) else 0, len(x)) for x in gains.values()]
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(gains), 2, height_ratios=heights, width_ratios=(1, 1.2))
    for k, (stage, found) in enumerate(gains.items()):
        costs = {x["treatment"]: float(x["ratio"]) for x in latency if int(x["imgsz"]) == STAGES[stage].imgsz}
        rivals = [STOCK, *sorted(_rivals(found), key=costs.__getitem__)]
        points = {STOCK: (1.0, 0.0), **{x: (costs[x], found[x].mean) for x in found}}
        panels = [figure.add_subplot(x) for x in ([grid[k, 0], grid[k, 1]] if len(rivals) > 1 else [grid[k, :]])]
        if len(rivals) > 1:
            _draw_latency(panels[0], points, rivals)
        _draw_gains(panels[-1], {x: y for x, y in found.items() if x not in rivals}, points, rivals)
        panels[0].set_title(f"{stage}: {METRIC} against the stock model", fontsize=9, loc="left")
        for ax in panels:
            ax.tick_params(labelsize=7)
            ax.locator_params(axis="x", nbins=6)
            ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=130)


def _rivals(names: Iterable[str]) -> list[str]:
    """Return the treatments without blocks: the stock model on larger images or at another scale."""
    return [x for x in names if not TREATMENTS[x].blocks]


def _draw_latency(axes: Any, points: Mapping[str, tuple[float, float]], rivals: Sequence[str]) -> None:
    """Draw gains against latency; the rivals, which have no blocks, are joined by a line and named."""
    axes.plot(*zip(*(points[x] for x in rivals)), "s-", color=BLACK, linewidth=1, markersize=4, label="without blocks")
    blocks = [xy for name, xy in points.items() if name not in rivals]
    axes.plot(*zip(*blocks), "o", color=VERMILION, markersize=4, label="with blocks")
    for name in rivals:
        axes.annotate(name, points[name], (-5, 2), textcoords="offset points", fontsize=7, ha="right")
    axes.margins(x=0.2)
    axes.set_xlabel("latency / stock", fontsize=8)
    axes.set_ylabel(f"difference in {METRIC}", fontsize=8)
    axes.legend(fontsize=7, frameon=False)


def _draw_gains(
    axes: Any, gains: Mapping[str, Interval], points: Mapping[str, tuple[float, float]], rivals: Sequence[str]
) -> None:
    """Draw each gain with its interval, the best at the top, and what the rivals gain at the same latency."""
    names = sorted(gains, key=lambda x: gains[x].mean)
    halves = [gains[x].half if gains[x].count > 1 else 0 for x in names]
    axes.errorbar(
        [gains[x].mean for x in names], names, xerr=halves, fmt="o", color=VERMILION, markersize=4, linewidth=1
    )
    if len(rivals) > 1:
        costs, bought = ([points[x][i] for x in rivals] for i in range(2))
        line = np.interp([points[x][0] for x in names], costs, bought)
        axes.plot(line, names, "|", color=BLACK, markersize=8, label="without blocks, at the same latency")
        axes.legend(fontsize=7, frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(f"difference in {METRIC}, 95 % interval", fontsize=8)


if __name__ == "__main__":
    run_script(main)
