"""What scripts/check_hosts.py does with one model on one version of Ultralytics, in a process of its own."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from side_by_side import (
    SIZE,
    VARIANT,
    checkpoint,
    cut_off_and_resume,
    epochs,
    host_log,
    opened,
    same,
    small,
    trained,
    yolo,
)


def build(name: str, data: Path) -> str:
    """Build every shipped YAML, or for the stock model the YAMLs that they are made from, and run each once."""
    from ultralytics.nn import tasks

    from yolo_coordbifpn.grafting.names import scaled, shipped, split, stock

    sources = {x: (split(x) or ("", None))[0] for x in shipped()}
    files = list(sources) if VARIANT in name else sorted(set(sources.values()))
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
    reasons = [f"{_families(names)} {why}" for why, names in refused.items()]
    return "; ".join([f"{len(files) - count} of {len(files)}", *reasons])


def _families(names: Sequence[str]) -> str:
    """Shorten the names of models: yolov10b/n for two files, yolo26 for all tasks of YOLO26."""
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
        yolo("train", model=name, data=data, pretrained=checkpoint(name.replace(VARIANT, "")), epochs=1, **small("run"))
    kept = "pretrained items kept" if VARIANT in name else "Transferred"
    assert any(kept in x for x in lines), "the log does not say that the pretrained weights were kept"
    assert _best().is_file(), "no best.pt"
    assert epochs("run") == ["1"], f"results.csv has the epochs {epochs('run')}"
    if VARIANT in name:
        for file in ("fusion_weights.csv", "fusion_weights.png", "attention.csv"):
            assert Path("run", file).is_file(), f"no {file}"


def val(name: str, data: Path) -> None:
    """Validate the trained checkpoint."""
    with host_log() as lines:
        yolo("val", model=_best(), data=data, **small("val"))
    assert any(re.match(r"\s+all\s+4\s", x) for x in lines), "no line of metrics"


def predict(name: str, data: Path) -> None:
    """Predict with the trained checkpoint."""
    images = data.parent / "images" / "val"
    yolo("predict", model=_best(), source=images, **small("seen"))
    found, wanted = len(list(Path("seen").glob("*.*g"))), len(list(images.iterdir()))  # JPEG or PNG
    assert found == wanted, f"{found} images of {wanted}"


def resume(name: str, data: Path) -> None:
    """Interrupt a training after its first epoch, and resume it."""
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
    file = checkpoint(name.replace(VARIANT, ""))
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
