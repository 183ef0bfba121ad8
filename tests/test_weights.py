"""Pretrained stock weights in models with blocks: nothing is lost, and the output is that of the stock model."""

from __future__ import annotations

import copy
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import SHARED, gap, inserted, scrambled, tensors
from new_process import run_python
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.utils import DEFAULT_CFG

from yolo_coordbifpn import BiFPN_Concat, CoordAtt, register
from yolo_coordbifpn.commands import main
from yolo_coordbifpn.errors import WeightsError
from yolo_coordbifpn.grafting.graft import graft_rows
from yolo_coordbifpn.grafting.variant import Variant
from yolo_coordbifpn.graph.align import align
from yolo_coordbifpn.graph.label_propagation import Follower
from yolo_coordbifpn.graph.layers import facts, outputs, reads
from yolo_coordbifpn.graph.transplant import transplant
from yolo_coordbifpn.registry import TABLE

pytestmark = pytest.mark.usefixtures("quick_builds")
FAMILIES = ("yolo11n", "yolov8n", "yolo26n")
MOSTLY_SLOW = [FAMILIES[0], *(pytest.param(x, marks=pytest.mark.slow) for x in FAMILIES[1:])]
VARIANTS = ("coordatt", "bifpn", "coordatt-bifpn")


def stock(name: str, seed: int = 0) -> nn.Module:
    """Build a stock model with weights as after a training."""
    torch.manual_seed(seed)
    return scrambled(YOLO(f"{name}.yaml").model, seed)


def trunk_gap(new: Any, old: Any) -> float:
    """Return the largest relative difference of what the heads read."""
    x = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        a, b = (outputs(list(m.eval().model)[:-1], x) for m in (new, old))
    pairs = [(a[i], b[j]) for i, j in zip(reads(new.model[-1]), reads(old.model[-1]))]
    return max(float((p - q).norm() / q.norm()) for p, q in pairs)


# The start is the stock model's ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", MOSTLY_SLOW)
def test_the_output_is_the_stock_models(family: str, variant: str, log: pytest.LogCaptureFixture) -> None:
    """Every family in every variant has, with any weights, the output of the stock model that they are from."""
    old = stock(family)
    new = YOLO(f"{family}-{variant}.yaml")
    new.load(old)
    assert gap(new.model, old) < 1e-5
    total = len(old.model.state_dict())
    (line,) = (x for x in log.messages if x.startswith("yolo_coordbifpn"))
    assert line.startswith(f"yolo_coordbifpn: {total} of {total} pretrained items kept")
    assert "0 items left" in line
    assert ("1 layers inserted (9 CoordAtt)" in line) == ("coordatt" in variant)
    assert ("4 fusions weighted, 1 convolutions widened" in line) == ("bifpn" in variant)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["seg", "pose", "obb"])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_tasks(family: str, task: str) -> None:
    """Models for segmentation, pose and oriented boxes have the stock model's output too."""
    old = stock(f"{family}-{task}")
    new = type(old)(graft_rows(old.yaml, facts(old), Variant()).cfg(), verbose=False)
    new.load(old)
    assert gap(new, old) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(x.stem for x in (SHARED / "weights").glob("*.pt")) or ["none here"])
def test_real_weights(name: str, tmp_path: Path) -> None:
    """COCO weights give the same output after `upgrade`, with the same names and task."""
    file = SHARED / "weights" / f"{name}.pt"
    if not file.exists():
        pytest.skip(f"{SHARED} has no weights")
    assert main(["upgrade", f"model={file}", f"save={tmp_path / 'new.pt'}"]) == 0
    old, new = YOLO(file), YOLO(tmp_path / "new.pt")
    assert gap(new.model, old.model) < 1e-5
    assert new.names == old.names
    assert new.task == old.task
    assert [type(m).__name__ for m in new.model.model].count("BiFPN_Concat") == 4


def test_map_is_the_stock_models(tmp_path: Path) -> None:
    """Before any training, the mAP on real images is that of the stock weights."""
    weights, data = SHARED / "weights" / "yolo11n-coco-int8dq.pt", SHARED / "data" / "coco8" / "data.yaml"
    if not weights.exists() or not data.exists():
        pytest.skip(f"{SHARED} has no weights or no coco8")
    options = {"data": str(data), "imgsz": 320, "batch": 4, "workers": 0, "plots": False, "project": str(tmp_path)}
    expected = YOLO(weights).val(**options).box
    found = YOLO("yolo11n-coordatt-bifpn.yaml").load(weights).val(**options).box
    assert found.map == pytest.approx(expected.map, abs=1e-3)
    assert found.map50 == pytest.approx(expected.map50, abs=1e-3)
    assert expected.map > 0.3


