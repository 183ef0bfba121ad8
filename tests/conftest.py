"""Shared fixtures: where real data is, if it is here, and how to run a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("YOLO_COORDBIFPN_SHARED", ROOT.parent / "shared"))  # real data sets and weights

os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    torch.set_num_threads(1)


def tensors(out: object) -> Iterator[Tensor]:
    """Iterate over all tensors in a nested output."""
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, dict):
        for value in out.values():
            yield from tensors(value)
    elif isinstance(out, (list, tuple)):
        for value in out:
            yield from tensors(value)


@pytest.fixture(scope="session", autouse=True)
def host_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give the host a settings folder of its own, so that a user's is never touched."""
    os.environ["YOLO_CONFIG_DIR"] = str(tmp_path_factory.mktemp("settings"))


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., str]:
    """Run Python code in a fresh process, in an empty folder, and return what it prints."""

    def run(code: str, check: bool = True, **env: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=300,
        )
        if check and done.returncode:
            raise AssertionError(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout if check else done.stdout + done.stderr

    return run
