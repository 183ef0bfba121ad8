"""The processes of a comparison: interrupts, lost parents, failures, and Ray; the runs themselves are fakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from new_process import all_end

from yolo_coordbifpn.compare import executors
from yolo_coordbifpn.compare.executors import RETRIES, on_devices
from yolo_coordbifpn.compare.plan import Plan, Run
from yolo_coordbifpn.compare.processes import start

if os.name != "posix":
    pytest.skip("sends POSIX signals", allow_module_level=True)

SITE = 'from yolo_coordbifpn.compare import executors; executors.RUN = "fake_run"'  # read by every Python process
FAKE_RUN = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

from yolo_coordbifpn.compare.plan import Plan
from yolo_coordbifpn.compare.processes import end_with_parent

def wait():
    subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(300)"])  # as a worker of the host's loader
    (folder / "waits").touch()
    time.sleep(300)

end_with_parent()
folder, index = Path(sys.argv[1]), int(sys.argv[2])
run = Plan.read(folder).runs[index]
with (run.folder / "attempts").open("a") as file:
    file.write("x")
first = (run.folder / "attempts").stat().st_size == 1
if run.label == "waits":
    wait()
if run.label == "fails":
    sys.exit("ValueError: no such thing")
if run.label == "killed" or (run.label == "killed-once" and first):
    os.kill(os.getpid(), signal.SIGKILL)
if run.label == "worker-lost" and first:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(300)
seen = [sys.argv[3], os.environ.get("CUDA_VISIBLE_DEVICES")]
(run.folder / "result.json").write_text(json.dumps({"metrics": {"mAP": 0.5}, "device": seen}))
"""
SESSION = """
import sys
from pathlib import Path

from yolo_coordbifpn.compare.plan import Plan
from yolo_coordbifpn.compare.session import compare

sys.exit(compare(Plan(Path("compared"), ("waits.yaml",), ("waits",), (0, 1), {"epochs": 2}), ["cpu", "cpu"], "local"))
"""
ON_RAY = """
import json
from pathlib import Path

import ray
from yolo_coordbifpn.compare.executors import on_ray
from yolo_coordbifpn.compare.plan import Plan

ray.init(log_to_driver=False, include_dashboard=False)  # once for both
plan = Plan.read(Path("compared"))
late = []
on_ray(plan, plan.runs, "cpu", lambda run, reason: late.append(run), lambda: None, deadline=0)
assert not late and not any(run.folder.exists() for run in plan.runs)
reasons = {}
on_ray(plan, plan.runs, "cpu", lambda run, reason: reasons.update({run.label: reason}), lambda: None)
print(json.dumps(reasons))
"""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every Python process that is started from now on take the fake run for the real one."""
    (tmp_path / "sitecustomize.py").write_text(SITE)
    (tmp_path / "fake_run.py").write_text(FAKE_RUN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(executors, "RUN", "fake_run")


def planned(folder: Path, *labels: str, seeds: tuple[int, ...] = (0,)) -> Plan:
    """Write a plan whose fake runs do what their model is called."""
    plan = Plan(folder, tuple(f"{x}.yaml" for x in labels), labels, seeds, {"epochs": 2})
    plan.start()
    return plan


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "whole_group", "status"),
    [
        (signal.SIGINT, False, 130),
        (signal.SIGINT, True, 130),
        (signal.SIGTERM, False, 130),
        (signal.SIGKILL, False, -9),
    ],
)
@pytest.mark.usefixtures("fakes")
def test_no_process_is_left_running(number: int, whole_group: bool, status: int, tmp_path: Path) -> None:
    """Interrupted or killed, alone or in its group, a comparison leaves no process running and says how to continue."""
    process = subprocess.Popen(
        [sys.executable, "-c", SESSION],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    descendants: list[psutil.Process] = []
    end = time.monotonic() + 60
    while len(descendants) < 4 or not (tmp_path / "compared" / "waits").exists():  # two runs with one child each
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)
        descendants = psutil.Process(process.pid).children(recursive=True)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    text = process.communicate(timeout=30)[0]
    assert process.returncode == status
    assert all_end(descendants, 10)
    if status == 130:
        assert "Interrupted: 0 of 2 runs have a result; the same command continues" in text
        assert "Traceback" not in text


@pytest.mark.usefixtures("fakes")
def test_an_interrupt_just_after_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that arrives before the new process is noted does not leave it running."""
    started = []

    def interrupted_start(*words: str, log: Path) -> subprocess.Popen[bytes]:
        started.append(start(*words, log=log))
        os.kill(os.getpid(), signal.SIGINT)
        return started[-1]

    monkeypatch.setattr(executors, "start", interrupted_start)
    plan = planned(tmp_path / "compared", "waits")
    with pytest.raises(KeyboardInterrupt):
        on_devices(plan, plan.runs, ["cpu"], lambda *_: None, lambda: None)
    assert [x.poll() for x in started] == [-signal.SIGKILL]