def test_another_number_of_classes() -> None:
    """For fine-tuning, everything before the head is the stock model's; the head's boxes are kept, its classes new."""
    old = stock("yolo11n")
    new = tasks.DetectionModel("yolo11n-coordatt-bifpn.yaml", nc=3, verbose=False)
    new.load(old)
    assert trunk_gap(new, old) < 1e-5
    torch.testing.assert_close(new.model[-1].cv2.state_dict(), old.model[-1].cv2.state_dict())
    assert new.model[-1].cv3[0][-1].out_channels == 3


@pytest.mark.skipif(not hasattr(tasks.BaseModel, "_remap_cls_by_names"), reason="this host takes no classes by name")
@pytest.mark.parametrize(("name", "left"), [("Car", 0), ("lorry", 6)])
def test_classes_of_the_same_name(name: str, left: int, log: pytest.LogCaptureFixture) -> None:
    """Class outputs of which the host takes some rows count as kept."""
    old, new = stock("yolo11n"), tasks.DetectionModel("yolo11n-coordatt.yaml", nc=3, verbose=False)
    old.names, new.names = {**{i: f"thing {i}" for i in range(80)}, 2: "car"}, {0: "tree", 1: name, 2: "house"}
    new.load(old)
    assert f"{499 - left} of 499 pretrained items kept" in log.text


@pytest.mark.parametrize("name", ["yolo11n.yaml", "yolo11n-bifpn.yaml"])
def test_a_head_of_fewer_levels(name: str) -> None:
    """Branches are aligned by stride where nothing but the levels of the head differs."""
    old = scrambled(tasks.DetectionModel(name, verbose=False))
    cfg = copy.deepcopy(old.yaml)
    cfg["head"][-1][0] = cfg["head"][-1][0][1:]
    new = tasks.DetectionModel(cfg, verbose=False)
    new.load(old, verbose=False)
    x = torch.rand(1, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = (next(tensors(model.eval()(x))) for model in (new, old))
    torch.testing.assert_close(found, expected[..., -found.shape[-1] :], rtol=1e-4, atol=1e-4)


def test_half_precision_weights() -> None:
    """Weights in float16, as the host saves them, are loaded in float32, as the host loads them."""
    old = stock("yolov8n").half()
    new = YOLO("yolov8n-coordatt-bifpn.yaml").model
    new.load({"model": old, "ema": None})
    assert gap(new, old.float()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_an_insertion_at_any_place(family: str, quick_builds: None) -> None:
    """A CoordAtt after any layer of the model keeps the output, whatever reads that layer.

    In YOLO11 at one place at a time, in the others at every second place at once.
    """
    old = stock(family)
    count = len(old.yaml["backbone"] + old.yaml["head"]) - 1
    for places in [[x] for x in range(count)] if family == "yolo11n" else [range(0, count, 2), range(1, count, 2)]:
        new = tasks.DetectionModel(inserted(old.yaml, *places, args=[16]), verbose=False)
        new.load(old, verbose=False)
        assert gap(new, old) < 1e-5, f"after the layers {places}"


@pytest.mark.parametrize("module", ["Concat", "BiFPN_Concat"])
def test_inputs_in_another_order(module: str, log: pytest.LogCaptureFixture) -> None:
    """A concatenation that lists its inputs in another order is read by convolutions in that order."""
    old = stock("yolo11n")
    cfg = inserted(tasks.yaml_model_load("yolo11n.yaml"), 10)
    for row in cfg["head"]:
        if row[2] == "Concat":
            row[0], row[2] = row[0][::-1], module
    new = tasks.DetectionModel(cfg, verbose=False)
    new.load(old)
    assert gap(new, old) < 1e-5
    assert not [x for x in log.messages if "differs from" in x and "what the head reads" not in x]


def test_a_first_layer_of_another_size() -> None:
    """The host gets a first convolution, which some of its versions look up, even if it does not fit."""
    old = stock("yolo11n")
    cfg = inserted(tasks.yaml_model_load("yolo11n.yaml"), 10)
    cfg["backbone"][0] = [-1, 1, "Conv", [64, 6, 2, 2]]
    new = tasks.DetectionModel(cfg, verbose=False)
    new.load(old)
    assert transplant(old, new, TABLE.is_block).donor.model[0] is old.model[0]  # type: ignore[index]


def test_several_blocks_and_repeats() -> None:
    """Several CoordAtt, some repeated, before and after a weighted neck, keep the output."""
    old = stock("yolo11n")
    cfg = graft_rows(old.yaml, facts(old), Variant()).cfg()
    cfg = inserted(inserted(cfg, 17, repeats=4), 4, 13, 21, 24)  # 4 * depth 0.5
    new = tasks.DetectionModel(cfg, verbose=False)
    new.load(old)
    assert sum(isinstance(m, CoordAtt) for m in new.modules()) == 7
    assert gap(new, old) < 1e-5


@pytest.mark.parametrize("name", ["yoloe-11n", "yolov8n-world", "yolov8n-worldv2"])
def test_models_that_read_texts_too(name: str, log: pytest.LogCaptureFixture) -> None:
    """A layer that needs more than features to run gets the same in both models."""
    old = stock(name)
    new = type(old)(inserted(old.yaml, 8, 12), verbose=False)
    new.load(old)
    total = len(old.model.state_dict())
    assert f"{total} of {total} pretrained items kept" in log.text
    assert re.search(r"differs by (0e\+00|\de-0[678]) ", log.text)
    assert "WARNING" not in log.text


# A small model with layers that read the blocks ----------------------------------------------------------------------


def small(*rows: list, head: int) -> nn.Module:
    """Build a small detection model whose head reads one layer."""
    backbone = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 1]]]
    torch.manual_seed(0)
    cfg = {"nc": 4, "backbone": backbone, "head": [*rows, [[head], 1, "Detect", ["nc"]]]}
    return scrambled(tasks.DetectionModel(cfg, verbose=False))


