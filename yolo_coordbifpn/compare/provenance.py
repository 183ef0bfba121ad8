"""The origin of a result: model, seed, versions and machine."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import yolo_coordbifpn

from ..grafting.names import find, folder
from ..host.machine import machine
from .devices import torch_device
from .plan import Run


def provenance(run: Run, device: str) -> dict[str, Any]:
    """Return model and seed of a run, the installed versions, and the machine with the host's name of the device."""
    import ultralytics

    return {
        "model": run.label,
        "seed": run.seed,
        "file": model_file(run.model),
        "ultralytics": ultralytics.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "yolo_coordbifpn": yolo_coordbifpn.__version__,
        "commit": _commit(),
        "machine": machine(torch_device(device)),
    }


def model_file(name: str) -> str:
    """Return what kind of file a model is: a stock or shipped YAML, one made from a stock YAML, or a local file."""
    import ultralytics

    if name.endswith(".pt"):
        return f"checkpoint {name}"
    file = find(name).absolute()
    if file.is_relative_to(Path(ultralytics.__file__).parent):
        return f"stock {file.name}"
    if file.is_relative_to(folder()):
        return f"shipped {file.name}"
    if file.parent.name.startswith("yolo_coordbifpn_"):
        return f"made from a stock YAML, {file.name}"
    return f"local file {file}"


def _commit() -> str:
    """Return the commit of this package's checkout, or an empty string without a checkout or git."""
    root = Path(yolo_coordbifpn.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    words = ["git", "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(words, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10)
        return done.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
