"""When the host fuses a model for inference, the blocks are fused too: the same output from a smaller model."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from conftest import ROOT, gap, scrambled
from new_process import run_python
from torch import nn
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.nn.tasks import DetectionModel

from yolo_coordbifpn import BiFPN_Add, BiFPN_Concat, CoordAtt, SpatialGate, register
from yolo_coordbifpn.grafting.names import split, stock
from yolo_coordbifpn.graph.layers import outputs, reads
from yolo_coordbifpn.host import models
from yolo_coordbifpn.patches.install import status

SHIPPED = sorted(x.stem for x in (ROOT / "model_yamls").glob("*.yaml"))
NAMES = [
    x
    for x in SHIPPED
    if ("bifpn" in x or "dualpath" in x)
    and (x == "yolo11-bifpn" or x.replace("-bifpn", "-coordatt-bifpn") not in SHIPPED)  # which has its fusions too
]


def trained(model: Any, dead: bool = False) -> Any:
    """Give a model weights, fusion weights and gains as after a training from pretrained weights."""
    scrambled(model)
    generator = torch.Generator().manual_seed(1)
    for m in model.modules():
        if isinstance(m, (BiFPN_Concat, BiFPN_Add)):
            m.weight.data = torch.rand(m.weight.shape, generator=generator) + 0.1
            m.weight.data[0] *= -1 if dead else 1
            m.gain = 2.5
        elif isinstance(m, SpatialGate):
            nn.init.constant_(m.weight, 0.7)
        elif isinstance(m, CoordAtt):
            m.gain = 4.0
    return model.eval()


def kinds(model: Any) -> list[str]:
    """Return the class names of the layers."""
    return [type(m).__name__ for m in model.model]


def with_row(name: str, row: list[Any], after: int) -> Any:
    """Build a model with one more row in its head, and everything after it shifted."""
    cfg = copy.deepcopy(YOLO(f"{name}.yaml").model.yaml)
    place = after + 1 - len(cfg["backbone"])
    cfg["head"].insert(place, row)
    for later in cfg["head"][place + 1 :]:
        if isinstance(later[0], list):
            later[0] = [k + (k > after) for k in later[0]]
    return trained(DetectionModel(cfg, verbose=False))


@pytest.mark.zoo
@pytest.mark.parametrize("name", NAMES)
def test_fused_models_have_the_same_output(name: str, quick_builds: None) -> None:
    """Each shipped model, fused, has its output, no batch norm, and plain instead of weighted concatenations."""
    source, _ = split(f"{name}.yaml") or ("", None)
    if source not in {x.name for x in stock(tasks)}:
        pytest.skip(f"this Ultralytics does not have {source}")
    model = trained(YOLO(f"{name}.yaml").model)
    fused = copy.deepcopy(model).fuse(verbose=False)
    assert gap(fused, model) < 1e-5
    assert fused.is_fused()
    assert not [m for m in fused.modules() if isinstance(m, (BiFPN_Concat, nn.BatchNorm2d))]
    assert kinds(fused) == [x.replace("BiFPN_Concat", "Concat") for x in kinds(model)]
    assert [(m.i, m.f) for m in fused.model] == [(m.i, m.f) for m in model.model]
    before = {k: v.clone() for k, v in fused.state_dict().items()}
    after = fused.fuse(verbose=False).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_a_dead_weight_folds() -> None:
    """An input whose weight is zero gets columns of zeros."""
    model = trained(YOLO("yolo11n-bifpn.yaml").model, dead=True)
    assert gap(copy.deepcopy(model).fuse(verbose=False), model) < 1e-5


def test_a_pruned_model_folds(quick_builds: None) -> None:
    """A fusion that reads fewer channels than it was built for is folded too."""
    model = trained(YOLO("yolo11n-bifpn.yaml").model)
    kept = torch.arange(96)  # of the 128 channels of layer 6
    before, out = model.model[6].cv2.conv, model.model[6].cv2.bn
    before.weight.data = before.weight.data[kept]
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(out, name).data = getattr(out, name).data[kept]
    model.model[7].conv.weight.data = model.model[7].conv.weight.data[:, kept]
    for j in (12, 18):
        widths, places = model.model[j].channels, [k for k, x in enumerate(model.model[j].f) if x == 6]
        parts = torch.arange(sum(widths)).split(widths)
        columns = torch.cat([x[kept] if k in places else x for k, x in enumerate(parts)])
        conv = model.model[j + 1].cv1.conv
        conv.weight.data = conv.weight.data[:, columns]
    fused = copy.deepcopy(model).fuse(verbose=False)
    assert kinds(fused).count("BiFPN_Concat") == 0
    assert gap(fused, model) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("module", "function"), [("nn.SiLU", "silu"), ("nn.Sigmoid", "sigmoid")])
def test_what_cannot_be_folded_stays_and_says_so(module: str, function: str, log: pytest.LogCaptureFixture) -> None:
    """A fusion that is not only read by convolutions keeps its weights; the others are folded."""
    model = with_row("yolo11n-bifpn", [-1, 1, module, []], after=12)
    fused = copy.deepcopy(model).fuse()
    assert gap(fused, model) < 1e-5
    assert kinds(fused).count("BiFPN_Concat") == 1
    said = f"3 fusions folded into convolutions, not folded: model.12 (read by {function})"
    assert said in log.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [
        [-1, 1, "nn.MaxPool2d", [3, 1, 1]],
        [-1, 1, "nn.AvgPool2d", [3, 1, 1]],
        [-1, 1, "nn.ReLU", []],
        [[-1, 6], 1, "Concat", [1]],
        [[-1, 6], 1, "BiFPN_Concat", [1]],
        [-1, 1, "DWConv", [1024, 3]],
        [-1, 1, "ADown", [1024]],
    ],
)
def test_scales_go_through_what_passes_channels_on(row: list[Any]) -> None:
    """A scale passes through layers that treat channels independently, split or join them."""
    after = 12 if row[2] != "ADown" else 21
    model = with_row("yolo11n-bifpn", row, after)
    fused = copy.deepcopy(model).fuse(verbose=False)
    assert gap(fused, model, (192, 128)) < 1e-5
    assert "BiFPN_Concat" not in kinds(fused)


class Twice(nn.Module):
    """Runs a layer twice, on ones and on its input."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer, self.i, self.f, self.type = layer, layer.i, layer.f, layer.type

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.ones(x.shape)) + self.layer(x)