def test_through_layers_that_pass_channels_on() -> None:
    """Pooling, upsampling, a plain concatenation and a depthwise convolution in between keep the output."""

    def rows(fuse: str, extra: list[int]) -> list[list]:
        return [
            [[-1, 1, *extra], 1, fuse, [1]],
            [-1, 1, "nn.MaxPool2d", [3, 1, 1]],
            [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
            [[-1, -1], 1, "Concat", [1]],
            [-1, 1, "Conv", [24, 3, 2]],
        ]

    old, new = small(*rows("Concat", []), head=7), small(*rows("BiFPN_Concat", [2]), head=7)
    new.load(old)
    assert gap(new, old) < 1e-5
    assert new.model[7].conv.in_channels == 96  # three times 16, twice

    depthwise = [-1, 1, "DWConv", [32, 3, 1]]
    old, new = (small([[-1, 1], 1, fuse, [1]], depthwise, head=4) for fuse in ("Concat", "BiFPN_Concat"))
    new.load(old)
    assert gap(new, old) < 1e-5


def test_new_channels_that_change_the_output_are_logged(log: pytest.LogCaptureFixture) -> None:
    """An added edge before a convolution in groups cannot be neutral, and the log says where."""
    grouped = [-1, 1, "Conv", [32, 3, 1, "None", 2]]
    old = small([[-1, 1], 1, "Concat", [1]], grouped, head=4)
    new = small([[-1, 1, 2], 1, "BiFPN_Concat", [1]], grouped, head=4)
    new.load(old)
    assert "pretrained model's: layer 4 (Conv) reads new or reordered channels in groups" in log.text
    assert gap(new, old) > 1e-3


class Forked(nn.Module):
    """A layer of a fork, made from a stock layer."""

    def __init__(self, layer: Any, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.function, self.i, self.f, self.type = layer, function, layer.i, layer.f, "fork.Forked"

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer, x)


FORKED: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "an unknown function": lambda layer, x: layer(x) + x.new_zeros(1),
    "arguments by name": lambda layer, x: layer(torch.cat(tensors=[x], dim=1)),
}


@pytest.mark.parametrize("function", FORKED)
def test_a_forks_layer_that_keeps_the_output_is_not_warned_about(function: str, log: pytest.LogCaptureFixture) -> None:
    """A layer that reads new channels in an unusual way is judged by the measured difference of the outputs."""
    convolution = [-1, 1, "Conv", [32, 3, 1]]
    old = small([[-1, 1], 1, "Concat", [1]], convolution, head=4)
    new = small([[-1, 1, 2], 1, "BiFPN_Concat", [1]], convolution, head=4)
    for model in (old, new):
        model.model[4] = Forked(model.model[4], FORKED[function])
    new.load(old)
    assert gap(new, old) < 1e-5
    assert "1 convolutions widened" in log.text
    assert "WARNING" not in log.text


def test_layers_that_need_more_than_features_are_warned_about(log: pytest.LogCaptureFixture) -> None:
    """If nothing can be measured, the log says why, and all weights that fit are loaded."""

    def refuse(*args: Any) -> None:
        raise RuntimeError("where is the text?")

    old, new = stock("yolo11n"), YOLO("yolo11n-coordatt-bifpn.yaml").model
    handle = new.model[5].register_forward_pre_hook(refuse)
    new.load(old)
    handle.remove()
    assert "the layers cannot be run one by one (RuntimeError: where is the text?)" in log.text
    assert "differs by" not in log.text
    torch.testing.assert_close(new.model[5].state_dict(), old.model[5].state_dict())


