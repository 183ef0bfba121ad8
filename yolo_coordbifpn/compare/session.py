"""A comparison from the command to the report: finished runs are kept, missing ones are carried out."""

from __future__ import annotations

import json
from collections.abc import Sequence

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..errors import CompareError
from .devices import default_device
from .executors import on_devices, on_ray
from .metrics import main_metric, short_name
from .plan import Plan, Run
from .processes import failure, run_to_end
from .report import write_report
from .rounds import Clock, rounds

INTERRUPTED = 130  # exit status, 128 + SIGINT


def compare(plan: Plan, devices: Sequence[str], engine: str) -> int:
    """Carry out the missing runs of a plan, time the models, and write the report.

    Args:
        plan: The plan.
        devices: Devices of the runs, see `read_devices`.
        engine: `local` or `ray`.

    Returns:
        0 if no run failed, 1 if one did, 130 after an interrupt.

    Raises:
        CompareError: If the folder contains something else or another plan, or if another process works on it.
    """
    plan.check()
    plan.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(plan.folder / "compare.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CompareError(
            f"another process is working on {plan.folder}; wait for it, or give another name="
        ) from error
    console = Console(stderr=True, soft_wrap=True)
    with lock:
        try:
            return _compare(plan, devices, engine, console)
        except KeyboardInterrupt:
            console.print(
                f"Interrupted: {len(plan.results)} of {len(plan.runs)} runs have a result; the same command continues",
                highlight=False,
            )
            return INTERRUPTED


def _compare(plan: Plan, devices: Sequence[str], engine: str, console: Console) -> int:
    plan.start()
    most = "" if plan.budget is None else f"a race of {plan.budget} min with at most "
    text = f"{most}{len(plan.runs)} runs, {len(plan.models)} models x {len(plan.seeds)} seeds, in {plan.folder}"
    console.print(text, markup=False)
    failed = _carry_out(plan, devices, engine, console)
    if plan.results:
        plan.write_rows()
        _time_models(plan, _here(devices[0]), console)
        write_report(plan)
        console.print((plan.folder / "report.md").read_text(encoding="utf-8"), markup=False, highlight=False)
        console.print(f"Report: {plan.folder / 'report.html'}", markup=False)
    for run, reason in failed.items():
        console.print(
            f"{run.label} seed {run.seed} has no result: {reason} (whole log: {run.folder / 'log.txt'}); the same "
            "command tries it again",
            markup=False,
        )
    return 1 if failed else 0


def _carry_out(plan: Plan, devices: Sequence[str], engine: str, console: Console) -> dict[Run, str]:
    """Carry out the runs without a result, in a race only those of its rounds; return those that failed, and why."""
    epochs = int(plan.train["epochs"])
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    failed: dict[Run, str] = {}
    clock = Clock(plan.folder)
    with Progress(*columns, console=console, speed_estimate_period=1e6) as progress:  # an epoch may take long
        name = "comparison" if plan.budget is None else "race, at most"
        task = progress.add_task(name, total=epochs * len(plan.runs), completed=_epochs(plan, epochs))

        def done(run: Run, reason: str) -> None:
            if run.result is None:
                failed[run] = reason
                return
            plan.write_rows()
            metric = main_metric(plan)
            value = f"{short_name(metric)} {run.result['metrics'][metric]:.4f}"
            say(f"{run.label} seed {run.seed}: {value}")

        def tick() -> None:
            progress.update(task, completed=_epochs(plan, epochs))
            clock.tick()

        def say(line: str) -> None:
            progress.console.print(line, markup=False, highlight=False)

        try:
            for runs in rounds(plan, clock, failed, say):
                if engine == "ray":
                    on_ray(plan, runs, devices[0], done, tick, clock.deadline(plan.budget))
                else:
                    on_devices(plan, runs, devices, done, tick, clock.deadline(plan.budget))
        finally:
            clock.save()
    return failed


def _epochs(plan: Plan, epochs: int) -> int:
    """Count the finished epochs; a run that stopped early counts in full."""
    total = 0
    for run in plan.runs:
        rows = run.folder / "train" / "results.csv"
        if (run.folder / "result.json").is_file():
            total += epochs
        elif rows.is_file():
            total += max(0, len(rows.read_text(encoding="utf-8", errors="replace").splitlines()) - 1)
    return total


def _here(device: str) -> str:
    """Return the device of this machine on which to time the models that are trained on another device."""
    return default_device() if device == "gpu" else device


def _time_models(plan: Plan, device: str, console: Console) -> None:
    """Time the fused models in one child process, unless all of them have been timed."""
    file, log = plan.folder / "latency.json", plan.folder / "latency.log"
    if file.is_file() and {r["model"] for r in plan.results} <= set(json.loads(file.read_text())["models"]):
        return
    status = run_to_end("yolo_coordbifpn.compare.latency", str(plan.folder), device, log=log)
    if status:
        console.print(f"The latency could not be measured: {failure(status, log)}", markup=False)
    else:
        log.unlink()
