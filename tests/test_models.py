"""The shipped model YAMLs on the installed host: every file at every scale, and the stock models."""

from __future__ import annotations

import copy
import csv
import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import tensors
from new_process import run_python
from torch import nn
from ultralytics import YOLO
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn.tasks import yaml_model_load

from yolo_coordbifpn import BiFPN_Concat, CoordAtt, model_yaml
from yolo_coordbifpn.grafting.graft import summarize
from yolo_coordbifpn.grafting.names import scaled, shipped

ALL = [x.removesuffix(".yaml") for x in shipped()]
FILES = [x for x in ALL if re.fullmatch(r"yolo(11|v8|26)-(coordatt|bifpn|coordatt-bifpn)", x)]
BOTH = [x for x in FILES if x.endswith("-coordatt-bifpn")]  # at the same scale these have what the others have
SCALED = [(x, "n") for x in FILES]
SCALED += [pytest.param(x, scale, marks=pytest.mark.slow) for x in BOTH for scale in "smlx"]  # type: ignore[misc]
SUMMARY = re.compile(
    r"^  (\w): .* # summary: \d+ layers, ([\d,]+) parameters, [\d,]+ gradients, ([\d.]+) GFLOPs$", re.M
)


@pytest.mark.slow
def test_the_variants_of_each_family() -> None:
    """Each family has three variants, each with the blocks in its name at their places."""
    assert len(ALL) == 85
    for family in ("yolo11", "yolov8", "yolo26"):
        stock = YOLO(f"{family}n.yaml").model.model
        for variant in ("coordatt", "bifpn", "coordatt-bifpn"):
            layers = list(YOLO(f"{family}n-{variant}.yaml").model.model)
            attention = [m for m in layers if isinstance(m, CoordAtt)]
            fusion = [m for m in layers if isinstance(m, BiFPN_Concat)]
            assert len(attention) == (1 if "coordatt" in variant else 0)
            assert [len(m.f) for m in fusion] == ([2, 2, 3, 2] if "bifpn" in variant else [])
            for m in attention:
                assert type(layers[m.i + 1]).__name__ == "SPPF"
            # without our blocks the layers are the stock ones, in the same order
            rest = [m for m in layers if not isinstance(m, CoordAtt)]
            names = ["Concat" if isinstance(m, BiFPN_Concat) else type(m).__name__ for m in rest]
            assert names == [type(m).__name__ for m in stock]


@pytest.mark.parametrize(("file", "scale"), SCALED)
def test_forward_backward_and_size(file: str, scale: str, quick_builds: None) -> None:
    """Every parameter gets a gradient."""
    torch.manual_seed(0)
    model = YOLO(scaled(f"{file}.yaml", scale)).model.train()
    out = model(torch.rand(2, 3, 64, 64))
    sum((t.float() ** 2).mean() for t in tensors(out) if t.requires_grad).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.isfinite().all()] == []
    for m in model.modules():
        if isinstance(m, (CoordAtt, BiFPN_Concat)):
            assert all(p.grad.abs().sum() > 0 for name, p in m.named_parameters() if name not in {"conv1.bias"})


@pytest.mark.zoo
@pytest.mark.parametrize("file", ALL)
def test_sizes_in_the_comments_and_in_the_table(file: str, quick_builds: None) -> None:
    """The sizes in a file's comments, in the list and on the page are those that the host counts."""
    annotated = {
        m[1]: (int(m[2].replace(",", "")), float(m[3])) for m in SUMMARY.finditer(model_yaml(file).read_text())
    }
    folder = model_yaml(file).parent
    sizes = {row["model"]: row for row in csv.DictReader((folder / "sizes.csv").read_text().splitlines())}
    scales = list(yaml_model_load(f"{file}.yaml").get("scales") or [])
    assert list(annotated) == scales
    name = scaled(f"{file}.yaml", scales[0]) if scales else f"{file}.yaml"
    found = summarize(name)
    row = sizes[name.removesuffix(".yaml")]
    assert (int(row["layers"]), int(row["parameters"])) == (found.layers, found.parameters)
    assert float(row["gflops"]) == pytest.approx(found.gflops, rel=1e-3)
    for scale in scales:
        row = sizes[scaled(file, scale)]
        assert annotated[scale] == (int(row["parameters"]), round(float(row["gflops"]), 1))
    page = (folder / "README.md").read_text()
    for scale in scales or [""]:
        assert f"| {scaled(file, scale)} | " in page.replace(".yaml", "")


@pytest.mark.parametrize(
    ("file", "optimizer"),
    [
        *itertools.product(BOTH, ("SGD", "AdamW")),
        pytest.param("yolo11-coordatt-bifpn", "MuSGD", marks=pytest.mark.slow),  # its steps take seconds
    ],
)
def test_each_parameter_is_in_one_optimizer_group(file: str, optimizer: str, quick_builds: None) -> None:
    """The stock optimizer has every parameter exactly once, and a step changes the fusion weights."""
    if optimizer == "MuSGD" and "MuSGD" not in (BaseTrainer.build_optimizer.__doc__ or "") + str(
        BaseTrainer.build_optimizer.__code__.co_consts
    ):
        pytest.skip("this host has no MuSGD")
    torch.manual_seed(0)
    model = YOLO(scaled(f"{file}.yaml", "n")).model.train()
    trainer = SimpleNamespace(args=SimpleNamespace(lr0=0.01, warmup_bias_lr=0.1, optimizer="x"), data={"nc": 80})
    built = BaseTrainer.build_optimizer(trainer, model, name=optimizer, lr=0.01, momentum=0.9, decay=5e-4)
    taken = [id(p) for group in built.param_groups for p in group["params"]]
    assert sorted(taken) == sorted(id(p) for p in model.parameters())
    fusion = [m for m in model.modules() if isinstance(m, BiFPN_Concat)]
    before = [m.weight.detach().clone() for m in fusion]
    sum((t.float() ** 2).mean() for t in tensors(model(torch.rand(2, 3, 64, 64))) if t.requires_grad).backward()
    built.step()
    assert all(not torch.equal(a, m.weight) for a, m in zip(before, fusion))