def test_a_defect_of_this_package_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only failures of the host's own layers are reported in the log; an error in the package's code is an error."""

    def defect(*args: Any) -> None:
        raise TypeError("a defect")

    old, new = stock("yolo11n"), YOLO("yolo11n-bifpn.yaml").model
    monkeypatch.setattr(Follower, "tag", defect)
    with pytest.raises(TypeError, match="a defect"):
        new.load(old)
    with pytest.raises(TypeError, match="a defect"):
        new.eval().fuse(verbose=False)


def test_a_level_that_the_pretrained_model_does_not_have(log: pytest.LogCaptureFixture) -> None:
    """Weighted concatenations of a new level are logged by their class, and no difference is claimed to be measured."""
    YOLO("yolov8n-p2-bifpn.yaml").model.load(stock("yolov8n"))
    found = re.search(r"layers inserted \((.*?)\)", log.text)
    assert found
    names = re.findall(r"[A-Za-z]\w*", found[1])
    assert "BiFPN_Concat" in names
    assert "Concat" not in names
    assert "differs by" not in log.text
    assert "the initial output differs from the pretrained model's" in log.text


def test_the_given_model_is_not_changed() -> None:
    """A model given as weights keeps its precision, its tensors and its modes."""
    old = stock("yolov8n").half().train()
    before = {key: value.clone() for key, value in old.state_dict().items()}
    YOLO("yolov8n-coordatt-bifpn.yaml").model.load(old)
    assert {value.dtype for value in old.parameters()} == {torch.float16}
    torch.testing.assert_close(old.state_dict(), before, rtol=0, atol=0)
    assert all(m.training for m in old.modules())


class Scale(nn.Module):
    """A user's block that can be set to the identity."""

    def __init__(self, c1: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, c1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight

    def neutral_(self) -> None:
        nn.init.ones_(self.weight)


class Halve(nn.Module):
    """A user's block that halves height and width."""

    def __init__(self, c1: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c1, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Mix(nn.Module):
    """A user's block that mixes channels."""

    def __init__(self, c1: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.slow
def test_a_users_own_blocks(own_blocks: None, log: pytest.LogCaptureFixture) -> None:
    """A block keeps the output, by its neutral state or in a `ReZero`."""
    register(Scale)
    register(Mix)
    old = stock("yolo11n")
    for name, kind in (("Scale", "Scale"), ("Mix", "ReZero")):
        new = tasks.DetectionModel(inserted(old.yaml, 8, module=name), verbose=False)
        log.clear()
        new.load(old)
        assert type(new.model[9]).__name__ == kind
        assert trunk_gap(new, old) < 1e-5
        assert "499 of 499 pretrained items kept" in log.text
        assert "does not start" not in log.text


def test_a_block_that_cannot_start_as_the_identity(own_blocks: None, log: pytest.LogCaptureFixture) -> None:
    """A block that changes the size of the features keeps all weights around it, and the log names it."""
    register(Halve)
    old = stock("yolo11n-cls")
    new = tasks.ClassificationModel(inserted(old.yaml, 8, module="Halve"), verbose=False)
    new.load(old)
    assert "layer 9 (Halve) does not start as the identity" in log.text
    torch.testing.assert_close(new.model[10].cv1.conv.weight, old.model[9].cv1.conv.weight)


def test_stock_layers_without_a_partner_are_logged(log: pytest.LogCaptureFixture) -> None:
    """A stock layer that the pretrained model does not have is newly initialised, with a warning that names it."""
    old = stock("yolov8n")
    cfg = inserted(inserted(old.yaml, 8), 9, module="Conv", args=[1024, 1])
    new = tasks.DetectionModel(cfg, verbose=False)
    new.load(old)
    assert "355 of 355 pretrained items kept" in log.text
    assert "newly initialised, with no counterpart in the pretrained model: 10 Conv" in log.text
    assert "reads other layers" in log.text


def test_other_parts_inside_a_layer_are_logged(log: pytest.LogCaptureFixture) -> None:
    """Where a layer of another depth has more parts, the log names it, and does not blame Ultralytics."""
    old = stock("yolo11n")
    cfg = inserted(old.yaml, 8)
    cfg["backbone"][4][1] = 4
    new = tasks.DetectionModel(cfg, verbose=False)
    new.load(old)
    assert "498 of 499 pretrained items kept" in log.text
    assert "layer 4 (C3k2) has other parts or widths than layer 4 of the pretrained model" in log.text
    assert "this Ultralytics builds" not in log.text


# Routes --------------------------------------------------------------------------------------------------------------

TRAIN = """
import sys, torch
from ultralytics import YOLO
old = YOLO(sys.argv[1]).model
def compare(trainer):
    from yolo_coordbifpn.graph.layers import outputs, reads
    new, x = trainer.model.float().eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        a, b = outputs(list(new.model)[:-1], x), outputs(list(old.eval().model)[:-1], x)
    pairs = [(a[i], b[j]) for i, j in zip(reads(new.model[-1]), reads(old.model[-1]))]
    print("gap", max(float((p - q).norm() / q.norm()) for p, q in pairs))
    raise SystemExit
"""
NEW = "m = YOLO('yolo11n-coordatt-bifpn.yaml'); m.add_callback('on_train_start', compare);"
ROUTES = {
    "load, then train": f"{NEW} m.load(sys.argv[1]); m.train(**o)",
    "load a model, then train": f"{NEW} m.load(YOLO(sys.argv[1]).model); m.train(**o)",
    "pretrained=": f"{NEW} m.train(pretrained=sys.argv[1], **o)",
    "command line": """
from ultralytics.cfg import entrypoint
from ultralytics.utils.callbacks.base import default_callbacks
default_callbacks["on_train_start"].append(compare)
o = {"model": "yolo11n-coordatt-bifpn.yaml", "pretrained": sys.argv[1], **o}
sys.argv[1:] = ["train", *(f"{k}={v}" for k, v in o.items())]
entrypoint()
""",
}


@pytest.mark.parametrize("route", [pytest.param(x, marks=[pytest.mark.slow] * (x != "command line")) for x in ROUTES])
def test_every_stock_route(route: str, tmp_path: Path) -> None:
    """However the weights are given, training starts from the pretrained model's output."""
    from yolo_coordbifpn.commands.scenes import write_scenes

    data = write_scenes(tmp_path / "scenes", train=4, val=2, size=64, seed=0)
    YOLO("yolo11n.yaml").save(tmp_path / "stock.pt")
    options = {"data": str(data), "epochs": 1, "imgsz": 64, "batch": 4, "workers": 0, "plots": False, "device": "cpu"}
    code = f"{TRAIN}\no = { ({**options, 'project': str(tmp_path), 'name': 'run'})!r}\n{ROUTES[route]}"
    done = run_python("-c", code, str(tmp_path / "stock.pt"), folder=tmp_path)
    found = [x for x in done.stdout.splitlines() if x.startswith("gap ")]
    assert found, done.stderr[-3000:]
    assert float(found[0].split()[1]) < 1e-5
    kept = re.search(r"yolo_coordbifpn: (\d+) of 499 pretrained items kept", done.stdout + done.stderr)
    assert kept
    assert int(kept[1]) >= 400  # all but the branches of the classes, which differ


@pytest.mark.slow
def test_models_without_blocks_and_checkpoints_of_the_same_layers_are_the_hosts(own_blocks: None) -> None:
    """Loading is bit-identical to the host's own there, also if tensors do not fit."""
    cases = [
        ("yolo11n.yaml", "yolo11n.yaml"),
        ("yolo11n.yaml", "yolov8n.yaml"),
        ("yolo11n-coordatt-bifpn.yaml", "yolo11n-coordatt-bifpn.yaml"),
    ]
    for target, source in cases:
        old = scrambled(YOLO(source).model)
        torch.manual_seed(0)
        new = tasks.DetectionModel(target, nc=3, verbose=False)
        other = copy.deepcopy(new)
        for load, model in ((tasks.BaseModel.load, new), (tasks.BaseModel.load.__wrapped__, other)):
            torch.manual_seed(1)  # the host draws new class outputs
            load(model, copy.deepcopy(old))
        torch.testing.assert_close(new.state_dict(), other.state_dict(), rtol=0, atol=0, msg=f"{target} from {source}")


@pytest.mark.slow
def test_a_trained_block_keeps_its_weights() -> None:
    """In a model with more blocks than the pretrained one, trained blocks are kept and new ones are neutral."""
    for gain in (1.0, 4.0):
        old = scrambled(YOLO("yolo11n-coordatt.yaml").model)
        old.model[9].gain = gain
        new = YOLO("yolo11n-coordatt-bifpn.yaml").model
        new.load(old)
        assert gap(new, old) < 1e-5
        assert new.model[9].gain == gain
        torch.testing.assert_close(new.model[9].state_dict(), old.model[9].state_dict())


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ({}, {"coordatt": "P5", "bifpn": "none"}),
        ({}, {"nms": "adaptive", "bifpn": "none"}),
        ({"edge": False}, {}),
        ({}, {"edge": False}),
    ],
    ids=["plain with attention", "plain with densities", "with the edge", "without the edge"],
)
def test_fusion_weights_without_a_place_are_folded(
    source: dict[str, Any], target: dict[str, Any], log: pytest.LogCaptureFixture
) -> None:
    """Weights that no fusion of the new model takes go into the convolutions; only a trained edge is lost."""
    stock_model = stock("yolo11n")
    found = facts(stock_model)
    old, new = (
        tasks.DetectionModel(
            graft_rows(stock_model.yaml, found, Variant(**{"coordatt": "none", **x})).cfg(), verbose=False
        )
        for x in (source, target)
    )
    old.load(stock_model, verbose=False)
    for m in old.modules():
        if isinstance(m, BiFPN_Concat):
            m.weight.data = torch.rand(len(m.weight)) + 0.2
    before = copy.deepcopy(old.state_dict())
    new.load(old)
    assert gap(new, old) < 1e-5
    torch.testing.assert_close(old.state_dict(), before, rtol=0, atol=0)
    assert f"{1 if 'edge' in {**source, **target} else 4} fusions folded into convolutions" in log.text
    assert "0 items left" in log.text
    assert "WARNING" not in log.text
    if not target.get("edge", True):
        old.model[19].cv1.conv.weight.data.normal_()  # it reads the edge
        new.load(old)
        assert "layer 18 (BiFPN_Concat) does not read all that layer 18 read before" in log.text


def test_a_trained_block_with_other_arguments_is_logged(log: pytest.LogCaptureFixture) -> None:
    """Attention of another width cannot take the weights: the log says so, and does not blame Ultralytics."""
    cfg = inserted(stock("yolo11n").yaml, 8, args=[16])
    old = scrambled(tasks.DetectionModel(cfg, verbose=False))
    new = tasks.DetectionModel(inserted(stock("yolo11n").yaml, 8, args=[32]), verbose=False)
    new.load(old)
    assert "0 fusions weighted" in log.text
    assert "has these blocks with other arguments or inputs: 9 CoordAtt" in log.text
    assert "this Ultralytics builds" not in log.text


@pytest.mark.slow
def test_the_gain_survives_every_rebuild() -> None:
    """A block's gain is in the model's YAML and in its state dict, and is loaded with the weights."""
    old = stock("yolo11n")
    new = YOLO("yolo11n-coordatt-bifpn.yaml").model
    new.load(old)
    scrambled(new, 1)
    new.model[9].conv_h.weight.data.normal_()
    assert [m.gain for m in new.modules() if hasattr(m, "gain")] == pytest.approx([4, 2.0001, 2.0001, 3.0001, 2.0001])
    assert new.yaml["backbone"][9] == [-1, 1, "CoordAtt", [32, 4.0]]
    assert new.yaml["head"][7] == [[-1, 14, 6], 1, "BiFPN_Concat", [1, 1e-4, 3.0001]]

    from_own_yaml = tasks.DetectionModel(new.yaml, verbose=False)  # as the host's trainer does
    from_own_yaml.load(new)
    assert gap(from_own_yaml, new) == 0
    from_file = YOLO("yolo11n-coordatt-bifpn.yaml").model  # as a user does with the YAML and own weights
    from_file.load(new)
    assert gap(from_file, new) == 0
    assert from_file.yaml["backbone"][9] == [-1, 1, "CoordAtt", [32, 4.0]]
    from_state = tasks.DetectionModel("yolo11n-coordatt-bifpn.yaml", verbose=False)  # as plain PyTorch does
    from_state.load_state_dict(new.state_dict())
    assert gap(from_state, new) == 0
    papers = YOLO("yolo11n-coordatt-bifpn.yaml").model
    from_own_yaml.load_state_dict(papers.state_dict())
    assert {m.gain for m in from_own_yaml.modules() if hasattr(m, "gain")} == {1}
    assert gap(from_own_yaml, papers) == 0


# What does not belong -------------------------------------------------------------------------------------------------


def fused(name: str) -> nn.Module:
    """Build a stock model that is fused for inference."""
    return YOLO(f"{name}.yaml").model.eval().fuse(verbose=False)


def with_block(place: int) -> nn.Module:
    """Build a yolo11n with a CoordAtt after a layer."""
    return tasks.DetectionModel(inserted(YOLO("yolo11n.yaml").model.yaml, place), verbose=False)


def attended_inside(name: str) -> nn.Module:
    """Build a model with attention inside its bottlenecks."""
    old = stock(name)
    return tasks.DetectionModel(graft_rows(old.yaml, facts(old), Variant("bottleneck", "none")).cfg(), verbose=False)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "another family": (
        lambda: YOLO("yolov8n.yaml").model,
        "yolov8n.yaml, scale n.* are not of the model's family and scale",
    ),
    "another scale": (
        lambda: YOLO("yolo11s.yaml").model,
        "yolo11s.yaml, scale s.* are not of the model's family and scale",
    ),
    "a scale of other depth": (lambda: YOLO("yolo11m.yaml").model, "only 300 of 498 items of its backbone fit"),
    "blocks elsewhere": (lambda: with_block(22), "hold CoordAtt at layer 23, for which the model has no place"),
    "blocks inside": (
        lambda: attended_inside("yolo11n"),
        "hold CoordAtt inside layer 2, CoordAtt inside layer 4, .* for which the model has no place",
    ),
    "fused": (lambda: fused("yolo11n"), "fused for inference"),
    "no model": (lambda: {"epoch": 3, "model": None}, "no model in a dict with the keys epoch, model"),
    "state dict": (lambda: YOLO("yolo11n.yaml").model.state_dict(), "no model in a dict with the keys model.0.conv"),
    "not YOLO": (lambda: nn.Sequential(nn.Conv2d(3, 8, 1)), "not a YOLO model"),
    "a name": (lambda: "yolo11n.pt", "expected a checkpoint or a model, got 'yolo11n.pt'"),
    "nothing": (lambda: None, "expected a checkpoint or a model, got None"),
}


