"""The host's other modes with our models; scripts/check_modes.py tries more of them, with the stock model beside."""

from __future__ import annotations

from pathlib import Path

import check_modes
import pytest
from side_by_side import MODELS, SIZE, ask

from yolo_coordbifpn.commands.scenes import write_scenes


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Make a data set of its own for each mode."""
    return write_scenes(tmp_path / "scenes", train=8, val=4, size=SIZE, seed=0)


@pytest.mark.parametrize("mode", ["bf16", "classes", "ema", "freeze", "info", "look", "profile", "rect"])
def test_mode(mode: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the docstring of the check in scripts/check_modes.py says."""
    monkeypatch.chdir(tmp_path)
    check_modes.CHECKS[mode](MODELS["ours"], data)


def test_distillation(data: Path, tmp_path: Path) -> None:
    """With our blocks in teacher and student a distillation trains, is cut off and resumed, and leaves the student."""
    words = [check_modes.__file__, "one", "distill_ours", MODELS["ours"], str(data)]
    outcome, _ = ask(words, tmp_path, 200, {})
    assert outcome == "works", (tmp_path / "log.txt").read_text(encoding="utf-8")
