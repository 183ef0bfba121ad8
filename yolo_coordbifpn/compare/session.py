"""One comparison from its first command to its report: what is there is kept, what is missing is run."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..errors import CompareError
from . import executors as schedule
from .plan import Plan, Run
from .report import main_metric, write_report


def compare(plan: Plan, devices: Sequence[str], engine: str) -> int:
    """Run what is missing of a plan, time the models, and write the report.

    Args:
        plan: The plan.
        devices: Devices of this machine, one run at a time on each.
        engine: `local` or `ray`.

    Returns:
        0 if every run has a result, else 1.

    Raises:
        CompareError: If the folder holds another plan, another process works on it, or the engine is unknown.
    """
    if engine not in ("local", "ray"):
        raise CompareError(f"engine= must be local or ray, got {engine!r}")
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
        for part in plan.folder.glob("*.part"):  # of a process that was killed while it wrote
            part.unlink()
        plan.start()
        console.print(f"{len(plan.runs)} runs, {len(plan.models)} models x {len(plan.seeds)} seeds, in {plan.folder}")
        failed = _run_missing(plan, devices, engine, console)
        if plan.results:
            plan.write_rows()
            _time_models(plan, devices[0], console)
            write_report(plan)
            console.print((plan.folder / "report.md").read_text(encoding="utf-8"), markup=False, highlight=False)
            console.print(f"Report: {plan.folder / 'report.html'}")
        for run in failed:
            console.print(
                f"{run.label} seed {run.seed} has no result: {schedule.failure(run)} (all of it in "
                f"{run.folder / 'log.txt'}); the same command tries it again",
                markup=False,
            )
    return 1 if failed else 0


def _run_missing(plan: Plan, devices: Sequence[str], engine: str, console: Console) -> list[Run]:
    """Run what has no result yet; return what still has none."""
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
    failed = []
    with Progress(*columns, console=console, speed_estimate_period=1e6) as progress:  # epochs may take long
        task = progress.add_task("comparison", total=epochs * len(plan.runs), completed=_epochs(plan, epochs))

        def done(run: Run, well: bool) -> None:
            if well:
                plan.write_rows()
                metric = main_metric(plan)
                said = f"{metric.removeprefix('metrics/')} {(run.result or {})['metrics'][metric]:.4f}"
                progress.console.print(f"{run.label} seed {run.seed}: {said}", markup=False, highlight=False)
            else:
                failed.append(run)
            progress.update(task, completed=_epochs(plan, epochs))

        ticking = _Ticker(lambda: progress.update(task, completed=_epochs(plan, epochs)))
        try:
            if engine == "ray":
                schedule.on_ray(plan, devices[0], done)
            else:
                schedule.on_devices(plan, devices, done)
        finally:
            ticking.stop()
    return failed


def _epochs(plan: Plan, epochs: int) -> int:
    """Count the epochs that are done; a run that has ended early counts as whole."""
    total = 0
    for run in plan.runs:
        rows = run.folder / "train" / "results.csv"
        if (run.folder / "result.json").is_file():
            total += epochs
        elif rows.is_file():
            total += max(0, len(rows.read_text(encoding="utf-8", errors="replace").splitlines()) - 1)
    return total


def _time_models(plan: Plan, device: str, console: Console) -> None:
    """Time the fused models in turn, in a process of its own, if that is not done for all of them."""
    file = plan.folder / "latency.json"
    if file.is_file() and {r["model"] for r in plan.results} <= set(json.loads(file.read_text())["models"]):
        return
    done = subprocess.run(
        [sys.executable, "-m", "yolo_coordbifpn.compare.latency", str(plan.folder), device],
        capture_output=True,
        text=True,
        cwd=Path(plan.folder),
    )
    if done.returncode:
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        console.print(f"The latency could not be measured: {last}", markup=False)


class _Ticker:
    """Calls a function every few seconds until it is stopped."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._end = threading.Event()
        self._call = call
        self._thread = threading.Thread(target=self._tick, daemon=True)
        self._thread.start()

    def _tick(self) -> None:
        while not self._end.wait(2):
            self._call()

    def stop(self) -> None:
        """Stop calling."""
        self._end.set()
        self._thread.join()
