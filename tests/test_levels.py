"""A finer detection level, and the dual-path pyramid: their rows, their start, and heads whose levels differ."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import gap, scrambled
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.nn.modules import head as heads

from yolo_coordbifpn import GraftError, SpatialGate, fusion_weights, graft, inspect, uninstall
from yolo_coordbifpn.commands import main
from yolo_coordbifpn.grafting.graft import graft_rows
from yolo_coordbifpn.grafting.names import canonical, split
from yolo_coordbifpn.grafting.variant import Variant
from yolo_coordbifpn.graph.head_levels import _doubled, arrange, level_pairs, select_levels
from yolo_coordbifpn.graph.layers import Facts, facts, outputs, reads
from yolo_coordbifpn.inspection.effects import effects
from yolo_coordbifpn.patches.install import install

pytestmark = pytest.mark.usefixtures("quick_builds")
FAMILIES = ("yolo11n", "yolov8n", "yolo26n")
MOSTLY_SLOW = [FAMILIES[0], *(pytest.param(x, marks=pytest.mark.slow) for x in FAMILIES[1:])]
GRAFTS: dict[str, dict[str, Any]] = {
    "p2": {"coordatt": "none", "bifpn": "none", "levels": "P2"},
    "coordatt-bifpn-p2": {"levels": "P2"},
    "dualpath": {"coordatt": "none", "neck": "dualpath"},
    "dualpath-p2": {"coordatt": "none", "neck": "dualpath", "levels": "P2"},
}


@functools.cache
def stock(name: str) -> Any:
    """Build a stock model with weights as after a training."""
    torch.manual_seed(0)
    return scrambled(YOLO(f"{name}.yaml").model)


@functools.cache
def known(name: str) -> list[Facts]:
    """Inspect the layers of a stock model."""
    return facts(stock(name))


def grafted(name: str, **options: Any) -> Any:
    """Build a stock model's YAML with a graft, with newly initialised weights."""
    torch.manual_seed(1)
    old = stock(name)
    return type(old)(graft_rows(old.yaml, known(name), Variant(**options)).cfg(), verbose=False)


def raw(model: nn.Module, size: tuple[int, int] = (96, 64)) -> Any:
    """Return what a head predicts before any selection, in eval mode."""
    with torch.no_grad():
        return model.eval()(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)))[1]


def new_scores(new: Any, old: Any) -> Iterator[Tensor]:
    """Return the class scores of the levels that only the new model has."""
    if isinstance(old, dict):
        for key in old:
            if key == "scores":
                yield new[key][..., old[key].shape[-1] :].sigmoid()
            else:
                yield from new_scores(new[key], old[key])


# The start ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", GRAFTS)
@pytest.mark.parametrize("task", ["", *(pytest.param(x, marks=pytest.mark.slow) for x in ("-seg", "-pose", "-obb"))])
@pytest.mark.parametrize("family", MOSTLY_SLOW)
def test_the_start_is_the_stock_models(family: str, task: str, variant: str) -> None:
    """With pretrained weights all predictions of the stock model stay, and a new level predicts nothing."""
    old = stock(family + task)
    new = grafted(family + task, **GRAFTS[variant])
    new.load(old, verbose=False)
    assert gap(new, old) < 1e-5
    strides = [8, 16, 32, 4] if "p2" in variant else [8, 16, 32]
    assert new.stride.tolist() == new.model[-1].stride.tolist() == strides
    silent = [x for x in new_scores(raw(new), raw(old)) if x.numel()]
    assert bool(silent) == ("p2" in variant)
    assert all(x.max() < 5e-4 for x in silent)


def test_what_is_logged(log: pytest.LogCaptureFixture) -> None:
    """The log says which level is new and which layers are newly initialised, without a warning."""
    grafted("yolo11n", levels="P2").load(stock("yolo11n"))
    assert "499 of 499 pretrained items kept" in log.text
    assert "0 items left, the head's level P2 is new; what the head reads differs by" in log.text
    assert "newly initialised, with no counterpart in the pretrained model: 24 Upsample, 25 Conv" in log.text
    assert not [x for x in log.records if x.levelname == "WARNING" and "yolo_coordbifpn" in x.message]


