"""Exported models give the outputs of PyTorch. `scripts/check_exports.py` makes the table of all formats."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import io
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import check_exports
import export_formats
import numpy as np
import onnx
import pytest
import torch
import yaml
from conftest import tensors
from export_boxes import differences
from test_fuse import trained
from ultralytics import YOLO
from ultralytics.engine.results import Results
from ultralytics.nn.autobackend import AutoBackend

from yolo_coordbifpn import CoordAtt, graft

SIZE = 64
LEGACY = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
FORMATS = {  # packages, and the largest relative difference from PyTorch's output
    "torchscript": ([], 1e-5),
    "onnx": ([], 1e-5),
    "openvino": (["openvino"], 1e-2),  # computes in bfloat16 if the processor can
    "ncnn": (["ncnn", "pnnx"], 1e-4),
    "mnn": (["MNN"], 1e-4),
    "executorch": (["executorch"], 1e-4),
}


def folded() -> dict[str, Any]:
    """Graft blocks that `fuse()` folds away, gates beside them, and a level at P2."""
    return graft("yolo11n.yaml", neck="dualpath", levels="P2")


def kept() -> dict[str, Any]:
    """Graft blocks that `fuse()` keeps: attention inside the bottlenecks, and weighted sums."""
    return graft("yolo11n.yaml", coordatt="P5,bottleneck", bifpn="add")


@pytest.fixture(params=[folded, kept], scope="module")
def yolo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> YOLO:
    """Build a model with weights as after training."""
    file = tmp_path_factory.mktemp("models") / "yolo11n-grafted.yaml"
    file.write_text(yaml.safe_dump(request.param()))
    yolo = YOLO(file)
    trained(yolo.model)
    return yolo


def gap(run: Any, model: Any, size: tuple[int, int] = (SIZE, SIZE)) -> float:
    """Return the relative difference between the outputs for one image."""
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        new, old = (next(tensors(f(x))) for f in (run, model))
    assert new.shape == old.shape
    return float((torch.as_tensor(new) - old).norm() / old.norm())


def exported(yolo: YOLO, folder: Path, **options: Any) -> AutoBackend:
    """Export a model with the host, and open the file with it."""
    yolo.model.pt_path = str(folder / "model.pt")
    return AutoBackend(yolo.export(imgsz=SIZE, device="cpu", verbose=False, **options), torch.device("cpu"))


@pytest.mark.parametrize("kind", [pytest.param(x, marks=[pytest.mark.slow] * (x != "onnx")) for x in FORMATS])
def test_exported_models_give_the_same_output(kind: str, yolo: YOLO, tmp_path: Path) -> None:
    """Each format, opened by the host, gives the model's output."""
    packages, tolerance = FORMATS[kind]
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        pytest.skip(f"pip install {' '.join(missing)}")
    assert gap(exported(yolo, tmp_path, format=kind), yolo.model) < tolerance


@pytest.mark.slow
def test_dynamic_onnx(yolo: YOLO, tmp_path: Path) -> None:
    """A dynamic export accepts other sizes, also oblong ones."""
    run = exported(yolo, tmp_path, format="onnx", dynamic=True)
    for size in ((SIZE, SIZE), (96, 64), (128, 160)):
        assert gap(run, yolo.model, size) < 1e-5


def test_the_exported_graph_of_coordatt() -> None:
    """Exported, CoordAtt is two means, two paths of two convolutions, and products; nothing is reshaped or split."""
    block = CoordAtt(64, gain=4.0).eval()
    block.fuse()
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(block, (torch.zeros(1, 64, 8, 6),), file, opset_version=17, **LEGACY)
    kinds = Counter(node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node)
    kinds -= Counter(Constant=kinds["Constant"])
    assert kinds == {"ReduceMean": 2, "Conv": 4, "HardSwish": 2, "Sigmoid": 2, "Mul": 3}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(torch, "export"), reason="this torch has no torch.export")
def test_torch_export(yolo: YOLO) -> None:
    """`torch.export`, which other exporters build on, exports the whole model."""
    fused = copy.deepcopy(yolo.model).fuse(verbose=False)
    program = torch.export.export(fused, (torch.zeros(1, 3, SIZE, SIZE),))
    assert gap(program.module(), yolo.model) < 1e-5


def test_boxes_are_compared() -> None:
    """Boxes that are missing, new, moved or of another class are counted; boxes of low scores are ignored."""
    old = [[0, 0, 10, 10, 0.9, 0], [20, 20, 40, 40, 0.8, 1], [60, 60, 80, 80, 0.7, 2], [9, 50, 0, 59, 0.26, 0]]
    new = [[0, 0, 10, 8, 0.8, 0], [20, 20, 40, 40, 0.8, 3], [90, 0, 99, 9, 0.5, 2], [9, 50, 0, 59, 0.24, 0]]
    same, moved = (differences([(results(old), results(x))]) for x in (old, new))
    assert same == {"boxes": 4, "missing": 0, "new": 0, "iou": 1.0, "score": 0.0, "classes": 0}
    assert moved == {"boxes": 4, "missing": 1, "new": 1, "iou": 0.8, "score": 0.1, "classes": 1}


@pytest.mark.slow
def test_the_script_reports_failures(monkeypatch: Any, tmp_path: Path) -> None:
    """A format without its packages, one that fails and one that hangs each become a row with the reason."""
    kind = export_formats.Format({"format": "none"}, ("no-such-package",))
    monkeypatch.setitem(export_formats.FORMATS, "none", kind)
    job = {"format": "none", "model": "none.pt", "source": [], "imgsz": 64}
    row = check_exports.check("yolo11n", job, tmp_path, 9)
    assert (row["verdict"], row["reason"]) == ("not installed", "pip install no-such-package")
    job["format"] = "torchscript"
    row = check_exports.check("yolo11n", job, tmp_path, 99)
    assert row["verdict"] == "fails"
    assert "FileNotFoundError" in row["reason"]
    assert "no end after 0.1 s" in check_exports.check("yolo11n", job, tmp_path, 0.1)["reason"]


def results(boxes: list[list[float]]) -> Results:
    """Make the host's results for an image, each box as x1, y1, x2, y2, score, class."""
    return Results(np.zeros((99, 99, 3), np.uint8), "image.jpg", dict(enumerate("abcd")), boxes=torch.tensor(boxes))
