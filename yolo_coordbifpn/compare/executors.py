"""Who runs next and where: each run in a process of its own, on the devices of this machine or on a Ray cluster."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from ..errors import CompareError
from .plan import Plan, Run

Done = Callable[[Run, bool], None]


def on_devices(plan: Plan, devices: Sequence[str], done: Done) -> None:
    """Run what is missing, one run at a time on each device; a device named twice runs two.

    Args:
        plan: The plan.
        devices: As the host takes them: `cpu`, `0`, `1`, ...
        done: Called with each run as it ends, and whether it has a result.
    """
    free: queue.Queue[str] = queue.Queue()
    for device in devices:
        free.put(device)
    missing = [(i, x) for i, x in enumerate(plan.runs) if x.result is None]
    processes: set[subprocess.Popen[bytes]] = set()
    stopped = threading.Event()

    def work(index: int, run: Run) -> Run:
        device = free.get()
        try:
            if not stopped.is_set():
                process = _start(plan.folder, index, device, run)
                processes.add(process)
                process.wait()
                processes.discard(process)
        finally:
            free.put(device)
        return run

    with ThreadPoolExecutor(len(devices)) as pool:
        try:
            for ended in as_completed([pool.submit(work, *x) for x in missing]):
                done(ended.result(), ended.result().result is not None)
        except BaseException:  # Ctrl-C too: no run goes on without us
            stopped.set()
            for process in list(processes):
                _stop(process)
            raise


def on_ray(plan: Plan, device: str, done: Done, address: str | None = None) -> None:
    """Run what is missing on a Ray cluster that shares the plan's folder, each run with one GPU or one CPU.

    Args:
        plan: The plan.
        device: `cpu`, or anything else for one GPU a run.
        done: Called with each run as it ends, and whether it has a result.
        address: Address of the cluster; without one, `RAY_ADDRESS` or a Ray of this machine's own.

    Raises:
        CompareError: If Ray is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise CompareError("engine=ray needs Ray: pip install 'yolo_coordbifpn[ray]'") from error

    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False, include_dashboard=False)
    resources = {"num_cpus": 1} if device == "cpu" else {"num_cpus": 1, "num_gpus": 1}

    @ray.remote(max_retries=3, **resources)  # type: ignore[call-overload, untyped-decorator]
    def work(folder: str, index: int) -> int:
        from pathlib import Path

        from yolo_coordbifpn.compare.executors import _start
        from yolo_coordbifpn.compare.plan import Plan

        run = Plan.read(Path(folder)).runs[index]
        return _start(Path(folder), index, "cpu" if device == "cpu" else "0", run).wait()

    waiting = {work.remote(str(plan.folder), i): x for i, x in enumerate(plan.runs) if x.result is None}
    while waiting:
        (ready, *_), _ = ray.wait(list(waiting))
        run = waiting.pop(ready)
        done(run, run.result is not None)


def failure(run: Run) -> str:
    """Return the last line that a run without a result wrote."""
    log = run.folder / "log.txt"
    lines = [x.strip() for x in _lines(log) if x.strip()]
    return lines[-1] if lines else "it wrote nothing"


def _lines(file: Path) -> Iterator[str]:
    if file.is_file():
        yield from file.read_text(encoding="utf-8", errors="replace").splitlines()


def _start(folder: Path, index: int, device: str, run: Run) -> subprocess.Popen[bytes]:
    """Start one run in a process of its own, whose output goes to its log."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "yolo_coordbifpn.compare.run", str(folder), str(index), device],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=os.name == "posix",  # so that a run ends with all that it has started
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
