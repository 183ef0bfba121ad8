"""The report of a comparison: what its tables and sentences say."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

from ..files import write
from .formats import Report, Table, html, latex, markdown
from .plan import Plan
from .statistics import Interval, difference, interval, verdict

_SCALES = "nsmlx"


def write_report(plan: Plan) -> None:
    """Write `summary.csv`, `report.md`, `report.tex`, `report.html`, `curves.png` and `pareto.png`.

    Args:
        plan: A plan of which at least one run has a result.
    """
    from .plots import curves, pareto

    latency = _latency(plan)
    report = make(plan, latency)
    write(plan.folder / "summary.csv", _csv(plan, latency))
    pictures = [x for x in (curves(plan, main_metric(plan)), pareto(plan, main_metric(plan), latency)) if x]
    write(plan.folder / "report.md", markdown(report, pictures))
    write(plan.folder / "report.tex", latex(report))
    write(plan.folder / "report.html", html(report, pictures))


def main_metric(plan: Plan) -> str:
    """Return the host's name of the metric to go by: mAP50-95, of masks or poses where there are any, or accuracy."""
    keys = list(plan.results[0]["metrics"])
    wanted = [k for k in keys if k.startswith("metrics/mAP50-95")] or [k for k in keys if "accuracy_top1" in k]
    return (wanted or keys)[-1]


def make(plan: Plan, latency: dict[str, Any]) -> Report:
    """Work out what a comparison says."""
    metric = main_metric(plan)
    name = _short(metric)
    base = plan.labels[0]
    findings = []
    for label in plan.labels[1:]:
        found = difference(_values(plan, label, metric), _values(plan, base, metric))
        if not found.count:
            continue
        findings.append(
            f"{label} against {base}: {verdict(found)}; {name} differs by {_signed(found)} over {found.count} seeds."
            if found.count > 1
            else f"{label} against {base}: {verdict(found)}; {name} differs by {found.mean:+.4f}."
        )
    done, all_runs = len(plan.results), len(plan.runs)
    if done < all_runs:
        missing = [f"{x.label} seed {x.seed}" for x in plan.runs if x.result is None]
        findings.insert(0, f"INCOMPLETE: {done} of {all_runs} runs are there. Missing: {', '.join(missing)}.")
    elif len(plan.seeds) < 3:
        findings.insert(0, "Fewer than three seeds: intervals are wide or none. Give seeds=0,1,2 or more.")
    tables = [_main_table(plan, latency), _difference_table(plan)]
    tables += [x for x in (_size_table(plan), _class_table(plan)) if x is not None]
    return Report(
        f"{name} of {len(plan.labels)} models, {len(plan.seeds)} seeds", findings, _notes(plan, latency), tables
    )


# Tables ---------------------------------------------------------------------------------------------------------------


def _main_table(plan: Plan, latency: dict[str, Any]) -> Table:
    metrics = [k for k in plan.results[0]["metrics"] if "mAP" in k or "accuracy" in k]
    head = [
        "model",
        *map(_short, metrics),
        "params (M)",
        "GFLOPs",
        "latency (ms)",
        "training (s)",
        "memory (MiB)",
        "pretrained items",
    ]
    table = Table(
        "Results", head, note="Mean ± 95 % interval over the seeds (Student's t); latency: median (quartiles)."
    )
    for label in plan.labels:
        results = [r for r in plan.results if r["model"] == label]
        if not results:
            table.rows.append([label, *["missing"] + [""] * (len(head) - 2)])
            continue
        time = latency.get("models", {}).get(label)
        shown = f"{time['median']:.2f} ({time['low']:.2f}-{time['high']:.2f})" if time else ""
        table.rows.append(
            [
                label,
                *(_plus_minus(interval(list(_values(plan, label, k).values()))) for k in metrics),
                f"{results[0]['parameters'] / 1e6:.3f}",
                f"{results[0]['gflops']:.2f}",
                shown,
                f"{interval([r['train_seconds'] for r in results]).mean:.0f}",
                f"{max(r['peak_memory_mib'] for r in results):.0f}",
                results[0]["items"],
            ]
        )
    return table


def _difference_table(plan: Plan) -> Table:
    metrics = [k for k in plan.results[0]["metrics"] if "mAP" in k or "accuracy" in k]
    base = plan.labels[0]
    table = Table(
        f"Difference to {base}, paired by seed",
        ["model", "metric", "difference", "95 % interval", "seeds", "verdict"],
        note="Better or worse where the interval does not hold 0, else not shown. "
        f"The intervals are not corrected for the number of comparisons, {len(plan.labels) - 1}.",
    )
    for label in plan.labels[1:]:
        for metric in metrics:
            found = difference(_values(plan, label, metric), _values(plan, base, metric))
            if found.count:
                bounds = "" if found.count < 2 else f"{found.low:+.4f} ... {found.high:+.4f}"
                row = [label, _short(metric), f"{found.mean:+.4f}", bounds, str(found.count), verdict(found)]
                table.rows.append(row)
    return table


