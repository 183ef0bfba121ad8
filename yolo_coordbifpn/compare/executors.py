"""Start the runs, on the devices of this machine or on a Ray cluster."""

from __future__ import annotations

import math
import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import CompareError
from .plan import Plan, Run
from .processes import POLL, failure, held_interrupts, start, stop

RUN = "yolo_coordbifpn.compare.run"  # the module that carries out one run
RETRIES = 3  # of a run on Ray whose process was killed or whose worker was lost
NOT_STARTED = "not started before the deadline"  # of a run on Ray

Done = Callable[[Run, str], None]  # called with each run that ends, and why it failed if it has no result
Tick = Callable[[], None]  # called several times a second


class RunKilledError(RuntimeError):
    """The process of a run was killed by a signal, for example for lack of memory."""


def on_devices(
    plan: Plan, runs: Sequence[Run], devices: Sequence[str], done: Done, tick: Tick, deadline: float = math.inf
) -> None:
    """Carry out runs of a plan, one at a time on each device; a device named twice takes two.

    Args:
        plan: The plan.
        runs: The runs.
        devices: Names of the host: `cpu`, `0`, `1`, ...
        done: Called with each run that ends.
        tick: Called several times a second.
        deadline: Time, as `time.time` counts, from which no run is started.

    Raises:
        KeyboardInterrupt: On SIGINT or SIGTERM, after all runs have been ended.
    """
    waiting = deque(runs)
    free = deque(devices)
    running: dict[subprocess.Popen[bytes], tuple[Run, str]] = {}
    with held_interrupts() as check:
        try:
            while waiting or running:
                if time.time() >= deadline:
                    waiting.clear()
                while waiting and free:
                    run, device = waiting.popleft(), free.popleft()
                    running[_start(plan.folder, plan.runs.index(run), device, run)] = run, device
                for process in [x for x in running if x.poll() is not None]:
                    run, device = running.pop(process)
                    free.append(device)
                    done(run, failure(process.returncode, _log(run)))
                tick()
                time.sleep(POLL)
                check()
        finally:
            for process in running:
                stop(process)


def on_ray(plan: Plan, runs: Sequence[Run], device: str, done: Done, tick: Tick, deadline: float = math.inf) -> None:
    """Carry out runs of a plan on a Ray cluster that shares the plan's folder.

    The cluster is the one at `RAY_ADDRESS`, or one that is started on this machine.

    Args:
        plan: The plan.
        runs: The runs.
        device: `cpu` for one CPU for each run, `gpu` for one GPU.
        done: Called with each run that ends.
        tick: Called several times a second.
        deadline: Time, as `time.time` counts, from which no run is started.

    Raises:
        CompareError: If Ray is not installed.
        KeyboardInterrupt: On SIGINT or SIGTERM, after all runs have been cancelled.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise CompareError('engine=ray needs Ray: pip install "yolo_coordbifpn[ray]"') from error

    connected = ray.is_initialized()
    if not connected:
        ray.init(log_to_driver=False, include_dashboard=False)
    resources = {"num_cpus": 1} if device == "cpu" else {"num_cpus": 1, "num_gpus": 1}
    task = ray.remote(_ray_task).options(max_retries=RETRIES, retry_exceptions=[RunKilledError], **resources)
    with held_interrupts() as check:
        where = "cpu" if device == "cpu" else "0"
        running = {task.remote(str(plan.folder), plan.runs.index(x), where, deadline): x for x in runs}
        try:
            while running:
                for reference in ray.wait(list(running), timeout=POLL)[0]:
                    run, reason = running.pop(reference), _ray_failure(reference)
                    if reason != NOT_STARTED:
                        done(run, reason)
                tick()
                check()
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
            if not connected:
                ray.shutdown()


def _ray_task(folder: str, index: int, device: str, deadline: float) -> str:
    """Carry out one run on a worker before the deadline; return why it failed, to be ignored if it has a result.

    Raises:
        RunKilledError: If its process was killed; Ray then tries again.
    """
    if time.time() >= deadline:
        return NOT_STARTED
    run = Plan.read(Path(folder)).runs[index]
    process = _start(Path(folder), index, device, run)
    try:
        code = process.wait()
    finally:
        stop(process)
    if code < 0:
        raise RunKilledError(failure(code, _log(run)))
    return failure(code, _log(run))


def _ray_failure(reference: Any) -> str:
    """Wait for a task; return why its run failed, to be ignored if the run has a result."""
    import ray

    try:
        return str(ray.get(reference))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        return f"{type(cause).__name__}: {cause}"


def _log(run: Run) -> Path:
    return run.folder / "log.txt"


def _start(folder: Path, index: int, device: str, run: Run) -> subprocess.Popen[bytes]:
    run.folder.mkdir(parents=True, exist_ok=True)
    env = {}
    if device.isdecimal():  # by its number, older hosts would train on the first GPU if CUDA has been started
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        env["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(device)].strip() if visible else device
        device = "0"  # the only one that the run sees
    return start(RUN, str(folder), str(index), device, log=_log(run), **env)
