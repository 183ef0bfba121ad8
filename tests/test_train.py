"""The stock command line on our models, each step in a new process that does not import the package."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from conftest import SHARED, yolo
from new_process import run_python
from ultralytics import YOLO

from yolo_coordbifpn import fusion_weights
from yolo_coordbifpn.commands.scenes import write_scenes
from yolo_coordbifpn.patches import training_log

SIZE = 96

INTERRUPTED = """
import os
from ultralytics import YOLO
model = YOLO("yolo11n-coordatt-bifpn.yaml")
model.add_callback("on_model_save", lambda trainer: os._exit(9))  # a machine that dies after the first epoch
model.train(data={data!r}, epochs=2, imgsz={size}, batch=4, workers=0, plots=False, device="cpu",
            project={project!r}, name="interrupted")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an empty folder for all steps, outside the repository."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    """Take coco8 if the shared data is here, else the demo's scenes."""
    coco8 = SHARED / "data" / "coco8"
    if not coco8.is_dir():
        return write_scenes(folder / "scenes", train=8, val=4, size=SIZE, seed=0)
    config = yaml.safe_load((coco8 / "data.yaml").read_text())
    (folder / "coco8.yaml").write_text(yaml.safe_dump({**config, "path": str(coco8)}))
    return folder / "coco8.yaml"


@pytest.fixture(scope="module")
def best(folder: Path, data: Path) -> Path:
    """Train one epoch with the stock command."""
    out = yolo(
        folder, "train", "model=yolo11n-coordatt-bifpn.yaml", f"data={data}", "epochs=1", f"imgsz={SIZE}", "batch=4",
        "workers=0", "device=cpu", "plots=False", f"project={folder}", "name=run", fresh=True,
    )  # fmt: skip
    assert "yolo_coordbifpn.blocks.coordatt.CoordAtt" in out
    return folder / "run" / "weights" / "best.pt"


def test_train(best: Path) -> None:
    """The checkpoint has our blocks and the name of the model YAML that it was trained from."""
    names = [type(m).__name__ for m in YOLO(best).model.model]
    assert names.count("CoordAtt") == 1
    assert names.count("BiFPN_Concat") == 4
    assert torch.load(best, weights_only=False)["train_args"]["model"] == "yolo11n-coordatt-bifpn.yaml"


def test_fusion_weights_are_logged(folder: Path, best: Path) -> None:
    """The run's folder has the fusion weights, equal to those of the checkpoint."""
    with (folder / "run" / "fusion_weights.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    expected = [(str(x.layer), x.name, name, weight) for x in fusion_weights(best) for name, weight in x.shares]
    assert [(r["layer"], r["node"], r["input"]) for r in rows] == [x[:3] for x in expected]
    assert [float(r["weight"]) for r in rows] == pytest.approx([x[3] for x in expected], abs=1e-3)  # saved as float16
    assert {r["epoch"] for r in rows} == {"1"}
    assert "fusion" not in (folder / "run" / "results.csv").read_text()


def test_val(folder: Path, data: Path, best: Path) -> None:
    """The stock validation reads the checkpoint."""
    options = [f"imgsz={SIZE}", "workers=0", "device=cpu", "plots=False", f"project={folder}"]
    out = yolo(folder, "val", f"model={best}", f"data={data}", *options)
    assert "mAP50-95" in out


def test_predict(folder: Path, data: Path, best: Path) -> None:
    """The stock prediction reads the checkpoint and writes its images."""
    config = yaml.safe_load(data.read_text())
    source = Path(config["path"]) / config["val"]
    where = [f"project={folder}", "name=seen"]
    yolo(folder, "predict", f"model={best}", f"source={source}", f"imgsz={SIZE}", "device=cpu", *where)
    assert len(list((folder / "seen").glob("*.jpg"))) == 4


@pytest.mark.slow
def test_resume(folder: Path, data: Path) -> None:
    """A training killed after its first epoch resumes where it stopped."""
    code = INTERRUPTED.format(data=str(data), size=SIZE, project=str(folder))
    killed = run_python("-c", code, folder=folder)
    assert killed.returncode == 9, killed.stderr
    out = yolo(folder, "train", "resume", f"model={folder / 'interrupted' / 'weights' / 'last.pt'}")
    assert "Resuming training" in out
    rows = (folder / "interrupted" / "results.csv").read_text().splitlines()
    assert [row.split(",")[0].strip() for row in rows] == ["epoch", "1", "2"]
    rows = (folder / "interrupted" / "fusion_weights.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", *["1"] * 9, *["2"] * 9]


@pytest.mark.slow
def test_export_to_onnx(folder: Path, best: Path) -> None:
    """The exported dynamic model gives the boxes of the eager one, at its own size and at others."""
    yolo(folder, "export", f"model={best}", "format=onnx", f"imgsz={SIZE}", "dynamic=True", "device=cpu")
    session = onnxruntime.InferenceSession(best.with_suffix(".onnx"))
    eager = YOLO(best).model.fuse(verbose=False).eval()
    for height, width in ((SIZE, SIZE), (64, 128), (160, 96)):
        x = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = eager(x)[0].numpy()
        (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)


def test_safe_loading_of_a_checkpoint(folder: Path, best: Path) -> None:
    """ULTRALYTICS_SAFE_LOAD=1 reads the checkpoint."""
    code = f"from ultralytics import YOLO; print(type(YOLO({str(best)!r}).model.model[9]).__name__)"
    done = run_python("-c", code, folder=folder, ULTRALYTICS_SAFE_LOAD="1")
    assert done.stdout.splitlines()[-1:] == ["CoordAtt"], done.stderr


def test_a_stock_training_removes_an_older_log(tmp_path: Path) -> None:
    """With exist_ok=True, the fusion weights of an earlier model do not stay beside a stock training."""
    for name in ("fusion_weights.csv", "fusion_weights.png"):
        (tmp_path / name).write_text("old")
    stock = SimpleNamespace(ema=YOLO("yolo11n.yaml").model)
    for start_epoch, left in ((3, 2), (0, 0)):  # a resumed training keeps what is there
        training_log._start(SimpleTrainer(ema=stock, save_dir=tmp_path, start_epoch=start_epoch))
        assert len(list(tmp_path.iterdir())) == left


class SimpleTrainer(SimpleNamespace):
    """What the log reads of a trainer of the host; it can be referenced weakly."""

    __hash__ = object.__hash__
