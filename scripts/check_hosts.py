"""What works on which version of Ultralytics, with a stock model and with ours, beside one torch.

    python scripts/check_hosts.py
    python scripts/check_hosts.py hosts=8.3.0,newest checks=fuse,transfer
    python scripts/check_hosts.py folder=hosts jobs=1 out=scripts/results/hosts.csv

A host is a version of `ultralytics`, `newest`, or the name of another distribution. Each is installed with `pip install
--no-deps --target` into its own folder below folder=, together with those of its requirements that are missing in this
environment; torch is not installed. Without folder=, a temporary folder is used; a host that folder= already has is not
installed again. Each check runs in its own process, with yolo11n and yolo11n-coordatt-bifpn (yolov8n before 8.3.0), on
scenes drawn by code, on the CPU. The stock checkpoint is made on the host itself.

    build       every shipped YAML, and the stock YAMLs that they are made from: built, and run once
    train       `yolo train`, one epoch, from the stock checkpoint
    val, predict    with the checkpoint of that training
    resume      a training that is interrupted after its first epoch continues
    fuse        with weights as after a training: the same output when fused, and is_fused() is right
    transfer    the stock checkpoint is loaded: the output of the stock model
    torchscript, onnx    `yolo export`: the output of PyTorch

The exports need `pip install onnx onnxruntime onnxslim onnxscript`. Each check prints a line, and the table follows.
With out=, the rows are written as CSV.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from pathlib import Path

import csv_rows
from host_checks import CHECKS
from markdown_table import markdown
from packaging.requirements import Requirement
from packaging.version import Version
from run_script import run_script
from side_by_side import FIELDS, MODELS, SIZE, VARIANT, answer, ask, chosen, fails, verdict

from yolo_coordbifpn.commands import parse, whole_number
from yolo_coordbifpn.commands.scenes import write_scenes

HOSTS = ("8.0.200", "8.1.0", "8.2.50", "8.3.0", "8.3.252", "8.4.0", "8.4.100", "newest", "ultralytics-opencv-headless")
OLD_MODELS = {"stock": "yolov8n.yaml", "ours": f"yolov8n{VARIANT}.yaml"}  # for hosts before 8.3.0, which has YOLO11
OLD_NUMPY = "numpy<2.4"  # the last with np.trapz; hosts up to 8.3.0 declare numpy<2 or nothing
MODULES = {  # of distributions whose modules have another name
    "opencv-python": "cv2",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "py-cpuinfo": "cpuinfo",
    "nvidia-ml-py": "pynvml",
    "ultralytics-thop": "thop",
}
LIMIT = 400  # seconds, for one process


def install(host: str, folder: Path, whole: bool = True) -> Path:
    """Install a host and its missing requirements into its own folder; torch is not installed.

    Args:
        host: A version of `ultralytics`, `newest`, or the name of a distribution.
        folder: Parent of its folder.
        whole: Whether to install its missing requirements too; training needs them.

    Returns:
        Its folder.

    Raises:
        CalledProcessError: If pip cannot install it.
    """
    to = folder / host
    if not (to / "ultralytics").is_dir():
        _pip(to, f"ultralytics=={host}" if host[0].isdigit() else host.replace("newest", "ultralytics"))
        if whole:
            _install_needs(to)
    return to


def _install_needs(to: Path) -> None:
    """Install the requirements of the host in a folder that this environment lacks."""
    needs = [Requirement(x) for found in distributions(path=[str(to)]) for x in found.requires or ()]
    needs = [x for x in needs if x.marker is None or x.marker.evaluate({"extra": ""})]
    missing = [f"{x.name}{x.specifier}" for x in needs if not _is_here(x.name.lower())]
    if _is_old(to.name) or any(x.name == "numpy" and not x.specifier.contains("2.3") for x in needs):
        missing.append(OLD_NUMPY)
    if missing:
        _pip(to, *missing)


def _pip(to: Path, *packages: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(to), *packages]
    subprocess.run(command, check=True)


def _is_here(distribution: str) -> bool:
    """Return whether the module of a distribution can be imported in this environment."""
    return importlib.util.find_spec(MODULES.get(distribution, distribution.replace("-", "_"))) is not None


def environment(to: Path) -> dict[str, str]:
    """Return the environment variables with which a process imports the host in a folder."""
    places = [str(to), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    path = {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    return {**path, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"} if _is_old(to.name) else path


def models_for(host: str) -> dict[str, str]:
    """Return the names of the stock model and of ours for the checks on a host."""
    return OLD_MODELS if _is_old(host) else MODELS


def _is_old(host: str) -> bool:
    """Return whether a host is older than 8.3.0; those open checkpoints as torch did before 2.6."""
    return host[0].isdigit() and Version(host) < Version("8.3.0")


def check_host(host: str, to: Path, checks: Sequence[str], work: Path) -> list[dict[str, str]]:
    """Do the checks on one host with both models, each on its own data."""
    models = models_for(host)
    data = {x: write_scenes(work / host / x / "scenes", train=8, val=4, size=SIZE, seed=0) for x in models}
    rows = []
    for check in checks:
        outcomes = {}
        for who, name in models.items():
            words = [__file__, "one", check, name, str(data[who]), str(to)]
            outcomes[who], versions = ask(words, work / host / who, LIMIT, environment(to))
        rows.append({"host": host, "check": check, **outcomes, "versions": versions})
        print(f"{host:28}{check:14}{verdict(rows[-1])}", flush=True)
    return rows


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Write a table: hosts down, checks across, failures and missing models as notes."""
    checks = list(dict.fromkeys(row["check"] for row in rows))
    notes: list[str] = []
    lines = []
    for host in dict.fromkeys(row["host"] for row in rows):
        found = [row for row in rows if row["host"] == host]
        number = re.search(r"ultralytics ([\d.]+)", found[0]["versions"])
        name = f"{host} ({number[1]})" if number and number[1] != host else host
        lines.append([name, *(_cell(row, notes) for row in found)])
    return "\n".join([markdown(["Ultralytics", *checks], lines), "", *(f"{i}. {x}" for i, x in enumerate(notes, 1))])