def test_a_convolution_that_is_run_twice_takes_no_fold(log: pytest.LogCaptureFixture) -> None:
    """If a convolution also reads another tensor, the fusion is kept."""
    model = trained(YOLO("yolo11n-bifpn.yaml").model)
    model.model[13] = Twice(model.model[13])
    fused = copy.deepcopy(model).fuse()
    assert gap(fused, model) < 1e-5
    assert kinds(fused).count("BiFPN_Concat") == 1
    assert "run more than once" in log.text


class Folding(nn.Module):
    """A user's block with a method `fuse()`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn: nn.Module = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(x)

    def fuse(self) -> None:
        self.bn = nn.Identity()


@pytest.mark.slow
def test_a_head_with_many_queries_is_fused() -> None:
    """RT-DETR is fused, although its head needs an image of 300 cells."""
    cfg = models.load("rtdetr-l-bifpn.yaml") | {"scale": "l", "scales": {"l": [0.33, 0.125, 256]}}
    model = trained(models.build(cfg))
    fused = copy.deepcopy(model).fuse(verbose=False)
    assert "BiFPN_Concat" not in kinds(fused)
    image = torch.rand(1, 3, 160, 160)
    with torch.no_grad():  # what the head reads, as a rounding error can change which cells it selects
        for a, b in zip(*([outputs(m.model[:-1], image)[k] for k in reads(m.model[-1])] for m in (fused, model))):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_a_model_that_needs_more_than_pixels_stays_as_it_is(log: pytest.LogCaptureFixture) -> None:
    """If the scales cannot be followed, the host fuses the model alone, and the log says why."""
    model = YOLO("yolo11n-bifpn.yaml").model.eval()

    def refuse(*args: Any) -> None:
        raise RuntimeError("where is the text?")

    handle = model.model[-1].register_forward_pre_hook(refuse)
    model.fuse()
    handle.remove()
    assert kinds(model).count("BiFPN_Concat") == 4
    assert "not folded: model.12 (RuntimeError: where is the text?)" in log.text
    assert model(torch.zeros(1, 3, 64, 64))[0].shape == (1, 84, 84)


def test_a_users_block_is_fused_too(own_blocks: None) -> None:
    """The method `fuse()` of a registered block is called when the model is fused."""
    register(Folding)
    model = with_row("yolo11n", [-1, 1, "Folding", []], after=10)
    assert isinstance(model.fuse(verbose=False).model[11].bn, nn.Identity)


def test_stock_models_are_fused_by_the_host_alone() -> None:
    """A model without our blocks is not run."""
    model = YOLO("yolo11n.yaml").model.eval()
    model.forward = None
    assert model.fuse(verbose=False).is_fused()
    assert status()[0]["fusing"]


@pytest.mark.slow
def test_the_exported_graph_has_no_weights_of_fusions(tmp_path: Path) -> None:
    """Exported, a model with BiFPN has as many multiplications as the stock model."""
    counts = []
    for name in ("yolo11n", "yolo11n-bifpn"):
        yolo = YOLO(f"{name}.yaml")
        trained(yolo.model).pt_path = str(tmp_path / f"{name}.pt")
        file = yolo.export(format="onnx", imgsz=64, simplify=False, verbose=False)
        counts.append(sum(node.op_type == "Mul" for node in onnx.load(file).graph.node))
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path) -> None:
    """`scripts/benchmark.py` writes its rows and prints the summary; an unknown part is an error."""
    words = [str(ROOT / "scripts" / "benchmark.py"), f"out={tmp_path / 'table'}", "seconds=0.01"]
    done = run_python(*words, "parts=fusion", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| BiFPN_Concat, not fused, geometric mean / torch.cat |" in done.stdout
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["what"] == "ours"]
    assert len(rows) == 8
    assert all(float(row["low"]) <= float(row["ratio"]) <= float(row["high"]) for row in rows)
    wrong = run_python(*words, "parts=all", folder=tmp_path)
    assert "there are no parts all" in wrong.stderr