@pytest.mark.parametrize("case", BAD)
def test_weights_that_do_not_belong(case: str) -> None:
    """The error says what was given and what to give instead, and the model is not changed."""
    make, message = BAD[case]
    new = YOLO(f"yolo11{'l' if 'depth' in case else 'n'}-coordatt-bifpn.yaml").model
    before, yaml = {k: v.clone() for k, v in new.state_dict().items()}, copy.deepcopy(new.yaml)
    with pytest.raises(WeightsError, match=message):
        new.load(make())
    assert all(torch.equal(v, before[k]) for k, v in new.state_dict().items())
    assert new.yaml == yaml
    assert new.training


def test_a_truncated_file(tmp_path: Path) -> None:
    """A damaged file is an error of the host, and the model is not changed."""
    YOLO("yolo11n.yaml").save(tmp_path / "stock.pt")
    data = (tmp_path / "stock.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(data[: len(data) // 2])
    model = YOLO("yolo11n-coordatt.yaml")
    before = {k: v.clone() for k, v in model.model.state_dict().items()}
    with pytest.raises((TypeError, RuntimeError)):
        model.load(tmp_path / "half.pt")
    assert all(torch.equal(v, before[k]) for k, v in model.model.state_dict().items())


# Alignment -----------------------------------------------------------------------------------------------------------


def test_alignment_finds_every_layer() -> None:
    """Layers around inserted and removed ones are paired with their own partners."""
    old = list(YOLO("yolo11n.yaml").model.model)
    new = list(YOLO("yolo11n-coordatt-bifpn.yaml").model.model)
    assert align(old, new) == [*range(9), None, *range(9, 24)]
    assert align(new, old) == [*range(9), *range(10, 25)]
    p2 = list(YOLO("yolov8n-p2.yaml").model.model)
    plain = list(YOLO("yolov8n.yaml").model.model)
    found = align(plain, p2)
    assert found[:15] == list(range(15))
    assert found[-1] == len(plain) - 1


# The command ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_upgrade(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An upgraded checkpoint has the blocks, the same output and the same names, and the host reads it."""
    model = YOLO("yolo26n.yaml")
    scrambled(model.model)
    model.model.names = {i: f"thing {i}" for i in range(80)}
    model.model.kpt_shape = [4, 3]  # as some versions of the host keep it, and the texts of YOLO-World
    model.save(tmp_path / "best.pt")
    assert main(["upgrade", f"model={tmp_path / 'best.pt'}"]) == 0
    new_file = tmp_path / "best-coordatt-bifpn.pt"
    assert str(new_file) in capsys.readouterr().out
    new, old = YOLO(new_file), YOLO(tmp_path / "best.pt")
    assert new.names == old.names
    assert new.model.kpt_shape == [4, 3]
    assert new.model.yaml["backbone"][9] == [-1, 1, "CoordAtt", [32, 4.0]]
    assert [row[3][-1] for row in new.model.yaml["head"] if row[2] == "BiFPN_Concat"] == [
        2.0001,
        2.0001,
        3.0001,
        2.0001,
    ]
    for options in (["coordatt=none"], ["bifpn=none"]):
        assert main(["upgrade", f"model={tmp_path / 'best.pt'}", *options]) == 0
    assert sorted(x.name for x in tmp_path.glob("*.pt")) == [
        "best-bifpn.pt",
        "best-coordatt-bifpn.pt",
        "best-coordatt.pt",
        "best.pt",
    ]
    assert (
        main(["upgrade", f"model={tmp_path / 'best-coordatt.pt'}", "coordatt=none", f"save={tmp_path / 'both.pt'}"])
        == 0
    )
    for k, words in enumerate((["coordatt=P4,N3"], ["coordatt=bottleneck"], ["coordatt=bottleneck", "attention=SE"])):
        assert main(["upgrade", f"model={tmp_path / 'best.pt'}", *words, f"save={tmp_path / f'{k}.pt'}"]) == 0
    found = {}
    for file in tmp_path.glob("*.pt"):
        upgraded = YOLO(file).model
        assert gap(upgraded, old.model) < 1e-5
        kinds = [type(m).__name__ for m in upgraded.modules()]
        found[file.stem] = tuple(kinds.count(x) for x in ("CoordAtt", "SE", "BiFPN_Concat"))
    assert found == {
        "best": (0, 0, 0),
        "best-coordatt": (1, 0, 0),
        "best-bifpn": (0, 0, 4),
        "best-coordatt-bifpn": (1, 0, 4),
        "both": (1, 0, 4),
        "0": (2, 0, 4),
        "1": (6, 0, 4),
        "2": (0, 6, 4),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("place", "count"), [("deepest", 1), ("bottleneck", 6)])
def test_an_upgraded_checkpoint_trains(place: str, count: int, tmp_path: Path) -> None:
    """`yolo train model=best-coordatt-bifpn.pt` starts from its weights, with the classes of the new data."""
    from test_train import yolo

    from yolo_coordbifpn.commands.scenes import write_scenes

    data = write_scenes(tmp_path / "scenes", train=4, val=2, size=64, seed=0)
    YOLO("yolo11n.yaml").save(tmp_path / "best.pt")
    assert main(["upgrade", f"model={tmp_path / 'best.pt'}", f"coordatt={place}"]) == 0
    (file,) = tmp_path.glob("best-coordatt*-bifpn.pt")
    variant = file.stem.removeprefix("best-")
    assert YOLO(file).model.yaml["yaml_file"] == f"yolo11n-{variant}.yaml"  # the name in the host's summary
    out = yolo(
        tmp_path, "train", f"model={file}", f"data={data}", "epochs=1", "imgsz=64",
        "batch=4", "workers=0", "device=cpu", "plots=False", f"project={tmp_path}", "name=run",
    )  # fmt: skip
    assert "items from pretrained weights" in out
    trained = YOLO(tmp_path / "run" / "weights" / "best.pt").model
    assert [m.gain for m in trained.modules() if isinstance(m, CoordAtt)] == [4.0] * count


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "model= must be a checkpoint such as runs/detect/train/weights/best.pt, got ''"),
        (["model=nowhere.pt"], "model=nowhere.pt: there is no such file"),
        (["model={pt}", "coordatt=none", "bifpn=none"], "leave nothing to do"),
        (["model={pt}", "save={pt}"], "exists already"),
        (["model={pt}", "save={pt}/x/y.pt"], "there is no folder"),
        (["model={pt}", "bifpn=add"], "bifpn=add is another neck with newly initialised weights"),
        (["model={pt}", "coordatt=P9"], "the backbone has no stage P9; there are P1, P2, P3, P4, P5"),
        (["model={pt}", "bifpn=sum"], "bifpn= must be concat, add or none, got 'sum'"),
        (["model={done}"], "the neck is weighted already: yolo11n-coordatt-bifpn.yaml, layer 13"),
        (
            ["model={done}", "bifpn=none"],
            "there is a CoordAtt already: yolo11n-coordatt-bifpn.yaml, layer 9",
        ),
        (["model={text}"], "text.pt"),
    ],
)
def test_upgrade_refuses(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], checkpoints: dict[str, Path]
) -> None:
    """Impossible requests are errors with a status other than 0, and nothing is written."""
    before = set(checkpoints["pt"].parent.iterdir())
    assert main(["upgrade", *(x.format(**checkpoints) for x in words)]) != 0
    assert message in capsys.readouterr().err
    assert set(checkpoints["pt"].parent.iterdir()) == before


