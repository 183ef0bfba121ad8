"""The tables of a report: results, differences, AP by object size, mAP by class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .formats import Table
from .metrics import larger_is_better, short_name, table_metrics
from .plan import Plan
from .race import dropped_from, judged
from .simultaneous import differences
from .statistics import Interval, interval


def results_table(plan: Plan, latency: dict[str, Any]) -> Table:
    """Make the table of all metrics and costs, a row for each model."""
    metrics = table_metrics(plan)
    costs = ["params (M)", "GFLOPs", "latency (ms)", "training (s)", "memory (MiB)", "pretrained items"]
    table = Table(
        "Results",
        ["model", *map(short_name, metrics), *costs],
        note="Mean ± 95 % interval over the seeds (Student's t); latency: median (quartiles).",
    )
    scores = [plan.scores(x) for x in metrics]
    for label in plan.labels:
        results = plan.results_of(label)
        if not results:
            table.rows.append([label, "missing", *[""] * (len(table.header) - 2)])
            continue
        table.rows.append(
            [
                label,
                *(_mean(x[label].values()) for x in scores),
                parameters_cell(results[0]),
                f"{results[0]['gflops']:.2f}",
                latency_cell(latency, label),
                f"{interval([r['train_seconds'] for r in results]).mean:.0f}",
                f"{max(r['peak_memory_mib'] for r in results):.0f}",
                results[0]["items"],
            ]
        )
    return table


def difference_table(plan: Plan) -> Table:
    """Make the table of the differences between each model and the first, paired by seed."""
    base, drops = plan.labels[0], dropped_from(plan)
    table = Table(
        f"Difference from {base}, paired by seed",
        ["model", "metric", "difference", "95 % interval", "seeds", "verdict"],
        note="Better or worse if the interval excludes 0, otherwise not shown; no verdict on fewer than three seeds"
        + (", nor on variants that the race dropped, whose intervals are too narrow. " if drops else ". ")
        + simultaneous_note(plan),
    )
    by_metric = {metric: differences(plan.scores(metric)) for metric in table_metrics(plan)}
    for label in plan.labels[1:]:
        for metric, every in by_metric.items():
            if found := every.get(label):
                row = [label, short_name(metric), f"{found.mean:+.4f}", bounds(found), str(found.count)]
                table.rows.append([*row, judged(label, found, drops, larger_is_better(metric))])
    return table


def simultaneous_note(plan: Plan) -> str:
    """Say how the intervals of differences are computed."""
    others = len(plan.labels) - 1
    if others < 2:
        return "The interval is the paired t interval."
    note = (
        f"For each metric, the intervals are adjusted for {others} comparisons (Dunnett's test, seeds as blocks). The "
        "error variance is pooled over the models, so one run that has failed to learn widens all intervals."
    )
    if len({len(plan.results_of(x)) for x in plan.labels}) > 1:
        note += " A model with fewer seeds is compared over those."
    return note


def size_table(plan: Plan) -> Table | None:
    """Make the table of AP by object size, or None if no result has it."""
    sizes = [x for x in ("small", "medium", "large") if any(x in r["sizes"] for r in plan.results)]
    if not sizes:
        return None
    counts = next(r["sizes"] for r in plan.results if r["sizes"])
    table = Table(
        "AP by size of the objects",
        ["model", *(f"{x} ({_objects(counts, x)})" for x in sizes)],
        note="COCO's AP at IoU 0.50...0.95 (faster-coco-eval); small: below 32 x 32 pixels of the image, large: "
        "above 96 x 96. In brackets: the number of objects in the validation data. It is the mean over the classes, so "
        "a class with few objects counts as much as the others."
        + (" Of boxes, also for masks and poses." if plan.results[0]["task"] != "detect" else ""),
    )
    for label in plan.labels:
        results = plan.results_of(label)
        if results:
            table.rows.append([label, *(_mean(r["sizes"][x] for r in results) for x in sizes)])
    return table


def _objects(counts: dict[str, Any], size: str) -> str:
    """Return the number of objects of a size, and that of the class with the fewest if it has less than 30."""
    fewest = counts.get(f"{size} fewest", 30)
    return f"{counts.get(f'{size} objects', 0)}" + (f", of one class {fewest}" if fewest < 30 else "")


def class_table(plan: Plan) -> Table | None:
    """Make the table of mAP by class, or None if no result has it."""
    names = list(dict.fromkeys(name for r in plan.results for name in r["classes"]))
    if not names:
        return None
    results = {label: found for label in plan.labels if (found := plan.results_of(label))}
    table = Table("mAP50-95 by class", ["class", *results])
    for name in names:
        means = (_mean(r["classes"][name] for r in found if name in r["classes"]) for found in results.values())
        table.rows.append([name, *means])
    return table


def parameters_cell(result: dict[str, Any]) -> str:
    """Return the parameters of a model in millions."""
    return f"{result['parameters'] / 1e6:.3f}"


def latency_cell(latency: dict[str, Any], label: str) -> str:
    """Return the median and quartiles of a model's latency in milliseconds, or an empty string if unknown."""
    time = latency.get("models", {}).get(label)
    return f"{time['median']:.2f} ({time['low']:.2f}-{time['high']:.2f})" if time else ""


def bounds(found: Interval) -> str:
    """Return the bounds of an interval of differences, or an empty string if it has none."""
    return "" if found.count < 2 else f"{found.low:+.4f} ... {found.high:+.4f}"


def _mean(values: Iterable[float]) -> str:
    found = interval(list(values))
    return f"{found.mean:.4f}" if found.count < 2 else f"{found.mean:.4f} ± {found.half:.4f}"
