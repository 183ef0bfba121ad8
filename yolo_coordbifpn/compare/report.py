"""The report of a comparison: its findings, and how it was run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..errors import GraftError
from ..files import write
from ..grafting.names import find, split
from .formats import Report, html, latex, markdown
from .leaderboard import leaderboard_table
from .metrics import main_metric, short_name
from .plan import Plan, Run
from .plots import curves, pareto
from .race import dropped_from, judged, race_of
from .simultaneous import differences
from .statistics import LEAST_SEEDS
from .summary import summary
from .tables import bounds, class_table, difference_table, results_table, size_table
from .transfers import unequal_starts

_SCALES = "nsmlx"


def write_report(plan: Plan) -> None:
    """Write `summary.csv`, `report.md`, `report.tex`, `report.html`, `curves.png` and `pareto.png`.

    Args:
        plan: A plan with at least one result.
    """
    file = plan.folder / "latency.json"
    latency = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    metric = main_metric(plan)
    report = build_report(plan, latency)
    write(plan.folder / "summary.csv", summary(plan, latency))
    plots = [x for x in (curves(plan, metric), pareto(plan, metric, latency)) if x]
    write(plan.folder / "report.md", markdown(report, plots))
    write(plan.folder / "report.tex", latex(report))
    write(plan.folder / "report.html", html(report, plots))


def build_report(plan: Plan, latency: dict[str, Any]) -> Report:
    """Return the contents of the report.

    Args:
        plan: A plan with at least one result.
        latency: Contents of `latency.json`, or an empty dict.
    """
    name = short_name(main_metric(plan))
    tables = [
        leaderboard_table(plan, latency),
        results_table(plan, latency),
        difference_table(plan),
        size_table(plan),
        class_table(plan),
    ]
    return Report(
        title=f"{name} of {len(plan.labels)} models, {plan.seed_counts} seeds",
        findings=_findings(plan),
        notes=_notes(plan, latency),
        tables=[x for x in tables if x is not None],
    )


def _findings(plan: Plan) -> list[str]:
    """Say which runs are missing, which starts are unequal, and whether each model is better than the first."""
    metric = main_metric(plan)
    base, drops = plan.labels[0], dropped_from(plan)
    findings = []
    missing = [x for x in plan.runs if x.result is None]
    if plan.budget is not None:
        findings.append(_race(plan, missing))
        missing = [x for x in missing if x.folder.exists()]  # the others were not started
    if missing:
        names = ", ".join(f"{x.label} seed {x.seed}" for x in missing)
        findings.append(f"INCOMPLETE: {len(plan.results)} of {len(plan.runs)} runs are finished. Missing: {names}.")
    elif len(plan.seeds) < LEAST_SEEDS:
        findings.append("Fewer than three seeds: intervals are wide or missing. Give seeds=0,1,2 or more.")
    scores = plan.scores(metric)
    lost = [x for x in plan.results if x["seed"] not in scores[x["model"]]]
    if lost:
        names = ", ".join(f"{x['model']} seed {x['seed']}" for x in lost)
        findings.append(f"Left out, since their {short_name(metric)} is not a number: {names}.")
    findings += _unequal_runs(plan.results)
    items = {x["model"]: x["items"] for x in plan.results}
    findings += unequal_starts(dict(zip(plan.labels, plan.models)), items, plan.train.get("pretrained"))
    for label, found in differences(scores).items():
        over = f" ({bounds(found)}) over {found.count} seeds" if found.count > 1 else ""
        change = f"{short_name(metric)} differs by {found.mean:+.4f}{over}"
        findings.append(f"{label} against {base}: {judged(label, found, drops)}; {change}.")
    return findings


def _unequal_runs(results: list[dict[str, Any]]) -> list[str]:
    """Say which runs had other versions or another batch size than the others."""
    findings = []
    versions = list(dict.fromkeys(map(_versions, results)))
    if len(versions) > 1:
        findings.append(f"The runs have different versions, which may explain a difference: {'; '.join(versions)}.")
    batches = {x["batch_size"] for x in results}
    if len(batches) > 1:
        few = ", ".join(f"{x['model']} seed {x['seed']}" for x in results if x["batch_size"] < max(batches))
        findings.append(
            f"Not comparable: for lack of memory the host trained {few} with batches of {min(batches)} images, the "
            f"others with {max(batches)}. Give all models batch={min(batches)} and another name=."
        )
    return findings


def _versions(result: dict[str, Any]) -> str:
    """Return the versions of a run."""
    commit = f" (commit {result['commit']})" if result["commit"] else ""
    names = {"ultralytics": "Ultralytics", "torch": "torch", "python": "Python", "yolo_coordbifpn": "yolo_coordbifpn"}
    return ", ".join(f"{name} {result[key]}" for key, name in names.items()) + commit


def _race(plan: Plan, missing: list[Run]) -> str:
    """Say which variants a race dropped, and why it ended."""
    state = race_of(plan)
    dropped = ", ".join(f"{x.label} {x}" for x in state.drops) or "none"
    started = [x for x in missing if x.folder.exists()]
    models = (plan.labels[0], *state.racing)
    seeds = dict.fromkeys(str(x.seed) for x in missing if x.label in models and x not in started)
    if plan.labels[0] in (x.label for x in started):
        end = f"a run of {plan.labels[0]} has no result"
    elif state.won:
        end = "one variant is left"
    elif seeds:
        end = f"the budget does not cover seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
    else:
        end = "all seeds are trained"
    return (
        f"Race with a budget of {plan.budget} min: {len(plan.results)} of at most {len(plan.runs)} runs. Dropped: "
        f"{dropped}. End: {end}."
    )


def _notes(plan: Plan, latency: dict[str, Any]) -> list[str]:
    """Say how the models were trained and timed, with which versions, and where."""
    arguments = " ".join(f"{k}={Path(v).name if isinstance(v, str) else v}" for k, v in sorted(plan.train.items()))
    machines = sorted({r["machine"] for r in plan.results})
    others = f"are those of {Path(plan.train['cfg']).name} or" if plan.train.get("cfg") else "have"
    notes = [
        f"Training: {arguments}; all other arguments {others} the host's defaults. The metrics are those of best.pt on "
        "the validation data, on which it was also chosen; this is the same for all models.",
        f"{'; '.join(dict.fromkeys(map(_versions, plan.results)))}; {', '.join(machines)}.",
        "Runs with the same seed see the same images in the same order with the same augmentation.",
    ]
    if plan.results[0]["task"] in ("detect", "segment", "pose") and not any(r["sizes"] for r in plan.results):
        notes.append(
            "AP by size of the objects is missing: it needs validation images with objects, and with different names "
            "up to folder and suffix, where 007 is 7."
        )
    files = {r["model"]: r["file"] for r in plan.results if "file" in r}
    if files:
        notes.append(f"Models: {', '.join(f'{label} is {file}' for label, file in files.items())}.")
    if latency:
        notes.append(
            f"Latency: fused models, float32, batch 1, {latency['imgsz']} px, on {latency['device']}, all in turn, "
            f"median of {latency['rounds']}."
        )
    names = [Path(x).stem for x in plan.models]
    bigger = _next_bigger(names[0])
    if bigger and bigger not in names:
        notes.append(
            f"A larger stock model may gain more for its cost: add {bigger}.yaml to models= to compare it with these."
        )
    elif bigger:
        notes.append(f"{bigger} is the next larger stock model: it shows the gain from its cost without any block.")
    return notes


def _next_bigger(name: str) -> str:
    """Return the name of the stock model one scale above a model or variant, an empty string if there is none."""
    found = split(f"{name}.yaml")
    stock = found[0].removesuffix(".yaml") if found else name
    match = re.fullmatch(r"(yolo(?:e-)?v?\d+)([nsml])(-\w+)?", stock)
    if not match:
        return ""
    bigger = f"{match[1]}{_SCALES[_SCALES.index(match[2]) + 1]}{match[3] or ''}"
    try:
        find(f"{bigger}.yaml")
    except GraftError:
        return ""
    return bigger