def test_another_number_of_classes() -> None:
    """For other classes the boxes of the old levels and the hidden layers of all class branches are kept."""
    old = stock("yolo11n")
    new = tasks.DetectionModel("yolo11n-p2.yaml", nc=3, verbose=False)
    new.load(old, verbose=False)
    assert level_pairs(old.model[-1], new.model[-1]) == [0, 1, 2, None]
    for k in range(3):
        torch.testing.assert_close(new.model[-1].cv2[k].state_dict(), old.model[-1].cv2[k].state_dict())
    widths = [branch[-1].in_channels for branch in new.model[-1].cv3]
    assert len(set(widths)) == 1
    assert raw(new)["scores"].shape[1] == 3


@pytest.mark.parametrize("variant", ["p2", "dualpath-p2"])
@pytest.mark.parametrize("family", ["yolo11n", "yolo26n"])
def test_a_new_level_continues_the_one_before(family: str, variant: str) -> None:
    """At first a new level is the enlarged one before, with its branch: distances are doubled, classes silent."""
    old, new = stock(family), grafted(family, **GRAFTS[variant])
    new.load(old, verbose=False)
    with torch.no_grad():
        maps = outputs(list(new.eval().model)[:-1], torch.rand(1, 3, 64, 64))
    p3, p2 = (maps[reads(new.model[-1])[k]] for k in (0, 3))
    torch.testing.assert_close(p2, nn.functional.interpolate(p3, scale_factor=2))
    details = next(m for m in new.model if m.i == reads(new.model[-1])[3] - 1 - variant.startswith("dualpath"))
    assert details.bn.weight.count_nonzero() == 0
    boxes, classes = (getattr(new.model[-1], name) for name in ("cv2", "cv3"))
    torch.testing.assert_close(classes[3][-1].bias, classes[0][-1].bias - 14)
    torch.testing.assert_close(boxes[3][0].state_dict(), boxes[0][0].state_dict())
    features = torch.randn(1, boxes[0][-1].in_channels, 4, 4)
    with torch.no_grad():
        near, far = (new.model[-1].dfl(boxes[k][-1](features).flatten(2)) for k in (0, 3))
    if new.model[-1].reg_max == 1:
        torch.testing.assert_close(far, 2 * near)
    for x, y in zip(boxes[3][-1].parameters(), boxes[0][-1].parameters()):
        torch.testing.assert_close(x, _doubled(y))


@pytest.mark.parametrize("distance", [0, 1.5, 3, 7])
def test_distances_are_doubled(distance: float) -> None:
    """A distribution over bins around one distance becomes one around twice that distance."""
    bins = torch.arange(16.0)
    logits = (-8 * (bins - distance).abs()).repeat(4)
    doubled = _doubled(logits).view(4, 16).softmax(1)
    torch.testing.assert_close((doubled * bins).sum(1), torch.full((4,), 2.0 * distance), atol=0.2, rtol=0)


def test_coarse_levels_can_be_left_out() -> None:
    """With levels=P2-P4 the levels that stay predict as before; the rows of P5 alone are gone."""
    old, new = stock("yolov8n"), grafted("yolov8n", coordatt="none", bifpn="none", levels="P2-P4")
    new.load(old, verbose=False)
    assert new.stride.tolist() == [8, 16, 4]
    before, after = raw(old)["boxes"], raw(new)["boxes"]
    kept = 12 * 8 + 6 * 4
    torch.testing.assert_close(after[..., :kept], before[..., :kept])
    assert [type(m).__name__ for m in new.model].count("Concat") == 3


def test_the_detail_edge_and_the_gates() -> None:
    """The dual path adds an edge from P2 into P3 and a gate before each detailed input, read with what gates it."""
    model = grafted("yolo11n", **GRAFTS["dualpath-p2"])
    names = {f"{x.name}: {', '.join(x.inputs)}" for x in fusion_weights(model)}
    assert names == {
        "P4 top-down: P5 top-down, P4 backbone",
        "P3 top-down: P4 top-down, P3 backbone, P2 bottom-up",
        "P4 bottom-up: P3 bottom-up, P4 top-down, P4 backbone",
        "P5 bottom-up: P4 bottom-up, P5 backbone",
        "P2 top-down: P3 top-down, P2 backbone",
    }
    gates = [m for m in model.model if isinstance(m, SpatialGate)]
    assert len(gates) == 6
    strides = {m.i: m for m in model.model}
    for gate in gates:
        detail, semantic = reads(gate)
        assert detail < gate.i
        assert semantic < gate.i
        (fusion,) = [m for m in strides.values() if gate.i in reads(m)]
        assert semantic in reads(fusion)