def test_upgrade_leaves_a_damaged_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that cannot be read is kept, also if the host would download another file of this name."""
    monkeypatch.chdir(tmp_path)
    Path("yolo11n.pt").write_bytes(b"PK")
    assert main(["upgrade", "model=yolo11n.pt"]) == 1
    assert "cannot read it as a checkpoint" in capsys.readouterr().err
    assert Path("yolo11n.pt").read_bytes() == b"PK"


@pytest.mark.skipif(not importlib.util.find_spec("ultralytics.nn.distill_model"), reason="no distillation in this host")
def test_upgrade_refuses_an_unfinished_distillation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint from the middle of a distillation is an error that says which one to give."""
    from ultralytics.nn.distill_model import DistillationModel

    models = [YOLO("yolo11n.yaml").model for _ in range(2)]
    for model in models:
        model.args = SimpleNamespace(**{**vars(DEFAULT_CFG), "imgsz": 64})
    torch.save({"model": None, "ema": DistillationModel(*models), "epoch": 1}, tmp_path / "last.pt")
    assert main(["upgrade", f"model={tmp_path / 'last.pt'}"]) == 1
    assert "a DistillationModel; of a distillation, give the checkpoint of the finished" in capsys.readouterr().err


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write a stock checkpoint, one with all blocks, and a file that is not a checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoints")
    files = {"pt": folder / "stock.pt", "done": folder / "done.pt", "text": folder / "text.pt"}
    YOLO("yolo11n.yaml").save(files["pt"])
    YOLO("yolo11n-coordatt-bifpn.yaml").save(files["done"])
    files["text"].write_text("not a checkpoint")
    return files
