"""What `scripts/fuzz.py` does with a case: builds and runs its model, grafts, or runs a command."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from fuzz_cases import NAMES, SMALL, Case
from torch import Tensor
from ultralytics.nn import tasks

from yolo_coordbifpn import graft
from yolo_coordbifpn.commands import main as command
from yolo_coordbifpn.host import models
from yolo_coordbifpn.registry import TABLE


class TimeLimit(BaseException):
    """A case takes too long; not caught by `except Exception`."""


class Differs(Exception):  # noqa: N818
    """The output of a model changes when it is fused."""


class Refused(Exception):  # noqa: N818
    """A command has ended with a message, and status 1 or 2."""


def build_and_run(cfg: dict[str, Any], size: int) -> None:
    """Build the model of a YAML, as the host's class for its head does, and run it plain and fused.

    Raises:
        Differs: If fusing changes the output.
    """
    try:
        model_class = models.model_class(cfg)
    except (KeyError, IndexError, TypeError):  # there is no head to tell
        model_class = tasks.DetectionModel
    torch.manual_seed(0)
    model = model_class(copy.deepcopy(cfg), ch=3, verbose=False).eval()
    image = torch.rand(1, 3, size, size)
    with torch.no_grad():
        plain, fused = (next(tensors(m)).flatten().sort()[0] for m in (model(image), model.fuse(verbose=False)(image)))
    change = float((plain - fused).norm() / plain.norm().clamp_min(1e-9)) if len(plain) == len(fused) else 0.0
    if change > 1e-3:
        raise Differs(f"fused, the output differs by {change:.2g}")


def tensors(out: object) -> Iterator[Tensor]:
    """Iterate over all tensors in a nested output."""
    if isinstance(out, Tensor):
        yield out.float()
    for value in out.values() if isinstance(out, dict) else out if isinstance(out, (list, tuple)) else ():
        yield from tensors(value)


def grafted(case: Case) -> None:
    """Graft; build the new YAML, and run it if the old one runs."""
    cfg = copy.deepcopy(case.cfg)
    new = graft(cfg, **case.options)
    assert repr(cfg) == repr(case.cfg), "graft() has changed what it was given"
    try:
        build_and_run(case.cfg, case.base.size)
    except Exception:  # the old one does not run, so the new one need not either
        return
    build_and_run(new, case.base.size)


def commanded(case: Case) -> None:
    """Run a command over a file in an empty folder."""
    words = [f"{key}={value}" for key, value in case.options.items() if key != "command"]
    here, printed = Path.cwd(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            file = Path(case.base.name)
            file.write_text(case.text, encoding="utf-8")
            if case.options["command"] == "upgrade":
                file = checkpoint(case, file.with_suffix(".pt"))
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                status = command([case.options["command"], f"model={file}", *words])
        finally:
            os.chdir(here)
    if status:
        assert status in (1, 2), f"exit status {status}"
        assert printed.getvalue().strip(), "no message"
        raise Refused(f"exit status {status}")


def warm_up() -> None:
    """Name all blocks, build a model and read a checkpoint once; each may add names to the module of the parser."""
    TABLE.discovery.find(set(NAMES), vars(tasks))
    build_and_run(SMALL.cfg, SMALL.size)
    with contextlib.suppress(Refused):
        commanded(Case("files", SMALL, SMALL.cfg, {"command": "upgrade"}))


def checkpoint(case: Case, file: Path) -> Path:
    """Write a checkpoint as the host does; it is truncated if the YAML is damaged."""
    model: Any = tasks.DetectionModel(copy.deepcopy(SMALL.cfg), verbose=False)
    model.args, model.task = {}, "detect"
    torch.save({"epoch": -1, "model": model, "ema": None, "train_args": {}}, file)
    if case.text != case.base.text:
        content = file.read_bytes()
        file.write_bytes(content[: len(case.text) % len(content)])
    return file


def caught(work: Callable[[], None], limit: float) -> BaseException | None:
    """Do the work within a limit in seconds of computing, and return the error that it raises."""
    running = True

    def stop(*args: object) -> None:
        if running:
            raise TimeLimit(f"longer than {limit} s")

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, limit, 0.1)  # repeated, because a callback of the interpreter may swallow it
    try:
        work()
    except (Exception, TimeLimit) as error:
        return error
    finally:
        running = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
    return None