# Heads ----------------------------------------------------------------------------------------------------------------


def head(ch: tuple[int, ...], strides: tuple[float, ...], seed: int = 0) -> Any:
    """Build a detection head of the host with weights as after a training."""
    torch.manual_seed(seed)
    built: Any = scrambled(heads.Detect(3, ch=ch))
    built.stride = torch.tensor(strides)
    built.f = list(range(len(ch)))
    return built


@pytest.mark.parametrize(
    ("before", "after"),
    [((256, 512, 64, 32), (512, 64, 32)), ((512, 64, 32), (256, 512, 64, 32)), ((512, 64, 32), (512, 64, 32, 256))],
    ids=["finest level left out", "finer level in front", "finer level last"],
)
def test_branches_follow_their_stride(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    """A branch gets the weights of the level of its stride; where the new head is wider, the output stays the same."""
    strides = {256: 4.0, 512: 8.0, 64: 16.0, 32: 32.0}  # by channels
    old, new = (head(ch, tuple(strides[c] for c in ch)) for ch in (before, after))
    given = {name: x.clone() for name, x in old.state_dict().items()}
    donor = arrange(old, new)
    torch.testing.assert_close(dict(old.state_dict()), given, rtol=0, atol=0)
    places = level_pairs(old, new)
    assert [None if p is None else before[p] for p in places] == [
        None if p is None else c for p, c in zip(places, after)
    ]
    xs = [torch.randn(1, c, 4, 4) for c in after]
    for name in ("cv2", "cv3"):
        for k, place in enumerate(places):
            with torch.no_grad():
                out = getattr(donor, name)[k](xs[k])
                if place is not None:
                    torch.testing.assert_close(out, getattr(old, name)[place](xs[k]), rtol=1e-4, atol=1e-5)
        inner = {branch[-1].in_channels for branch in getattr(donor, name)}
        assert len(inner) == 1  # the host rebuilds class branches as a whole
        if len(after) < len(before):
            assert inner == {branch[-1].in_channels for branch in getattr(new, name)}


def test_heads_of_the_same_levels_are_left_alone() -> None:
    """A head with the same levels in the same order, and one that does not say its strides, stay as they are."""
    old = head((64, 64), (8, 16))
    assert arrange(old, head((64, 64), (8, 16), seed=1)) is old
    assert arrange(old, nn.Linear(2, 2)) is old


def test_some_levels_of_a_head() -> None:
    """A head restricted to some of its levels predicts for these as before, in the order that was asked for."""
    whole = head((64, 32, 16), (8, 16, 4))
    part = head((64, 32, 16), (8, 16, 4))
    select_levels(part, [2, 0])
    xs = [torch.randn(1, 64, 2, 2), torch.randn(1, 32, 1, 1), torch.randn(1, 16, 4, 4)]
    with torch.no_grad():
        expected, scores = (m.eval()(list(y))[1]["scores"] for m, y in ((whole, xs), (part, [xs[2], xs[0]])))
    assert (part.f, part.nl, part.stride.tolist()) == ([2, 0], 2, [4, 8])
    torch.testing.assert_close(scores, torch.cat((expected[..., 5:], expected[..., :4]), 2))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["yolov8n", "yolo26n"])
def test_the_hosts_own_p2_model(family: str, log: pytest.LogCaptureFixture) -> None:
    """Weights of three levels reach the right levels of the host's own P2 model, and come back."""
    old = stock(family)
    new: Any = YOLO(f"{family}-p2.yaml").model
    new.load(old)
    assert new.stride.tolist() == [4, 8, 16, 32]
    assert "the head's level P2 is new" in log.text
    assert "graft model=<the model without the level> levels=P2" in log.text
    for k in range(3):
        torch.testing.assert_close(new.model[-1].cv2[k + 1].state_dict(), old.model[-1].cv2[k].state_dict())
    back: Any = YOLO(f"{family}.yaml").model
    back.load(new)
    for k in range(3):
        torch.testing.assert_close(back.model[-1].cv2[k].state_dict(), old.model[-1].cv2[k].state_dict())


