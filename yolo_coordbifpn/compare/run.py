"""One run of a comparison in a process of its own: one model with one seed, trained by the host and measured.

    python -m yolo_coordbifpn.compare.run FOLDER INDEX DEVICE

An interrupted run continues, see `resume.py`. With the same seed, all models see the same images in the same order with
the same augmentation, so their results are paired.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from ..files import write
from ..host.models import open_model
from .plan import Plan, Run
from .processes import end_with_parent
from .provenance import provenance
from .resume import ResumeState
from .validation import validate


def carry_out(folder: Path, index: int, device: str) -> None:
    """Train, validate and measure one run of a plan, and write its `result.json`.

    Args:
        folder: Folder of the plan.
        index: Index of the run.
        device: Name of the host: `cpu`, `0`, ...
    """
    plan = Plan.read(folder)
    run = plan.runs[index]
    run.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(run.folder / "run.lock"):  # another process may still work on this run; then its result is used
        for part in run.folder.rglob("*.part"):  # left by a process that was killed
            part.unlink()
        state_file = run.folder / "resume.pt"
        if run.result is None:
            best, training = _train(plan, run, state_file, device)
            result = {**provenance(run, device), **training, **validate(plan, run, best, device)}
            write(run.folder / "result.json", json.dumps(result, indent=2))
        state_file.unlink(missing_ok=True)


def _train(plan: Plan, run: Run, state_file: Path, device: str) -> tuple[Path, dict[str, Any]]:
    """Train a run to its end; return its best checkpoint, and the duration and memory of the training."""
    folder = run.folder / "train"
    resume = ResumeState(state_file, run.seed)
    if resume.state:
        last = resume.restore_files(folder)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # starts CUDA, after which older hosts cannot make another GPU visible
    if not resume.finished:
        # One run sets up at a time, since two would write the host's label cache at once.
        setup = FileLock(plan.folder / "setup.lock")
        with setup:
            model = open_model(last if resume.state else run.model)
            model.add_callback("on_train_start", lambda _: setup.release())
            for event in ("on_train_start", "on_train_epoch_start", "on_fit_epoch_end"):
                model.add_callback(event, getattr(resume, event))
            if resume.state:
                model.train(resume=True, device=device)
            else:
                if folder.exists():  # of a run that was interrupted in its first epoch
                    shutil.rmtree(folder)
                with resume.transfers:
                    where = {"project": str(run.folder), "name": "train", "exist_ok": True}
                    model.train(**{"plots": False, **plan.train, **where, "seed": run.seed, "device": device})
        resume.finish(folder)
    return folder / "weights" / "best.pt", {
        "epochs": len(resume.seconds),
        "batch_size": resume.batch,
        "train_seconds": round(sum(resume.seconds), 2),
        "peak_memory_mib": resume.memory,
        "items": resume.transfers.items,
    }


if __name__ == "__main__":
    end_with_parent()
    carry_out(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
