"""The plan of a comparison as a table, checked before anything is trained, with an estimate of the time."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import CompareError
from .arguments import all_arguments
from .datasets import Dataset
from .models import BuiltModel, check_models
from .plan import Plan
from .processes import failure, run_to_end
from .transfers import unequal_starts

_FORWARD = 1 / 3  # share of a forward pass in a training step


def preview(plan: Plan, devices: Sequence[str], engine: str, problems: Sequence[str]) -> str:
    """Check a plan, time a training step of each model, and return a table of the plan. Nothing is written.

    Args:
        plan: The plan.
        devices: Devices of the runs.
        engine: `local` or `ray`; steps are timed for `local` only, since the cluster has other machines.
        problems: The problems that are already known, one line each.

    Raises:
        CompareError: If anything is wrong; the message has a line for each problem.
    """
    problems = list(problems)
    try:
        plan.check()
    except CompareError as error:
        problems.append(str(error))
    args = all_arguments(plan.train)
    models, data, found = check_models(plan, args)
    problems += found
    if problems or data is None:
        raise CompareError("\n".join(problems))
    seconds = _step_seconds(plan, devices[0]) if engine == "local" else {}
    return "\n".join(_lines(plan, models, seconds, _estimate(plan, data, args, devices, seconds)))


def _step_seconds(plan: Plan, device: str) -> dict[str, float]:
    """Time the models in a child process, so that this one allocates no memory on the device."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        copy = dataclasses.replace(plan, folder=Path(folder))
        copy.start()
        log = copy.folder / "log.txt"
        status = run_to_end("yolo_coordbifpn.compare.step_time", folder, device, log=log)
        if status:
            raise CompareError(f"the training step could not be timed: {failure(status, log)}")
        found = json.loads((copy.folder / "step_time.json").read_text(encoding="utf-8"))
    problems = [f"models=: {label}: the training step failed: {x}" for label, x in found.items() if isinstance(x, str)]
    if problems:
        raise CompareError("\n".join(problems))
    return found


def _estimate(plan: Plan, data: Dataset, args: Any, devices: Sequence[str], seconds: dict[str, float]) -> str:
    """Estimate the time of the runs without a result; runs that share a device are not faster together."""
    if not seconds:
        return "the time on a cluster is not estimated"
    images = args.epochs * (data.train + data.val * _FORWARD) / args.batch
    total = sum(seconds[run.label] * images for run in plan.runs if run.result is None)
    return f"about {duration(total / len(set(devices)))} on {','.join(devices)}"


def duration(seconds: float) -> str:
    """Return a duration in minutes below an hour, in tens of minutes below a day, else in hours."""
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{max(1, minutes)} min"
    hours, rest = divmod(round(minutes / 10) * 10, 60)
    return f"{hours} h {rest} min" if rest and hours < 24 else f"{hours} h"


def _lines(plan: Plan, models: Sequence[BuiltModel], seconds: dict[str, float], estimate: str) -> list[str]:
    width = max(20, *(len(x.label) + 2 for x in models))
    lines = [
        f"{'model':{width}}{'task':10}{'params (M)':>11}{'GFLOPs':>8}{'pretrained items':>18}{'seconds a step':>16}"
    ]
    for x in models:
        step = f"{seconds[x.label]:.3g}" if x.label in seconds else ""
        row = f"{x.label:{width}}{x.task:10}{x.parameters / 1e6:11.3f}{x.gflops:8.2f}{x.items or 'none':>18}{step:>16}"
        lines.append(row)
    items = {x.label: x.items for x in models}
    lines += unequal_starts(dict(zip(plan.labels, plan.models)), items, plan.train.get("pretrained"))
    todo = sum(run.result is None for run in plan.runs)
    most = "" if plan.budget is None else "at most "
    lines.append(f"{most}{todo} runs to train ({len(plan.models)} models x {len(plan.seeds)} seeds): {estimate}")
    if plan.budget is not None:
        lines.append(f"budget: no run is started after {plan.budget} min, earlier sessions included")
    return lines