@pytest.mark.slow
def test_the_way_back(log: pytest.LogCaptureFixture) -> None:
    """Weights of a model with a level more give the stock model everything but that level."""
    old = stock("yolo11n")
    for variant in ("p2", "dualpath-p2"):
        new = grafted("yolo11n", **GRAFTS[variant])
        new.load(old, verbose=False)
        back: Any = YOLO("yolo11n.yaml").model
        back.load(new)
        assert gap(back, old) < 1e-5
    assert "blocks" in log.text


def test_weights_of_another_family_are_the_hosts_matter() -> None:
    """Where nothing fits, a stock model with other levels takes from the weights what the host would give it."""
    new: Any = YOLO("yolov8n-p2.yaml").model
    new.load(stock("yolo11n"), verbose=False)
    torch.testing.assert_close(new.model[0].state_dict(), stock("yolo11n").model[0].state_dict())


def test_prototypes_without_the_package() -> None:
    """A model for masks with a level more runs on a host without the patch, once it is built."""
    model = grafted("yolo26n-seg", **GRAFTS["p2"])
    assert len(model.model[-1].proto.feat_refine) == 2
    uninstall()
    try:
        assert raw(model)["one2many"]["proto"].shape[1:] == (32, 24, 16)
    finally:
        install()


# Names and errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stock_name", "usual"),
    [
        ("yolo11n-p2", "yolo11n", "yolo11n-p2"),
        ("yolo11n-p2-seg-bifpn-coordatt", "yolo11n-seg", "yolo11n-seg-coordatt-bifpn-p2"),
        ("yolov8s-coordatt-p2", "yolov8s-p2", "yolov8s-p2-coordatt"),  # the host has yolov8-p2.yaml
        ("yolov8-seg-p2", "yolov8-seg", "yolov8-seg-p2"),  # but not this
        ("yolov8-ghost-p2-dualpath", "yolov8-ghost-p2", "yolov8-ghost-p2-dualpath"),
        ("yolo26-p2-p4", "yolo26", "yolo26-p2-p4"),
        ("yolo12x-p3-p4-dualpath", "yolo12x", "yolo12x-dualpath-p3-p4"),
    ],
)
def test_names(name: str, stock_name: str, usual: str) -> None:
    """Levels are part of a name in any place, unless the host has a model with that level."""
    found = split(f"{name}.yaml")
    assert found is not None
    assert found[0] == f"{stock_name}.yaml"
    assert canonical(f"{name}.yaml") == f"{usual}.yaml"


@pytest.mark.parametrize("name", ["yolov8n-p2", "yolov8-p6", "yolo26-p2", "yolov8-ghost-p2", "yolo11-p7"])
def test_names_of_the_host(name: str) -> None:
    """The host's own models of other levels stay its own."""
    assert split(f"{name}.yaml") is None


REFUSED = [
    (
        "yolo11-cls",
        {"levels": "P2", "bifpn": "none"},
        "the heads Detect, Segment, Pose and OBB can have other levels, Classify cannot",
    ),
    ("rtdetr-l", {"levels": "P2", "bifpn": "none"}, "Pose and OBB can have other levels, RTDETRDecoder cannot"),
    ("yolov8-p2", {"levels": "P2"}, "the head reads P2, P3, P4, P5 already"),
    ("yolo11", {"levels": "P2-P6"}, "the head reads P3, P4, P5; a coarser level than these cannot be added"),
    ("yolo11", {"levels": "P4-P5"}, "the head reads P3, P4, P5; only coarse levels can be removed"),
    ("yolo11", {"levels": "p2"}, "levels= must be P2, or a range such as P2-P4, got 'p2'"),
    ("yolo11", {"levels": "P4-P2"}, "levels= must be P2, or a range such as P2-P4, got 'P4-P2'"),
    ("yolo11", {"neck": "dualpath", "bifpn": "none"}, "neck=dualpath is made around the weighted fusions"),
    ("yolo11", {"neck": "dualpath", "bifpn": "add"}, "neck=dualpath and bifpn=add are two necks"),
    ("yolo11-cls", {"neck": "dualpath"}, "there is no neck with two paths"),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED)
def test_bad_input(name: str, options: dict[str, Any], message: str) -> None:
    """What cannot be is an error that says why and what is possible."""
    with pytest.raises(GraftError, match=re.escape(message)):
        graft(f"{name}.yaml", coordatt="none", **options)


