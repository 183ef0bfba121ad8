"""The built wheel: what is in it, that it installs and uninstalls without a trace, and what its start-up hook costs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

FOLDERS = ("yolo_coordbifpn", "model_yamls", "scripts", "tests")
FILES = ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution from a copy of the sources, and the wheel from it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    (source / ".gitignore").write_text("*.pth\n")  # as many a global one has it
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (built,) = out.glob("*.whl")
    return built


def test_contents(wheel: Path) -> None:
    """The wheel has the package, the model YAMLs, the start-up files and nothing else at the top level."""
    names = zipfile.ZipFile(wheel).namelist()
    assert "yolo_coordbifpn/compare/report.html.j2" in names
    top = {x.split("/")[0] for x in names if ".dist-info" not in x}
    assert top == {"yolo_coordbifpn", "yolo_coordbifpn.pth", "yolo_coordbifpn.start", "yolo_coordbifpn_startup.py"}
    assert "yolo_coordbifpn/py.typed" in names
    assert "yolo_coordbifpn/inspection/page.html.j2" in names
    yamls = {x for x in names if x.startswith("yolo_coordbifpn/model_yamls/") and x.endswith(".yaml")}
    ours = (ROOT / "model_yamls").rglob("*.yaml")
    assert yamls == {f"yolo_coordbifpn/{x.relative_to(ROOT).as_posix()}" for x in ours}
    assert not [x for x in names if "__pycache__" in x or x.startswith("yolo_coordbifpn/patches/startup")]


def test_install_and_uninstall(wheel: Path, tmp_path: Path) -> None:
    """Installed in an environment of its own the stock command trains with us, and uninstalling leaves nothing."""
    import ultralytics

    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True, timeout=200)
    bin_folder = next(x for x in (tmp_path / "env" / "bin", tmp_path / "env" / "Scripts") if x.is_dir())
    python = next(bin_folder.glob("python*"))
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", code], text=True).strip())
    before = {x for x in (tmp_path / "env").rglob("*") if "__pycache__" not in x.parts}

    pip = [python, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "install", "--no-deps", str(wheel)], check=True, timeout=200)
    # the packages of the outer environment, behind the inner one's own
    outer = Path(ultralytics.__file__).parent.parent
    code = (
        "import ultralytics, yolo_coordbifpn; from ultralytics import YOLO; YOLO('yolo11s-bifpn.yaml');"
        "print(yolo_coordbifpn.__file__)"
    )
    env = {**os.environ, "PYTHONPATH": ""}
    # a path line in a .pth file would run after the hook; the hook must wait for the host, wherever it comes from
    done = subprocess.run(
        [python, "-c", f"import sys; sys.modules['yolo_coordbifpn_startup']; sys.path.append({str(outer)!r}); {code}"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).is_relative_to(site)
    assert (bin_folder / "yolo-coordbifpn").exists() or (bin_folder / "yolo-coordbifpn.exe").exists()

    subprocess.run([*pip, "uninstall", "-y", "yolo_coordbifpn"], check=True, timeout=200)
    after = {x for x in (tmp_path / "env").rglob("*") if "__pycache__" not in x.parts}
    assert after == before
    assert subprocess.run([python, "-c", "pass"], capture_output=True, text=True, timeout=60).stderr == ""
