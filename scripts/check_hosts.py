"""What works on which Ultralytics: versions beside one torch, a stock model and ours side by side.

    python scripts/check_hosts.py
    python scripts/check_hosts.py hosts=8.3.0,newest checks=fuse,transfer
    python scripts/check_hosts.py folder=hosts jobs=1 out=scripts/hosts.csv

Each host, a version of `ultralytics`, `newest`, or another distribution's name, is installed by `pip install --no-deps
--target` into a folder of its own below folder= (a temporary one if not given; what is there is not installed again),
with what it asks for and is missing here. torch stays as it is. Each check runs in a process of its own, with yolo11n
and with yolo11n-coordatt-bifpn (before 8.3.0 yolov8n), on scenes drawn by code, on the CPU; the stock checkpoint is
made on the host itself:

    build       every shipped YAML, and the stock YAMLs that they come from: layers and one forward pass
    train       `yolo train`, one epoch, from the stock checkpoint
    val, predict    with the checkpoint of that training
    resume      a training that is cut off after its first epoch goes on
    fuse        trained-like weights: same output fused as not, and is_fused() right
    transfer    the stock checkpoint loaded: the stock model's output
    torchscript, onnx    `yolo export`: the output of PyTorch

The exports need `pip install onnx onnxruntime onnxslim onnxscript`. Prints one line a check and the README's table, and
writes out=, a CSV, if it is given.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from packaging.version import Version
from side_by_side import (
    ARM,
    MODELS,
    SIZE,
    Row,
    answer,
    ask,
    checkpoint,
    chosen,
    cut_off_and_resume,
    epochs,
    fails,
    host_log,
    opened,
    same,
    small,
    trained,
    write,
    yolo,
)

from yolo_coordbifpn.commands import parse, whole_number
from yolo_coordbifpn.commands.scenes import write_scenes

HOSTS = ("8.0.200", "8.1.0", "8.2.50", "8.3.0", "8.3.252", "8.4.0", "8.4.100", "newest", "ultralytics-opencv-headless")
OLD_MODELS = {"stock": "yolov8n.yaml", "ours": f"yolov8n{ARM}.yaml"}  # for hosts before 8.3.0, which has YOLO11
OLD_NUMPY = "numpy<2.4"  # the last with np.trapz, for hosts up to 8.3.0, which declare numpy<2 or nothing
MODULES = {  # of distributions whose module has another name
    "opencv-python": "cv2",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "py-cpuinfo": "cpuinfo",
    "nvidia-ml-py": "pynvml",
    "ultralytics-thop": "thop",
}
LIMIT = 400  # seconds a process

# In the process of a check -------------------------------------------------------------------------------------------


def build(name: str, data: Path) -> str:
    """Build all shipped YAMLs, or for the stock model the stock ones of theirs, and run each once."""
    from ultralytics.nn import tasks

    from yolo_coordbifpn.grafting.names import scaled, shipped, split, stock

    sources = {x: (split(x) or ("", None))[0] for x in shipped()}
    files = list(sources) if ARM in name else sorted(set(sources.values()))
    there = {x.name for x in stock(tasks)}
    refused: dict[str, list[str]] = {}
    for file in files:
        try:
            model = opened(scaled(file, "n")).model
        except Exception as error:
            needs = re.search(r"needs ultralytics>=([\d.]+)", str(error))
            if sources.get(file, file) in there or (file in sources and not needs):
                raise RuntimeError(f"{file}: {type(error).__name__}: {error}") from error
            stem = (split(file) or (file,))[0].removesuffix(".yaml")
            refused.setdefault(f"needs {needs[1]}" if needs else "not there", []).append(stem)
            continue
        with torch.no_grad():
            model.eval()(torch.rand(1, 3, SIZE, SIZE))
    count = sum(map(len, refused.values()))
    told = [f"{_families(names)} {why}" for why, names in refused.items()]
    return "; ".join([f"{len(files) - count} of {len(files)}", *told])


def _families(names: Sequence[str]) -> str:
    """Put names of models in short: yolov10b/n for two files, yolo26 for it and its other tasks."""
    scales: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        family, _, task = name.partition("-")
        if task and family not in names:
            scales[name] = []
        elif not task:
            base, scale = re.fullmatch(r"(\D+\d+)(\w?)", family).groups()  # type: ignore[union-attr]
            scales.setdefault(base, []).append(scale)
    return ", ".join(base + "/".join(found) for base, found in scales.items())


def train(name: str, data: Path) -> None:
    """Train one epoch, from the stock checkpoint."""
    with host_log() as lines:
        yolo("train", model=name, data=data, pretrained=checkpoint(name.replace(ARM, "")), epochs=1, **small("run"))
    kept = "pretrained items kept" if ARM in name else "Transferred"
    assert any(kept in x for x in lines), "the log does not say that the pretrained weights came along"
    assert _best().is_file(), "no best.pt"
    assert epochs("run") == ["1"], f"results.csv holds the epochs {epochs('run')}"
    if ARM in name:
        for file in ("fusion_weights.csv", "fusion_weights.png"):
            assert Path("run", file).is_file(), f"no {file}"


def val(name: str, data: Path) -> None:
    """Validate the trained checkpoint."""
    with host_log() as lines:
        yolo("val", model=_best(), data=data, **small("val"))
    assert any(re.match(r"\s+all\s+4\s", x) for x in lines), "no line of results"


def predict(name: str, data: Path) -> None:
    """Predict with the trained checkpoint."""
    images = data.parent / "images" / "val"
    yolo("predict", model=_best(), source=images, **small("seen"))
    found, wanted = len(list(Path("seen").glob("*.*g"))), len(list(images.iterdir()))  # JPEG or PNG
    assert found == wanted, f"{found} pictures of {wanted}"


def resume(name: str, data: Path) -> None:
    """Cut a training off after its first epoch, and go on."""
    cut_off_and_resume(name, data)


def fuse(name: str, data: Path) -> str:
    """Fuse a model with weights as after a training."""
    model = trained(opened(name).model)
    assert not model.is_fused(), "is_fused() is true before"
    fused = copy.deepcopy(model).fuse(verbose=False)
    assert fused.is_fused(), "is_fused() is false afterwards"
    left = [type(m).__name__ for m in fused.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not left, f"{len(left)} batch norms are left"
    return same(fused, model)


def transfer(name: str, data: Path) -> str:
    """Load the stock checkpoint."""
    file = checkpoint(name.replace(ARM, ""))
    stock = torch.load(file, map_location="cpu", weights_only=False)["model"].float()
    model = opened(name).load(str(file)).model.eval()
    return same(model, stock)


def torchscript(name: str, data: Path) -> str:
    """Export the trained checkpoint as TorchScript."""
    yolo("export", model=_best(), format="torchscript", imgsz=SIZE, device="cpu")
    return same(torch.jit.load(str(_best().with_suffix(".torchscript"))), _eager())


def onnx(name: str, data: Path) -> str:
    """Export the trained checkpoint as ONNX."""
    import onnxruntime

    yolo("export", model=_best(), format="onnx", imgsz=SIZE, device="cpu")
    session = onnxruntime.InferenceSession(_best().with_suffix(".onnx"))

    def exported(x: Any) -> Any:
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])

    return same(exported, _eager())


CHECKS: dict[str, Callable[[str, Path], str | None]] = {
    x.__name__: x for x in (build, train, val, predict, resume, fuse, transfer, torchscript, onnx)
}


def _best() -> Path:
    return Path("run/weights/best.pt").resolve()


def _eager() -> Any:
    """Return the trained model as an exporter sees it."""
    model = opened(_best()).model
    return model.fuse(verbose=False).eval()


# For all hosts -------------------------------------------------------------------------------------------------------


def install(host: str, folder: Path, whole: bool = True) -> Path:
    """Install a host into a folder of its own, and what it asks for and is not here; torch stays as it is.

    Args:
        host: A version of `ultralytics`, `newest`, or the name of a distribution.
        folder: Where its folder lies, or is made.
        whole: Whether to install what it asks for too, which training needs.

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
    """Install what the host in a folder asks for and is not here."""
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
    """Tell whether the module of a distribution can be imported here."""
    return importlib.util.find_spec(MODULES.get(distribution, distribution.replace("-", "_"))) is not None