def test_a_backbone_without_the_level() -> None:
    """A backbone that begins with a large stride has no P2."""
    plain = {**YOLO("yolov8n.yaml").model.yaml}  # type: ignore[union-attr]
    plain["backbone"] = [[-1, 1, "Conv", [64, 9, 8]], [-1, 3, "C2f", [128, True]], *plain["backbone"][5:]]
    plain["head"] = [
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 3], 1, "Concat", [1]],
        [-1, 3, "C2f", [256]],
        [[8, 6], 1, "Detect", ["nc"]],
    ]
    with pytest.raises(GraftError, match="the backbone has no feature map at stride"):
        graft(plain, coordatt="none", levels="P2")


# The gate -------------------------------------------------------------------------------------------------------------


def test_the_formula() -> None:
    """The gate is P * (1 + gamma * sigmoid(conv7x7[mean_c U; max_c U]))."""
    torch.manual_seed(0)
    gate = SpatialGate([8, 16])
    p, u = torch.randn(2, 8, 9, 7), torch.randn(2, 16, 9, 7)
    assert torch.equal(gate([p, u]), p)
    nn.init.constant_(gate.weight, 0.7)
    weight, bias = gate.conv.weight, gate.conv.bias
    pooled = torch.stack([u.sum(1) / 16, u.max(1).values], 1)
    patches = nn.functional.unfold(pooled, 7, padding=3)
    logit = (weight.flatten(1) @ patches + bias).view(2, 1, 9, 7)  # type: ignore[operator]
    torch.testing.assert_close(gate([p, u]), p * (1 + 0.7 / (1 + torch.exp(-logit))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((16,), "SpatialGate takes two inputs, got 16"),
        (([8, 8, 8],), "SpatialGate takes two inputs"),
        (([8, 8], 4), "kernel_size must be a positive odd number, got 4"),
    ],
)
def test_a_gate_that_cannot_be_built(arguments: tuple[Any, ...], message: str) -> None:
    """Wrong arguments are an error that shows the row to write."""
    with pytest.raises(ValueError, match=re.escape(message)):
        SpatialGate(*arguments)


def test_what_the_gates_learned_is_shown(tmp_path: Path) -> None:
    """Inspection shows gamma and the maps; the effects of a training follow them."""
    from PIL import Image

    Image.effect_noise((64, 48), 90).convert("RGB").save(tmp_path / "noise.png")
    yolo = YOLO("yolo11n-dualpath.yaml")
    gates = [m for m in yolo.model.modules() if isinstance(m, SpatialGate)]  # type: ignore[union-attr]
    nn.init.constant_(gates[0].weight, 0.5)
    found = inspect(yolo, tmp_path / "noise.png", imgsz=64)
    assert list(found.spatial_gates.values()) == [0.5, *[0.0] * (len(gates) - 1)]
    maps = found.images[0].maps
    assert [m.flat for m in maps[1:]] == [True] * (len(gates) - 1)
    assert maps[0].map.shape == (4, 4)
    assert maps[0].factor.min() >= 1
    torch.testing.assert_close(torch.tensor(maps[0].factor), 1 + 0.5 * torch.tensor(maps[0].map))
    seen = effects(yolo.model, torch.rand(1, 3, 64, 64))
    assert [x.name for x in seen] == ["SpatialGate"] * len(gates)
    assert seen[0].change > 0.1
    assert [x.change for x in seen[1:]] == [0] * (len(gates) - 1)


@pytest.mark.slow
def test_upgrade(tmp_path: Path) -> None:
    """A checkpoint gets the level and the gates, with its own predictions."""
    yolo = YOLO("yolo11n.yaml")
    yolo.model = stock("yolo11n")
    yolo.save(tmp_path / "best.pt")
    assert main(["upgrade", f"model={tmp_path / 'best.pt'}", "neck=dualpath", "levels=P2"]) == 0
    new: Any = YOLO(tmp_path / "best-coordatt-dualpath-p2.pt").model
    assert new.stride.tolist() == [8, 16, 32, 4]
    assert gap(new.float(), YOLO(tmp_path / "best.pt").model.float()) < 1e-5  # type: ignore[union-attr]
    assert sum(m.numel() for m in new.parameters()) > sum(m.numel() for m in stock("yolo11n").parameters())
