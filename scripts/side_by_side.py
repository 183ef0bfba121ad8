"""Do the same check with a stock model and with ours, each in its own process.

Used by scripts/check_hosts.py and scripts/check_modes.py: `ask()` starts a process for one check and one model, and
`answer()` runs in it. An outcome is "works", "works: what was seen" or "fails: reason".
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from yolo_coordbifpn.commands import UsageError

QUIET = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": ""}
VARIANT = "-coordatt-bifpn"
MODELS = {"stock": "yolo11n.yaml", "ours": f"yolo11n{VARIANT}.yaml"}
SIZE = 64  # pixels
FIELDS = ("check", "stock", "ours", "versions")
_MARK = "side by side: "
_LONGEST = 160  # characters of a reason


def verdict(row: Mapping[str, str]) -> str:
    """Return the outcome with our model; it says so if the stock model fails too."""
    if fails(row["ours"]) and fails(row["stock"]):
        return row["stock"].replace("fails", "fails in stock too", 1)
    return row["ours"]


def fails(outcome: str) -> bool:
    """Return whether an outcome is a failure."""
    return outcome.startswith("fails")


def chosen(checks: str, known: Collection[str]) -> list[str]:
    """Read the names of checks, separated by commas.

    Raises:
        UsageError: If one of them is unknown.
    """
    names = checks.split(",")
    unknown = [x for x in names if x not in known]
    if unknown:
        raise UsageError(f"checks= has no {', '.join(unknown)}. Choose from: {', '.join(known)}.")
    return names


def ask(words: Sequence[str], folder: Path, limit: float, env: Mapping[str, str]) -> tuple[str, str]:
    """Run a check in a new process.

    Args:
        words: Script and arguments; the script calls `answer()`.
        folder: Working folder of the process; its output is kept there, in log.txt.
        limit: Seconds after which the process is killed.
        env: Environment variables to add.

    Returns:
        The outcome, and the versions of the packages that were used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env={**os.environ, **QUIET, "YOLO_CONFIG_DIR": str(folder), **env},
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=os.name == "posix",  # so that its children are killed with it
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
            process.wait()
            return f"fails: not done after {limit:.0f} s", ""
    found = answer_in(log.read_text(encoding="utf-8", errors="replace"))
    return found or (f"fails: the process ended with status {status}", "")


def answer_in(text: str) -> tuple[str, str] | None:
    """Return the outcome and the versions in the output of a process; None if it has not answered."""
    answers = [x for x in text.splitlines() if x.startswith(_MARK)]
    if not answers:
        return None
    answered = json.loads(answers[-1].removeprefix(_MARK))
    return answered["outcome"], answered["versions"]


def answer(check: Callable[[], str | None]) -> None:
    """Do a check in its own process and print the outcome.

    Args:
        check: Returns what was seen, if that is worth reporting, and raises an error if something is wrong.
    """
    try:
        seen = check()
        outcome = f"works: {seen}" if seen else "works"
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        outcome = f"fails: {_reason(error)}"
    import ultralytics

    versions = (
        f"ultralytics {ultralytics.__version__}, torch {torch.__version__.partition('+')[0]}, "
        f"numpy {version('numpy')}, Python {platform.python_version()}"
    )
    print(f"\n{_MARK}{json.dumps({'outcome': outcome, 'versions': versions})}", flush=True)


def _reason(error: BaseException) -> str:
    """Write an error in one line."""
    text = " ".join(re.sub(r"\x1b\[[\d;]*m", "", str(error)).split()) or "no message"
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST].rstrip()}..."
    return text if type(error) is AssertionError else f"{type(error).__name__}: {text}"


# In the process of a check -------------------------------------------------------------------------------------------


def yolo(*words: str, **options: object) -> None:
    """Run the stock command line in this process."""
    from ultralytics.cfg import entrypoint

    sys.argv[:] = ["yolo", *words, *(f"{k}={v}" for k, v in options.items())]
    entrypoint()


def opened(file: str | Path) -> Any:
    """Return the host's model object for a YAML or a checkpoint."""
    from ultralytics.models import YOLO

    return YOLO(file)


def small(name: str) -> dict[str, Any]:
    """Return arguments of the host for a run of a few seconds that writes into the folder `name`."""
    return {"imgsz": SIZE, "batch": 4, "workers": 0, "device": "cpu", "project": str(Path.cwd()), "name": name}


def epochs(name: str) -> list[str]:
    """Return the epochs in the table that a training wrote into the folder `name`."""
    rows = Path(name, "results.csv").read_text(encoding="utf-8").splitlines()[1:]
    return [row.split(",")[0].strip() for row in rows]


def cut_off_and_resume(name: str, data: Path, **options: Any) -> None:
    """Train two epochs into the folder `cut`: interrupt after the first, resume by the stock command."""

    class CutOffError(Exception):
        pass

    def cut_off(trainer: Any) -> None:
        raise CutOffError

    model = opened(name)
    model.add_callback("on_model_save", cut_off)
    with contextlib.suppress(CutOffError):
        model.train(data=str(data), epochs=2, **small("cut"), **options)
    yolo("train", "resume", model=Path("cut/weights/last.pt").resolve())
    assert epochs("cut") == ["1", "2"], f"results.csv has the epochs {epochs('cut')}"


def checkpoint(name: str = MODELS["stock"], nc: int = 80) -> Path:
    """Write a checkpoint with weights as after a training, in the form of the installed host."""
    from ultralytics.nn.tasks import DetectionModel

    file = Path(name).with_suffix(".pt").resolve()
    if not file.is_file():
        torch.manual_seed(0)
        model = trained(DetectionModel(opened(name).model.yaml, nc=nc, verbose=False))
        torch.save({"epoch": -1, "model": model, "train_args": {"model": name, "task": "detect"}}, file)
    return file


def trained(model: Any) -> Any:
    """Draw batch norms and fusion weights as after a training."""
    generator = torch.Generator().manual_seed(0)

    def drawn(tensor: Any, low: float, high: float) -> None:
        tensor.data = low + (high - low) * torch.rand(tensor.shape, generator=generator)

    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            drawn(m.running_mean, -0.5, 0.5)
            drawn(m.running_var, 0.3, 2.0)
            drawn(m.weight, 0.5, 1.5)
            drawn(m.bias, -0.5, 0.5)
        elif type(m).__name__ == "BiFPN_Concat":
            drawn(m.weight, 0.1, 1.0)
    return model.eval()


def same(new: Any, old: Any) -> str:
    """Compare the outputs of two models."""
    x = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        a, b = new(x), old(x)
    a, b = (v[0] if isinstance(v, (list, tuple)) else v for v in (a, b))
    gap = float((a - b).norm() / b.norm())
    assert gap < 1e-4, f"the output differs by {gap:.0e}"
    return f"output differs by {gap:.0e}"


@contextlib.contextmanager
def host_log() -> Iterator[list[str]]:
    """Collect the lines of the host's log."""
    from ultralytics.utils import LOGGER

    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.extend(record.getMessage().splitlines())  # type: ignore[method-assign]
    LOGGER.addHandler(handler)
    yield lines
    LOGGER.removeHandler(handler)