def environment(to: Path) -> dict[str, str]:
    """Return the environment variables by which a process finds the host in a folder before any other."""
    places = [str(to), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    path = {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    return {**path, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"} if _is_old(to.name) else path


def models_for(host: str) -> dict[str, str]:
    """Return the names of the stock model and of ours that are tried on a host."""
    return OLD_MODELS if _is_old(host) else MODELS


def _is_old(host: str) -> bool:
    """Tell whether a host is older than 8.3.0; those open checkpoints as torch did before 2.6."""
    return host[0].isdigit() and Version(host) < Version("8.3.0")


def check_host(host: str, to: Path, checks: Sequence[str], work: Path) -> list[Row]:
    """Do the checks on one host, with both models on data of their own."""
    models = models_for(host)
    data = {x: write_scenes(work / host / x / "scenes", train=8, val=4, size=SIZE, seed=0) for x in models}
    rows = []
    for check in checks:
        outcomes = {}
        for who, name in models.items():
            words = [__file__, "one", check, name, str(data[who]), str(to)]
            outcomes[who], versions = ask(words, work / host / who, LIMIT, environment(to))
        rows.append(Row(check, outcomes["stock"], outcomes["ours"], versions))
        print(f"{host:28}{check:14}{rows[-1].verdict}", flush=True)
    return rows


def table(rows: dict[str, list[Row]]) -> str:
    """Write the README's table: hosts down, checks across, failures and refusals as notes."""
    checks = [row.check for row in next(iter(rows.values()))]
    notes: list[str] = []
    lines = [f"| Ultralytics | {' | '.join(checks)} |", "|---" * (len(checks) + 1) + "|"]
    for host, found in rows.items():
        cells = []
        for row in found:
            word, _, told = row.verdict.partition(": ")
            if row.check == "build" and not fails(word):
                word, _, told = told.partition("; ")
            elif not fails(word):
                told = ""
            if told and told not in notes:
                notes.append(told)
            cells.append(f"{word} ({notes.index(told) + 1})" if told else word)
        number = re.search(r"ultralytics ([\d.]+)", found[0].versions)
        name = f"{host} ({number[1]})" if number and number[1] != host else host
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{i}. {x}" for i, x in enumerate(notes, 1))])


def on_host(check: str, name: str, data: str, to: str) -> str:
    """Do one check, or several with commas between, after a look whether the host in hand is the one meant."""
    import ultralytics

    assert Path(str(ultralytics.__file__)).is_relative_to(to), f"this is {ultralytics.__file__}"
    seen = [CHECKS[x](name, Path(data)) for x in check.split(",")]
    return "; ".join(filter(None, seen))


def main(words: list[str]) -> int:
    """Do what the command line says; return 1 if something fails with ours alone."""
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
            rows = dict(zip(hosts, found))
    print(f"\n{table(rows)}")
    if options["out"]:
        each = [(host, row) for host, some in rows.items() for row in some]
        write(Path(options["out"]), [row for _, row in each], host=[host for host, _ in each])
    return int(any(fails(row.ours) and not fails(row.stock) for some in rows.values() for row in some))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
