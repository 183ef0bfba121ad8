"""What scripts/benchmark.py measured: its rows, the summary beside the targets, and the plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import csv_rows
from markdown_table import markdown

from yolo_coordbifpn.inspection.palette import BLACK, BLUE, GREEN, GREY, ORANGE, SKY

STOCK, MODEL = "yolo11n", "yolo11n-coordatt-bifpn"
NAMES = {"ours": "CoordAtt", "official": "paper's formula", "floor": "floor"}
FORMS = ("contiguous", "channels_last")  # memory formats of torch


@dataclass
class Row:
    """One contender in one case; ratios are to the first contender of the case."""

    part: str
    case: str
    what: str
    value: float  # median in microseconds; for memory, in sizes of the input
    ratio: float  # median over the rounds
    low: float  # quartiles
    high: float
    rounds: int


def read(file: Path) -> list[Row]:
    """Read the rows of a benchmark."""
    kinds = {"value": float, "ratio": float, "low": float, "high": float, "rounds": int}
    return [Row(**{k: kinds.get(k, str)(v) for k, v in row.items()}) for row in csv_rows.read(file)]


def write(file: Path, rows: Sequence[Row]) -> None:
    """Write the rows of a benchmark, numbers with five digits."""
    shown = [{k: f"{v:.5g}" if isinstance(v, float) else v for k, v in vars(row).items()} for row in rows]
    csv_rows.write(file, [x.name for x in fields(Row)], shown)


def table(rows: Sequence[Row]) -> str:
    """Write the summary beside the targets; an empty cell means that there is no target."""
    lines = [
        (name, f"{value:.2f}{unit}", "" if math.isnan(most) else f"≤ {most:.3g}{unit}")
        for name, value, unit, most in summary(rows)
    ]
    return markdown(("what", "measured", "target"), lines, 2)


def case_table(rows: Sequence[Row], part: str, case: str, names: Mapping[str, str]) -> str:
    """Write the times of all contenders in one case, under other names if `names` has them."""
    found = [row for row in rows if (row.part, row.case) == (part, case)]
    lines = [(names.get(row.what, row.what), f"{row.value:.0f}", f"{row.ratio:.2f}") for row in found]
    return markdown(("what", "µs", "ratio"), lines, 2)


def summary(rows: Sequence[Row]) -> Iterator[tuple[str, float, str, float]]:
    """Yield each result beside its target: name, value, unit, upper limit (NaN: none)."""
    for form, best, worst in (("contiguous", 0.35, 0.5), ("channels_last", math.nan, 1.0)):
        part = f"coordatt eval {form}"
        for what in ("ours", "ours, fused"):
            ours = _ratios(rows, part, what)
            if ours:
                name = f"CoordAtt, {form}, eval{what.removeprefix('ours')}"
                yield f"{name}: geometric mean of {len(ours)} shapes / paper's formula", _mean(ours), "", best
                yield f"{name}: slowest / paper's formula", max(ours), "", worst
                for other, most in (("timm", 1.0), ("floor", math.nan)):
                    if against := _against(rows, part, what, other):
                        yield f"{name}: geometric mean / {other}", _mean(against), "", most
    if _ratios(rows, "coordatt training contiguous", "ours"):
        for form in FORMS:
            step = _ratios(rows, f"coordatt training {form}", "ours")
            yield f"CoordAtt, training step, {form}, geometric mean / paper's formula", _mean(step), "", 0.65
        kept = [row for row in rows if row.part == "coordatt kept for backward"]
        for what, most in (("ours", 1.2), ("official", math.nan)):
            shallow = max(row.value for row in kept if row.what == what and "P5" not in row.case)
            yield f"kept for the backward pass at P3 and P4, at most: {NAMES[what]} / input", shallow, "", most
        for what, most in (("ours", 1.4), ("official", math.nan)):
            deep = max(row.value for row in kept if row.what == what and "P5" in row.case)
            yield f"kept for the backward pass at P5, at most: {NAMES[what]} / input", deep, "", most
    if ours := _ratios(rows, "fusion eval", "ours"):
        yield "BiFPN_Concat, not fused, geometric mean / torch.cat", _mean(ours), "", 1.3
        yield "BiFPN_Concat, not fused, slowest / torch.cat", max(ours), "", math.nan
        against = _against(rows, "fusion eval", "ours", "floor")
        yield "BiFPN_Concat, not fused, geometric mean / the multiplications alone", _mean(against), "", math.nan
    for how, most in (("eager", 1.02), ("compiled", 1.03), ("onnxruntime", 1.03), ("openvino", 1.03)):
        for ratio in _ratios(rows, f"models {how}", MODEL):
            yield f"{MODEL}, fused, 640 px, {how} / {STOCK}", ratio, "", most
    for ratio in _ratios(rows, "models not fused", MODEL):
        yield f"{MODEL}, not fused, 640 px, eager / {STOCK}", ratio, "", math.nan
    for ratio in _ratios(rows, "training", MODEL):
        yield f"{MODEL}, training step, 320 px, batch 8 / {STOCK}", ratio, "", 1 / 0.95
    for row in rows:
        if row.part == "startup":
            yield f"start-up of Python: {row.case}", row.value / 1000, " ms", {"hook": 0.5, "registering": 60}[row.case]
    for axis in ("H x W", "C"):
        for what in ("ours", "floor"):
            if points := _curve(rows, axis, what):
                yield (
                    f"growth with {axis}, upper half of the sizes: exponent, {NAMES[what]}",
                    _exponent(points),
                    "",
                    math.nan,
                )


def _mean(ratios: list[float]) -> float:
    return statistics.geometric_mean(ratios)


def _curve(rows: Sequence[Row], axis: str, what: str) -> list[tuple[float, float]]:
    """Return sizes and microseconds of the growth against H x W or C."""
    found = [x for x in rows if x.part == "growth" and x.what == what and x.case.startswith(f"{axis} ")]
    sizes = [x.case.rpartition(" ")[2].split("^") for x in found]
    return [(float(size[0]) ** len(size), row.value) for size, row in zip(sizes, found)]


def _exponent(points: list[tuple[float, float]]) -> float:
    """Fit k in time = b * size ** k to the upper half of the sizes, where the overhead of the calls is small."""
    upper = points[len(points) // 2 :]
    x, y = ([math.log(v) for v in column] for column in zip(*upper))
    return statistics.linear_regression(x, y).slope


def draw(rows: Sequence[Row], file: Path) -> None:
    """Draw the time of CoordAtt by shape, and its growth with pixels and channels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    styles = {"timm": (ORANGE, "//"), "ours": (BLUE, ""), "ours, fused": (SKY, ""), "floor": (GREY, "..")}
    for ax, part in zip(axes[0], ("coordatt eval contiguous", "coordatt training contiguous")):
        cases = list(dict.fromkeys(x.case for x in rows if x.part == part))
        shown = [x for x in styles if _ratios(rows, part, x)]
        for k, what in enumerate(shown):
            width = 0.8 / len(shown)
            places = [i + (k - (len(shown) - 1) / 2) * width for i in range(len(cases))]
            colour, hatch = styles[what]
            ax.bar(places, _ratios(rows, part, what), width, label=what, color=colour, hatch=hatch, edgecolor="white")
        ax.axhline(1, color=BLACK, linewidth=1)
        ax.set_xticks(range(len(cases)), [x.replace(" yolo11", "").replace(" batch ", "\n") for x in cases], fontsize=8)
        ax.set_title(f"{part.replace('coordatt', 'CoordAtt,')}: time / paper's formula", fontsize=10)
        ax.set_ylim(0, 1.2)
        ax.legend(frameon=False, fontsize=8, ncols=len(shown), loc="upper right")
    for ax, axis in zip(axes[1], ("H x W", "C")):
        for what, colour, marker in (("ours", BLUE, "o"), ("floor", GREEN, "s")):
            points = _curve(rows, axis, what)
            ax.loglog(*zip(*points), color=colour, marker=marker, label=what)
        ax.set_xlabel({"H x W": "H x W, pixels (64 channels)", "C": "C, channels (40 x 40 pixels)"}[axis])
        ax.set_ylabel("microseconds")
        ax.set_title(f"CoordAtt, eval: growth with {axis}", fontsize=10)
        ax.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)


def _ratios(rows: Sequence[Row], part: str, what: str) -> list[float]:
    """Return the ratios of a contender in all cases of a part."""
    return [row.ratio for row in rows if (row.part, row.what) == (part, what)]


def _against(rows: Sequence[Row], part: str, what: str, other: str) -> list[float]:
    """Return the median time of a contender over that of another, in all cases of a part; none if one is missing."""
    a, b = ([row.value for row in rows if (row.part, row.what) == (part, x)] for x in (what, other))
    return [x / y for x, y in zip(a, b)]
