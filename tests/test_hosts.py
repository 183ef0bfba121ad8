"""Other versions of Ultralytics with the same torch; scripts/check_hosts.py checks more, on more versions."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import check_hosts
import pytest
from new_process import run_python
from side_by_side import answer_in, ask

pytestmark = pytest.mark.slow
VERSIONS = ("8.0.200", "8.3.0", "8.4.0")  # the oldest of three lines


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of installed hosts that YOLO_COORDBIFPN_HOSTS names, or one that pip fills."""
    folder = Path(os.environ.get("YOLO_COORDBIFPN_HOSTS") or tmp_path_factory.mktemp("hosts"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_RETRIES", "0")
        for version in VERSIONS:
            try:
                check_hosts.install(version, folder, whole=False)
            except subprocess.CalledProcessError:
                pytest.skip(f"pip cannot install ultralytics {version}, and YOLO_COORDBIFPN_HOSTS names no folder")
    return folder


@pytest.mark.parametrize("version", VERSIONS)
def test_fuse_and_transfer(version: str, hosts: Path, tmp_path: Path) -> None:
    """On another host, fusing a model keeps its output, and a stock checkpoint gives the stock output."""
    to = hosts / version
    words = [check_hosts.__file__, "one", "fuse,transfer", check_hosts.models_for(version)["ours"], "", str(to)]
    done = run_python(*words, folder=tmp_path, limit=200, **check_hosts.environment(to))
    outcome, versions = answer_in(done.stdout) or ("no answer", "")
    assert outcome.startswith("works"), done.stdout + done.stderr
    assert f"ultralytics {version}" in versions


def test_an_old_host_says_which_one_a_model_needs(hosts: Path, tmp_path: Path) -> None:
    """The error for a model of a later family names the version that has it."""
    code = "from ultralytics import YOLO; YOLO('yolo26n-coordatt-bifpn.yaml')"
    ask(["-c", code], tmp_path, 200, check_hosts.environment(hosts / "8.3.0"))
    told = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "yolo26-coordatt-bifpn.yaml needs ultralytics>=8.4.0, this is 8.3.0: pip install -U ultralytics" in told