def _cell(row: Mapping[str, str], notes: list[str]) -> str:
    """Return an outcome in a word, with the number of its note; a new note is added to `notes`."""
    word, _, note = verdict(row).partition(": ")
    if not fails(word):
        word, _, note = note.partition("; ") if row["check"] == "build" else (word, "", "")
    if note and note not in notes:
        notes.append(note)
    return f"{word} ({notes.index(note) + 1})" if note else word


def on_host(check: str, name: str, data: str, to: str) -> str:
    """Do one check, or several separated by commas, on the host in the folder `to`."""
    import ultralytics

    assert Path(str(ultralytics.__file__)).is_relative_to(to), f"this is {ultralytics.__file__}"
    seen = [CHECKS[x](name, Path(data)) for x in check.split(",")]
    return "; ".join(filter(None, seen))


def main(words: list[str]) -> int:
    """Run the checks; return 1 if one fails with our model alone."""
    if words[:1] == ["one"]:
        answer(functools.partial(on_host, *words[1:]))
        return 0
    every = {"hosts": ",".join(HOSTS), "checks": ",".join(CHECKS), "folder": "", "jobs": "2", "out": ""}
    options = parse(words, every)
    hosts, checks = options["hosts"].split(","), chosen(options["checks"], CHECKS)
    with tempfile.TemporaryDirectory() as temporary:
        folder, work = Path(options["folder"] or f"{temporary}/hosts").resolve(), Path(temporary)
        places = [install(x, folder) for x in hosts]
        with ThreadPoolExecutor(whole_number(options, "jobs", 1)) as pool:
            found = pool.map(lambda host, to: check_host(host, to, checks, work), hosts, places)
            rows = [row for some in found for row in some]
    print(f"\n{table(rows)}")
    if options["out"]:
        csv_rows.write(Path(options["out"]), ("host", *FIELDS), rows)
    return int(any(fails(row["ours"]) and not fails(row["stock"]) for row in rows))


if __name__ == "__main__":
    run_script(main)
