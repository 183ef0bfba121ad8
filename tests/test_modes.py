"""Other modes of the host with our models; scripts/check_modes.py checks more of them against the stock model."""

from __future__ import annotations

from pathlib import Path

import check_modes
import pytest
from new_process import run_python
from side_by_side import MODELS, SIZE, answer_in

from yolo_coordbifpn.commands.scenes import write_scenes


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Make a new data set for each mode."""
    return write_scenes(tmp_path / "scenes", train=8, val=4, size=SIZE, seed=0)


SLOW = [pytest.param(x, marks=pytest.mark.slow) for x in ("classes", "ema", "freeze", "look", "rect")]


@pytest.mark.parametrize("mode", ["bf16", "info", "profile", *SLOW])
def test_mode(mode: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of this name in scripts/check_modes.py passes; its docstring says what it shows."""
    monkeypatch.chdir(tmp_path)
    check_modes.CHECKS[mode](MODELS["ours"], data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "student"), [("distill_ours", "yolo11n-coordatt-bifpn-p2.yaml"), ("distill_levels", MODELS["ours"])]
)
def test_distillation(mode: str, student: str, data: Path, tmp_path: Path) -> None:
    """From a teacher with fewer or more levels a model trains, is interrupted, resumes, and leaves the student."""
    done = run_python(check_modes.__file__, "one", mode, student, str(data), folder=tmp_path, limit=200)
    log = done.stdout + done.stderr
    assert (answer_in(log) or [log])[0] == "works", log
    assert log.count("distillation at P3, P4, P5, the levels that teacher and student have in common") == 2