def test_inputs_of_any_size_and_dtype() -> None:
    """Height and width may differ, and bfloat16 works."""
    model = YOLO("yolo11n-coordatt-bifpn.yaml").model.eval()
    with torch.no_grad():
        for size in ((64, 96), (160, 32)):
            out = next(tensors(model(torch.rand(1, 3, *size))))
            assert out.shape[-1] == sum((size[0] // s) * (size[1] // s) for s in (8, 16, 32))
        assert next(tensors(model.bfloat16()(torch.rand(1, 3, 64, 64).bfloat16()))).isfinite().all()


BUILD_ALL_STOCK = rf"""
import os, sys, torch, zlib
sys.path.insert(0, {str(Path(__file__).parent)!r})
from shapes import shape_alone
torch.nn.Conv2d._conv_forward = shape_alone
from pathlib import Path
import ultralytics
from ultralytics import YOLO, RTDETR
from ultralytics.nn import tasks
from ultralytics.utils import LOGGER
print("\nactive", hasattr(tasks, "CoordAtt"), flush=True)
import logging; LOGGER.setLevel(logging.ERROR)
def draw(tensor, *args, **kwargs):  # takes few numbers from the same generator, since many would take long
    with torch.no_grad():
        return tensor.copy_(torch.rand(tensor[:1, :1].shape) - 0.5)
torch.nn.init.kaiming_uniform_ = draw
files = sorted((Path(ultralytics.__file__).parent / "cfg" / "models").rglob("*.yaml"))
files = [f for f in files if f.stem not in ("yolov10l", "yolov10b", "yolov10x", "yolov3", "rtdetr-x")]  # large twins
for file in files:
    torch.manual_seed(0)
    try:
        model = (RTDETR if "rtdetr" in file.stem else YOLO)(file)
        state, text = model.model.state_dict(), str(model.model.model)
        digest = zlib.crc32(text.encode())
        for key, value in state.items():
            digest = zlib.crc32(value.contiguous().view(-1).numpy(), zlib.crc32(key.encode(), digest))
        print("\nbuilt", file.stem, digest, flush=True)
    except Exception as error:  # needs a download or a package
        print("\nfailed", file.stem, type(error).__name__, flush=True)
"""


@pytest.mark.slow
def test_stock_models_are_bit_identical_with_and_without_us(tmp_path: Path) -> None:
    """Every stock YAML gives bit-identical layers, keys and weights with the hook on and off."""
    runs = [
        run_python("-c", BUILD_ALL_STOCK, folder=tmp_path, limit=500, YOLO_COORDBIFPN_AUTOLOAD=autoload)
        for autoload in ("0", "1")
    ]
    found = [re.findall(r"^(built|failed) (.*)$", run.stdout, re.M) for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert ["\nactive True" in run.stdout for run in runs] == [False, True]
    assert sum(kind == "built" for kind, _ in found[0]) >= 50
    assert found[1] == found[0]


def test_shipped_files_name_their_sources() -> None:
    """Each file names its papers and its license, and loads as safe YAML with known keys only."""
    for file in ALL:
        text = model_yaml(file).read_text(encoding="utf-8")
        assert "AGPL-3.0" in text
        assert ("2103.02907" in text) == ("coordatt" in file)
        assert ("1911.09070" in text) == ("bifpn" in file or "dualpath" in file)
        loaded = yaml_model_load(f"{file}.yaml")
        assert set(loaded) <= {
            "nc",
            "scales",
            "backbone",
            "head",
            "scale",
            "yaml_file",
            "end2end",
            "reg_max",
            "kpt_shape",
            "yolo_coordbifpn",
        }
        assert all(len(row) == 4 for row in loaded["backbone"] + loaded["head"])
        # the numbers in the comments are the rows' own
        rows = [x for x in text.splitlines() if re.match(r"  - \[", x)]
        assert len(rows) == len(loaded["backbone"]) + len(loaded["head"])
        for index, row in enumerate(rows):
            number = re.search(r"# (\d+)(?:$|-P| \()", row)
            assert number is None or int(number[1]) == index, (file, row)


def test_a_model_is_an_ordinary_module() -> None:
    """A deep copy and a round trip of the state dict give the same output."""
    torch.manual_seed(0)
    model = YOLO("yolo26n-coordatt-bifpn.yaml").model.eval()
    other = YOLO("yolo26n-coordatt-bifpn.yaml").model.eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = next(tensors(model(x)))
        torch.testing.assert_close(next(tensors(copy.deepcopy(model)(x))), expected)
        assert isinstance(other, nn.Module)
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(next(tensors(other(x))), expected)