@pytest.mark.usefixtures("fakes")
def test_local_failures_have_a_reason(tmp_path: Path) -> None:
    """A run that exits gives the last line of its log, one that was killed the signal; the others go on."""
    plan = planned(tmp_path / "compared", "fails", "killed", "works")
    reasons: dict[Run, str] = {}
    on_devices(plan, plan.runs, ["cpu"], reasons.__setitem__, lambda: None)
    assert [reasons[x] for x in plan.runs[:2]] == ["ValueError: no such thing", "its process was killed by SIGKILL"]
    assert [x.result is not None for x in plan.runs] == [False, False, True]


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [("1", None, ["0", "1"]), ("1", "4, 6", ["0", "6"]), ("cpu", "4,6", ["cpu", "4,6"])],
)
def test_a_run_sees_its_gpu_alone(
    device: str, visible: str | None, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older hosts would train on the first GPU that a process sees, whatever the number of the device."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    plan = planned(tmp_path / "compared", "works")
    on_devices(plan, plan.runs, [device], lambda *_: None, lambda: None)
    assert plan.runs[0].result["device"] == expected


def test_children_of_a_run_do_not_wait_for_its_standard_input(tmp_path: Path) -> None:
    """The pipe that shows whether the parent lives is read by the run alone; its children have an empty input."""
    (tmp_path / "run.py").write_text(
        "import subprocess, sys\n"
        "from yolo_coordbifpn.compare.processes import end_with_parent\n"
        "end_with_parent()\n"
        "code = 'import sys; print([sys.stdin.read()])'\n"
        "print(subprocess.run([sys.executable, '-S', '-c', code], capture_output=True, text=True, timeout=20).stdout)\n"
    )
    (tmp_path / "log.txt").touch()
    process = start("run", log=tmp_path / "log.txt", PYTHONPATH=str(tmp_path))
    assert process.wait(60) == 0
    assert (tmp_path / "log.txt").read_text().strip() == "['']"


@pytest.mark.usefixtures("fakes")
def test_no_run_starts_after_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has started by the deadline is finished; a waiting one is neither started nor a failure."""
    now = iter([0.0])  # the deadline is between the first look at the clock and the second
    monkeypatch.setattr(executors, "time", SimpleNamespace(time=lambda: next(now, 2.0), sleep=time.sleep))
    plan = planned(tmp_path / "compared", "works", "works-too")
    ended: list[tuple[Run, str]] = []
    on_devices(plan, plan.runs, ["cpu"], lambda *x: ended.append(x), lambda: None, 1.0)
    assert [x.label for x, _ in ended] == ["works"]
    assert [x.result is not None for x in plan.runs] == [True, False]
    assert not plan.runs[1].folder.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("fakes")
def test_ray_tries_again_and_reports(tmp_path: Path) -> None:
    """On Ray, killed runs and lost workers are tried again, but not forever; errors are not; no run starts too late."""
    pytest.importorskip("ray")
    plan = planned(tmp_path / "compared", "works", "fails", "killed", "killed-once", "worker-lost")
    words = [sys.executable, "-c", ON_RAY]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    reasons = json.loads(next(x for x in done.stdout.splitlines() if x.startswith("{")))  # among lines of Ray
    assert reasons["fails"] == "ValueError: no such thing"
    assert reasons["killed"] == "RunKilledError: its process was killed by SIGKILL"
    attempts = {x.label: len((x.folder / "attempts").read_text()) for x in plan.runs}
    assert attempts == {"works": 1, "fails": 1, "killed": RETRIES + 1, "killed-once": 2, "worker-lost": 2}
    finished = {x.label for x in plan.runs if x.result is not None}
    assert finished == {"works", "killed-once", "worker-lost"}
