"""The built wheel: what it contains and requires, and that it uninstalls without a trace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_structure import ASK_THE_HOST, imported, room
from test_structure import FILES as MODULES

FOLDERS = ("yolo_coordbifpn", "model_yamls", "scripts", "tests")
FILES = ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution from a copy of the sources, and the wheel from that."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    (source / ".gitignore").write_text("*.pth\n")  # as in many global ones
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (built,) = out.glob("*.whl")
    return built


def names_of(requirements: Iterable[str]) -> set[str]:
    """Return the names of the distributions that requirements ask for."""
    return {canonicalize_name(Requirement(x).name) for x in requirements}


@pytest.mark.slow
def test_contents(wheel: Path) -> None:
    """The wheel contains the package, the model YAMLs and, at the top level, only the start-up files."""
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


@pytest.mark.slow
def test_requirements(wheel: Path) -> None:
    """Rooms without the host import only dependencies; the others also extras and what Ultralytics requires."""
    archive, providers = zipfile.ZipFile(wheel), metadata.packages_distributions()
    (file,) = [x for x in archive.namelist() if x.endswith(".dist-info/METADATA")]
    ours = message_from_bytes(archive.read(file)).get_all("Requires-Dist", [])
    needed = names_of(x for x in ours if "extra ==" not in x)
    optional = names_of(x for x in ours if "'test'" not in x)
    optional |= names_of(metadata.requires(providers["ultralytics"][0]) or [])
    for module in MODULES:
        asks = room(module) in ASK_THE_HOST
        roots = {name.split(".")[0] for name in imported(module, everywhere=asks)}
        for root in roots - set(sys.stdlib_module_names) - {"yolo_coordbifpn", "ultralytics"}:
            allowed = optional if asks else needed
            assert allowed & set(map(canonicalize_name, providers[root])), f"{module} imports {root}"


@pytest.mark.slow
def test_install_and_uninstall(wheel: Path, tmp_path: Path) -> None:
    """In a new environment the start-up hook finds our models, and uninstalling leaves no file behind."""
    import ultralytics

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True, timeout=200)
    bin_folder = next(x for x in (tmp_path / "env" / "bin", tmp_path / "env" / "Scripts") if x.is_dir())
    python = next(bin_folder.glob("python*"))
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", code], text=True).strip())
    (site / "another.py").touch()  # pip removes a folder that it leaves empty
    before = {x for x in (tmp_path / "env").rglob("*") if "__pycache__" not in x.parts}

    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "install", "--no-deps", str(wheel)], check=True, timeout=200)
    # packages of the outer environment are found after those of the inner one
    outer = Path(ultralytics.__file__).parent.parent
    code = (
        "import ultralytics, yolo_coordbifpn; from ultralytics import YOLO; YOLO('yolo11s-bifpn.yaml');"
        "print(yolo_coordbifpn.__file__)"
    )
    env = {**os.environ, "PYTHONPATH": ""}
    # Ultralytics is added to the path after the hook has run, which must wait for it wherever it comes from
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