def _size_table(plan: Plan) -> Table | None:
    sizes = [x for x in ("small", "medium", "large") if any(x in r["sizes"] for r in plan.results)]
    if not sizes:
        return None
    first = next(r for r in plan.results if r["sizes"])
    heads = [f"{x} ({first['sizes'].get(f'{x} objects', 0)})" for x in sizes]
    table = Table(
        "AP by size of the objects",
        ["model", *heads],
        note="COCO's AP at IoU 0.50...0.95 (faster-coco-eval); small: below 32 x 32 pixels of the picture, large: "
        "above 96 x 96; in brackets how many objects the validation has.",
    )
    for label in plan.labels:
        results = [r for r in plan.results if r["model"] == label]
        if results:
            table.rows.append([label, *(_plus_minus(interval([r["sizes"][x] for r in results])) for x in sizes)])
    return table


def _class_table(plan: Plan) -> Table | None:
    names = list(dict.fromkeys(name for r in plan.results for name in r["classes"]))
    if not names:
        return None
    labels = [x for x in plan.labels if any(r["model"] == x for r in plan.results)]
    table = Table("mAP50-95 by class", ["class", *labels])
    for name in names:
        cells = [
            _plus_minus(
                interval([r["classes"][name] for r in plan.results if r["model"] == x and name in r["classes"]])
            )
            for x in labels
        ]
        table.rows.append([name, *cells])
    return table


def _notes(plan: Plan, latency: dict[str, Any]) -> list[str]:
    first = plan.results[0]
    arguments = " ".join(f"{k}={Path(v).name if isinstance(v, str) else v}" for k, v in sorted(plan.train.items()))
    machines = sorted({r["machine"] for r in plan.results})
    commit = f" (commit {first['commit']})" if first["commit"] else ""
    notes = [
        f"Training: {arguments}; all other arguments are the host's own. Metrics are those of best.pt on the "
        "validation data, which also chose it, for every model alike.",
        f"Ultralytics {first['ultralytics']}, torch {first['torch']}, Python {first['python']}, yolo_coordbifpn "
        f"{first['yolo_coordbifpn']}{commit}; {', '.join(machines)}.",
        "Runs of one seed see the same pictures in the same order with the same augmentation.",
    ]
    if latency:
        notes.append(
            f"Latency: fused models, float32, batch 1, {latency['imgsz']} px, on {latency['device']}, all in turn, "
            f"median of {latency['rounds']}."
        )
    bigger = _next_bigger(plan.labels[0])
    if bigger and bigger not in plan.labels:
        notes.append(
            f"A bigger stock model may give more for its cost: add {bigger}.yaml to models= to see it beside these."
        )
    elif bigger:
        notes.append(f"{bigger} is the next bigger stock model: what its cost buys without any block.")
    return notes


def _next_bigger(label: str) -> str:
    """Name the stock model one scale above, an empty string if there is none."""
    match = re.fullmatch(r"(yolo(?:e-)?v?\d+)([nsml])(-\w+)?", label)
    return f"{match[1]}{_SCALES[_SCALES.index(match[2]) + 1]}{match[3] or ''}" if match else ""


# Values ---------------------------------------------------------------------------------------------------------------


def _values(plan: Plan, label: str, metric: str) -> dict[int, float]:
    """Return a metric of a model by seed."""
    return {r["seed"]: r["metrics"][metric] for r in plan.results if r["model"] == label}


def _latency(plan: Plan) -> dict[str, Any]:
    file = plan.folder / "latency.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _short(metric: str) -> str:
    """Return the name of a metric as people say it: mAP50-95 for metrics/mAP50-95(B)."""
    name = metric.removeprefix("metrics/")
    return name.removesuffix("(B)")


def _plus_minus(found: Interval) -> str:
    return f"{found.mean:.4f}" if found.count < 2 else f"{found.mean:.4f} ± {found.half:.4f}"


def _signed(found: Interval) -> str:
    return f"{found.mean:+.4f} ({found.low:+.4f} ... {found.high:+.4f})"


def _csv(plan: Plan, latency: dict[str, Any]) -> str:
    """Write one row for each model and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = [
        "model",
        "metric",
        "seeds",
        "mean",
        "low",
        "high",
        "difference",
        "difference_low",
        "difference_high",
        "verdict",
    ]
    writer.writerow(head)
    base = plan.labels[0]
    for label in plan.labels:
        for metric in plan.results[0]["metrics"]:
            values = _values(plan, label, metric)
            if not values:
                continue
            mean = interval(list(values.values()))
            row: list[Any] = [label, _short(metric), mean.count, mean.mean, _blank(mean.low), _blank(mean.high)]
            if label != base:
                found = difference(values, _values(plan, base, metric))
                larger = "loss" not in metric
                row += [_blank(found.mean), _blank(found.low), _blank(found.high), verdict(found, larger)]
            writer.writerow(row + [""] * (len(head) - len(row)))
        time = latency.get("models", {}).get(label)
        if time:
            row = [label, "latency_ms", 1, time["median"], time["low"], time["high"]]
            writer.writerow(row + [""] * (len(head) - len(row)))
    return text.getvalue()


def _blank(value: float) -> float | str:
    return "" if math.isnan(value) else value
