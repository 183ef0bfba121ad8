"""Table, CSV and plot of what the thresholds of a grid keep and skip."""

from __future__ import annotations

from pathlib import Path

from ..files import write, write_figure
from ..inspection.palette import style
from .curve import KEEP, Curve

_HEADER = ("threshold", "recall", "skipped")


def table(curve: Curve, now: float) -> str:
    """Write the table; a star marks the threshold that is in use, 0...1."""
    rows = [
        (f"{t:.4f}", f"{curve.recall(t):.4f}", f"{curve.skipped(t):.4f}", "*" if t == now else "")
        for t in sorted({*curve.thresholds(), now})
    ]
    lines = [(*_HEADER, ""), *rows]
    return "\n".join("  ".join(map(str.rjust, line, (9, 7, 8, 1))).rstrip() for line in lines)


def verdict(curve: Curve, threshold: float) -> str:
    """Say in a sentence what a threshold does to a data set."""
    if not sum(curve.objects):
        return f"threshold {threshold:.4f} skips {curve.skipped(threshold):.1%} of the images; there are no objects"
    return (
        f"threshold {threshold:.4f} keeps {curve.recall(threshold):.2%} of the objects and skips "
        f"{curve.skipped(threshold):.1%} of the images; {curve.empty():.1%} of the images have no object"
    )


def write_report(curve: Curve, now: float, folder: Path) -> list[Path]:
    """Write `grid.csv` and `grid.png` into a folder, which is made if it is missing; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{t},{curve.recall(t):.6f},{curve.skipped(t):.6f}" for t in sorted({*curve.thresholds(), now})]
    write(folder / "grid.csv", "\n".join([",".join(_HEADER), *rows, ""]))
    return [folder / "grid.csv", _draw(curve, now, folder / "grid.png")]


def _draw(curve: Curve, now: float, file: Path) -> Path:
    """Plot recall and skipped share against the threshold."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    at = sorted({0.0, 1.0, *curve.scores})
    for k, (name, share) in enumerate((("objects kept", curve.recall), ("images skipped", curve.skipped))):
        axes.step(at, [share(t) for t in at], where="pre", label=name, **{**style(k), "marker": ""})
    axes.axhline(KEEP, color="0.6", linewidth=0.8)
    axes.axvline(now, color="0.6", linestyle=":", label=f"threshold {now:.4f}")
    axes.set(xlabel="threshold", ylabel="share", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return write_figure(figure, file)
