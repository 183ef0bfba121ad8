"""Which run is started when and where: on the devices of this machine, or on a Ray cluster."""

from __future__ import annotations

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

Done = Callable[[Run, str], None]  # called with each run that ends, and why it failed if it has no result
Tick = Callable[[], None]  # called several times a second


class RunKilledError(RuntimeError):
    """The process of a run was killed by a signal, for lack of memory for example."""


def on_devices(plan: Plan, devices: Sequence[str], done: Done, tick: Tick) -> None:
    """Carry out all runs without a result, one at a time on each device; a device named twice takes two.

    Args:
        plan: The plan.
        devices: Names of the host: `cpu`, `0`, `1`, ...
        done: Called with each run that ends.
        tick: Called several times a second.

    Raises:
        KeyboardInterrupt: On SIGINT or SIGTERM, after all runs have been ended.
    """
    waiting = deque(_missing(plan))
    free = deque(devices)
    running: dict[subprocess.Popen[bytes], tuple[Run, str]] = {}
    with held_interrupts() as check:
        try:
            while waiting or running:
                while waiting and free:
                    (index, run), device = waiting.popleft(), free.popleft()
                    running[_start(plan.folder, index, device, run)] = run, device
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


def on_ray(plan: Plan, device: str, done: Done, tick: Tick) -> None:
    """Carry out all runs without a result on a Ray cluster that shares the plan's folder.

    The cluster is the one at `RAY_ADDRESS`, or one that is started on this machine.

    Args:
        plan: The plan.
        device: `cpu` for one CPU for each run, `gpu` for one GPU.
        done: Called with each run that ends.
        tick: Called several times a second.

    Raises:
        CompareError: If Ray is not installed.
        KeyboardInterrupt: On SIGINT or SIGTERM, after all runs have been cancelled.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise CompareError("engine=ray needs Ray: pip install 'yolo_coordbifpn[ray]'") from error

    connected = ray.is_initialized()
    if not connected:
        ray.init(log_to_driver=False, include_dashboard=False)
    resources = {"num_cpus": 1} if device == "cpu" else {"num_cpus": 1, "num_gpus": 1}
    task = ray.remote(_ray_task).options(max_retries=RETRIES, retry_exceptions=[RunKilledError], **resources)
    with held_interrupts() as check:
        running = {task.remote(str(plan.folder), i, "cpu" if device == "cpu" else "0"): x for i, x in _missing(plan)}
        try:
            while running:
                for reference in ray.wait(list(running), timeout=POLL)[0]:
                    done(running.pop(reference), _ray_failure(reference))
                tick()
                check()
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
            if not connected:
                ray.shutdown()


def _ray_task(folder: str, index: int, device: str) -> str:
    """Carry out one run on a worker; return why it failed, which means nothing if it has a result.

    Raises:
        RunKilledError: If its process was killed, so that Ray tries again.
    """
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
    """Fetch a task; return why its run failed, which means nothing if the run has a result."""
    import ray

    try:
        return str(ray.get(reference))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        return f"{type(cause).__name__}: {cause}"


def _missing(plan: Plan) -> list[tuple[int, Run]]:
    return [(i, x) for i, x in enumerate(plan.runs) if x.result is None]


def _log(run: Run) -> Path:
    return run.folder / "log.txt"


def _start(folder: Path, index: int, device: str, run: Run) -> subprocess.Popen[bytes]:
    run.folder.mkdir(parents=True, exist_ok=True)
    return start(RUN, str(folder), str(index), device, log=_log(run))
