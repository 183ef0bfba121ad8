"""Grafts: every model YAML of the installed host takes the blocks, at every scale, or the error says why not."""

from __future__ import annotations

import copy
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import effdet
import pytest
import torch
import ultralytics
import yaml
from conftest import ROOT, gap, scrambled, tensors
from effdet.config import get_fpn_config
from torch import nn
from ultralytics import RTDETR, YOLO
from ultralytics.nn import tasks
from ultralytics.nn.tasks import guess_model_task

from yolo_coordbifpn import BiFPN_Add, BiFPN_Concat, CoordAtt, graft, register
from yolo_coordbifpn.blocks import SeparableConv
from yolo_coordbifpn.blocks.density import DensityHead
from yolo_coordbifpn.blocks.gain import BlockWithGain
from yolo_coordbifpn.commands import main
from yolo_coordbifpn.errors import GraftError, RowError
from yolo_coordbifpn.grafting import graft as graft_module
from yolo_coordbifpn.grafting.graft import graft_rows, verify
from yolo_coordbifpn.grafting.names import shipped, split, stock, variants
from yolo_coordbifpn.grafting.variant import Variant
from yolo_coordbifpn.graph.layers import facts
from yolo_coordbifpn.graph.rows import flow
from yolo_coordbifpn.host.models import build, load
from yolo_coordbifpn.registry import TABLE

STOCK = {x.stem: x for x in stock(tasks)}
PLAIN: dict[str, Any] = {"coordatt": "none", "bifpn": "none"}
NO_NECK = "there is no neck|has no neck to weight"
OTHERS: dict[str, dict[str, Any]] = {
    "bifpn-add": {"bifpn": "add"},
    "fpn": {"neck": "fpn"},
    "bottleneck": {"coordatt": "bottleneck"},
    "dualpath": {"bifpn": "concat", "neck": "dualpath"},
    "p2": {"levels": "P2"},
    "anms": {"nms": "adaptive"},
}
TOGETHER = (("bifpn-add",), ("fpn",), ("bottleneck", "dualpath"), ("p2", "anms"))  # variants built as one model
REASONS = {  # why a variant has no place in some models
    "bifpn-add": f"{NO_NECK}|reads texts, which the paper's neck has no place for",
    "fpn": f"{NO_NECK}|no bottom-up path to take out",
    "bottleneck": "no block of the backbone has bottlenecks",
    "dualpath": "there is no neck with two paths",
    "p2": "the heads Detect, Segment, Pose and OBB can have other levels|the head reads P2, P3, P4, P5 already",
    "anms": "heads of Ultralytics whose boxes go through NMS",
}
LEVELS = {"Detect", "Segment", "Segment26", "Pose", "Pose26", "OBB", "OBB26", "v10Detect"}  # heads with other levels
BOXES = {*LEVELS, "WorldDetect", "YOLOEDetect", "YOLOESegment", "YOLOESegment26"}  # heads whose boxes have densities


def stock_cfg(name: str, scale: str | None = None) -> dict[str, Any]:
    """Read a stock YAML; a backbone with weights to download is built without them, RT-DETR with 20 queries."""
    cfg = yaml.safe_load(STOCK[name].read_text())
    if cfg["head"][-1][2] == "RTDETRDecoder":
        cfg["head"][-1][3] += [256, 20]
    for row in cfg["backbone"]:
        if row[2] == "TorchVision":
            row[3][2] = "None"
    return {**cfg, "scale": scale} if scale else cfg


def narrow(cfg: dict[str, Any]) -> dict[str, Any]:
    """Give each scale at most 256 channels, in the same proportions, and half the repeats; keep one of equal scales."""
    kept: dict[Any, Any] = {}
    for x, (depth, width, channels) in (cfg.get("scales") or {}).items():
        depth = min(depth, 0.5)
        kind = depth, channels, x in "mlx", x in "lx"  # for these letters the parser builds other blocks
        kept.setdefault(kind, (x, [depth, min(width, 256 / min(channels, 1024)), channels]))
    if kept:
        return {**cfg, "scales": dict(kept.values())}
    if "width_multiple" in cfg:
        return {**cfg, "width_multiple": 0.25, "depth_multiple": 0.5}
    if any(row[2] == "TorchVision" for row in cfg["backbone"]):
        return cfg
    return {**cfg, **{part: [[*row[:3], _quarter(row[3])] for row in cfg[part]] for part in ("backbone", "head")}}


def _quarter(value: Any) -> Any:
    """Divide the channels among a row's arguments by four: YOLOv9 has neither scales nor a width."""
    if isinstance(value, list):
        return [_quarter(x) for x in value]
    return value // 4 if type(value) is int and value >= 32 else value


def scales(cfg: dict[str, Any]) -> list[Any]:
    """List the scales of a model YAML, a single None if it has none."""
    return list(cfg.get("scales") or [None])


def side(model: Any) -> int:
    """Return the side of the images for a model: two cells of the coarsest level."""
    return 2 * max(32, int(max(model.stride)))


def is_rtdetr(model: Any) -> bool:
    """Return whether a model's head chooses queries, a choice that a rounding error can change."""
    return type(model.model[-1]).__name__ == "RTDETRDecoder"


def change(new: Any, old: Any) -> float:
    """Return the largest relative difference between two models' outputs, for RT-DETR between what the heads read."""
    if hasattr(old, "txt_feats"):
        new.txt_feats = old.txt_feats
    if not is_rtdetr(old):
        return gap(new, old, (side(old), side(old)))
    read: list[list[torch.Tensor]] = []
    for model in (new, old):
        hook = model.model[-1].register_forward_pre_hook(lambda module, args: read.append([x.clone() for x in args[0]]))
        with torch.no_grad():
            model.eval()(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
        hook.remove()
    return max(float((a - b).norm() / b.norm()) for a, b in zip(*read))


def train_once(model: Any) -> None:
    """Run a model forward and backward: each parameter of our blocks, trained alone, gets a gradient."""
    blocks = {name: m for name, m in model.named_modules() if type(m) in TABLE}
    assert blocks or model.yaml["yolo_coordbifpn"] == {"neck": "fpn"}
    model.requires_grad_(not blocks).train(not is_rtdetr(model))  # which needs boxes in training
    for m in blocks.values():
        m.requires_grad_()
    out = [model(torch.rand(2, 3, side(model), side(model)))]
    out += [m.densities for m in blocks.values() if isinstance(m, DensityHead)]
    sum((t.float() ** 2).mean() for t in tensors(out) if t.requires_grad).backward()
    for name, m in blocks.items():
        assert all(p.grad is not None and p.grad.isfinite().all() for p in m.parameters()), name


def has_place(variant: str, old: Any, cfg: dict[str, Any]) -> bool:
    """Return whether a stock model has a place for a variant, told by its head and its layers."""
    layers, head = list(old.model), type(old.model[-1]).__name__
    backbone, neck = (nn.Sequential(*x) for x in (layers[: len(cfg["backbone"])], layers[len(cfg["backbone"]) : -1]))
    joins = any(type(m).__name__ == "Concat" for m in neck)
    return {
        "bifpn-add": joins and head != "WorldDetect",
        "fpn": any(isinstance(m, nn.Conv2d) and m.stride == (2, 2) for m in neck.modules()),
        "bottleneck": any(type(m).__name__ in ("Bottleneck", "ResNetBlock") for m in backbone.modules()),
        "dualpath": joins,
        "p2": head in LEVELS and 4 not in old.stride,
        "anms": head in BOXES,
    }[variant]


@pytest.mark.zoo
@pytest.mark.parametrize("name", STOCK)
def test_every_stock_model_at_every_scale(name: str, record_property: Any, quick_builds: None) -> None:
    """With CoordAtt and BiFPN it keeps task and strides, trains, and outputs the same as its stock weights did.

    Scales that differ in width or in many repeats alone are one case; `test_models.py` builds shipped files at all.
    """
    torch.manual_seed(0)
    whole = stock_cfg(name)
    cfg = narrow(whole)
    variant, reason, made = Variant("deepest", "concat"), "", None
    for scale in scales(cfg):
        old = scrambled(build({**cfg, "scale": scale} if scale else cfg))
        if made is None:
            known = facts(old)
            if not any(row[2] == "Concat" for row in cfg["head"]):
                with pytest.raises(GraftError, match=NO_NECK):
                    graft_rows(cfg, known, variant)
                variant, reason = Variant("deepest", "none"), "no neck: CoordAtt alone"
            made = graft_rows(cfg, known, variant).cfg()
            assert guess_model_task(made) == guess_model_task(cfg)
        new = verify(old, {**made, "scale": scale} if scale else made, variant)
        kinds = [type(m) for m in new.modules()]
        assert kinds.count(CoordAtt) == 1
        assert (kinds.count(BiFPN_Concat) > 0) == (not reason)
        assert not any(type(m).__name__ == "Concat" for m in new.model)
        new.load(old, verbose=False)
        assert change(new, old) < 1e-5
        train_once(new)
    record_property("stock model", f"{name} {len(scales(whole))} {reason}")


@pytest.mark.zoo
@pytest.mark.parametrize("name", STOCK)
def test_every_stock_model_in_the_other_variants(name: str, record_property: Any, quick_builds: None) -> None:
    """Other necks, attention inside the bottlenecks, a level at P2 and densities are built and trained, or refused."""
    torch.manual_seed(0)
    cfg = narrow(stock_cfg(name))
    old = scrambled(build(cfg))
    known, refused = facts(old), set()
    for key, options in OTHERS.items():
        try:
            graft_rows(cfg, known, Variant(**(PLAIN | options)))
        except GraftError as error:
            if has_place(key, old, cfg) or not re.search(REASONS[key], str(error)):
                raise
            refused.add(key)
            record_property(f"no {key}", name)
    for keys in TOGETHER:
        options = PLAIN
        for key in keys:
            options = options | ({} if key in refused else OTHERS[key])
        if options == PLAIN:
            continue
        variant = Variant(**options)
        new = verify(old, graft_rows(cfg, known, variant).cfg(), variant)
        new.load(old, verbose=False)
        if variant.coordatt == "bottleneck":
            kept = {k for k in old.state_dict() if int(k.split(".")[1]) < len(cfg["backbone"])}
            assert kept <= set(new.state_dict())
        if keys not in (("bifpn-add",), ("fpn",)):
            assert change(new, old) < 1e-5
        train_once(new)


# The paper's neck -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 2])
def test_the_sum_neck_is_effdets(repeats: int) -> None:
    """With the same weights, what the head reads is the output of effdet's BiFPN on the same feature maps."""
    torch.manual_seed(0)
    cfg = graft("yolo11n.yaml", coordatt="none", bifpn="add", repeats=repeats, width=256)
    model = scrambled(build(cfg))
    for m in model.modules():
        if isinstance(m, BiFPN_Add):
            nn.init.uniform_(m.weight, -0.2, 2)  # some below zero
    width, sizes = 64, (16, 8, 4)
    info = [{"num_chs": width, "size": (s, s)} for s in sizes]
    layers = []
    for _ in range(repeats):
        layer = effdet.efficientdet.BiFpnLayer(
            feature_info=info,
            feat_sizes=dict(zip((3, 4, 5), [(s, s) for s in sizes])),
            fpn_config=get_fpn_config("bifpn_fa", min_level=3, max_level=5),
            fpn_channels=width,
            num_levels=3,
        )
        layers.append(layer)
    ours = list(model.model)
    nodes = [m for m in ours if isinstance(m, BiFPN_Add)]
    convolutions = [m for m in ours if isinstance(m, SeparableConv)]
    theirs = [node for layer in layers for node in layer.fnode]
    assert len(theirs) == len(nodes) == len(convolutions) == 4 * repeats
    for node, m, conv in zip(theirs, nodes, convolutions):
        node.combine.edge_weights.data = m.weight.data.clone()
        target = node.after_combine.conv
        target.load_state_dict(conv.state_dict())
        target.bn.eps = conv.bn.eps
    first = next(i for i, m in enumerate(ours) if isinstance(m, nn.Upsample))
    maps = [torch.rand(1, width, s, s) for s in sizes]
    with torch.no_grad():
        expected = maps
        for layer in layers:
            expected = layer.eval()(expected)[-3:]
        outputs: dict[int, Any] = {first - 3 + k: x for k, x in enumerate(maps)}
        for i in range(first, len(ours) - 1):
            sources = [i + k if k < 0 else k for k in (ours[i].f if isinstance(ours[i].f, list) else [ours[i].f])]
            read = [outputs[k] for k in sources]
            outputs[i] = ours[i](read if isinstance(ours[i].f, list) else read[0])
    for i, x in zip(ours[-1].f, expected):
        torch.testing.assert_close(outputs[i], x, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_options_of_the_sum_neck() -> None:
    """The edge, the repeats and the width have their effect; there are no nodes with a single input."""
    for edge, inputs in ((True, [2, 2, 3, 2]), (False, [2, 2, 2, 2])):
        for repeats in (1, 3):
            model = build(graft("yolov8n.yaml", "none", "add", edge=edge, repeats=repeats, width=512))
            fusions = [m for m in model.model if isinstance(m, BiFPN_Add)]
            assert [len(m.f) for m in fusions] == inputs * repeats
            assert {c for m in fusions for c in m.channels} == {128}
    four = build(graft("yolov8n-p2.yaml", "none", "add", repeats=1))
    assert [len(m.f) for m in four.model if isinstance(m, BiFPN_Add)] == [2, 2, 2, 3, 3, 2]


# Places ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_places_of_attention() -> None:
    """Attention comes after the layer of each place, and is read by the layers that read it, also at several places."""
    rows = graft("yolo11n.yaml", "P2,P4,N3", "none")
    layers = rows["backbone"] + rows["head"]
    found = [i for i, row in enumerate(layers) if row[2] == "CoordAtt"]
    model = build(rows)
    assert [type(model.model[i - 1]).__name__ for i in found] == ["C3k2"] * 3
    assert [f.stride for i, f in enumerate(facts(model)) if i in found] == [4, 16, 8]
    assert layers[-1][0][0] == found[-1]  # the head reads the attended map
    assert graft("yolo11n.yaml", "deepest", "none") == graft("yolo11n.yaml", "P5", "none")
    p6 = graft("yolov8n-p6.yaml", "deepest", "none")
    assert [row[2] for row in p6["backbone"]][-2:] == ["CoordAtt", "SPPF"]


@pytest.mark.slow
def test_attention_inside_the_bottlenecks(tmp_path: Path) -> None:
    """Attention inside stock blocks follows the last k x k convolution, and survives a checkpoint and fusing."""
    torch.manual_seed(0)
    old = scrambled(YOLO("yolo11n.yaml").model)
    cfg = graft("yolo11n.yaml", "bottleneck", "none")
    assert [row[2] for row in cfg["backbone"]].count("C3k2_CoordAtt") == 4
    file = tmp_path / "yolo11n-inside.yaml"
    file.write_text(yaml.safe_dump({k: v for k, v in cfg.items() if k not in ("scale", "yaml_file")}))
    new = YOLO(file)
    new.load(old)
    assert gap(new.model, old) < 1e-5
    inside = {name for name, m in new.model.named_modules() if isinstance(m, CoordAtt)}
    assert len(inside) == 6  # one for each of the bottlenecks of scale n
    assert all(name.endswith("cv2.act.1") for name in inside)
    for m in new.model.modules():
        if isinstance(m, CoordAtt):
            nn.init.normal_(m.conv_h.weight)
    torch.save({"model": new.model}, tmp_path / "inside.pt")
    again = torch.load(tmp_path / "inside.pt", weights_only=False)["model"]
    assert gap(again, new.model) == 0
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = next(tensors(new.model.eval()(x)))
        fused = next(tensors(copy.deepcopy(new.model).fuse(verbose=False)(x)))
    torch.testing.assert_close(fused, expected, rtol=1e-3, atol=1e-3)
    rebuilt = build(cfg)
    rebuilt.load(new.model)  # trained blocks and their gains come along
    assert gap(rebuilt, new.model) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SE", "CBAM"])
def test_comparators_start_level(name: str) -> None:
    """The other papers' attention blocks go to the same places and start as the identity too."""
    torch.manual_seed(0)
    old = scrambled(YOLO("yolov8n.yaml").model)
    for place in ("P5", "bottleneck"):
        new = build(graft("yolov8n.yaml", place, "none", attention=name))
        blocks = [m for m in new.modules() if type(m).__name__ == name and isinstance(m, BlockWithGain)]
        assert len(blocks) == (1 if place == "P5" else 6)
        new.load(old)
        assert gap(new, old) < 1e-5
        train_once(new)
        assert all(m.gain > 1 for m in blocks)


class Twice(nn.Module):
    """A user's block."""

    def __init__(self, c1: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, c1, 1, 1), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


@pytest.mark.slow
def test_a_users_own_attention(own_blocks: None) -> None:
    """A registered block goes to the same places."""
    register(Twice)
    for place, count in (("P4", 1), ("bottleneck", 6)):
        new = build(graft("yolo11n.yaml", place, "none", attention="Twice"))
        assert sum(isinstance(m, Twice) for m in new.modules()) == count


@pytest.mark.slow
def test_the_top_down_neck() -> None:
    """The head reads the top-down nodes, the rest of the neck is removed, and weighting adds no edge."""
    fpn = graft("yolo11n.yaml", "none", "none", neck="fpn")
    assert [row[2] for row in fpn["head"]] == ["nn.Upsample", "Concat", "C3k2"] * 2 + ["Detect"]
    assert fpn["head"][-1][0] == [16, 13, 10]
    both = graft("yolo11n.yaml", "none", "concat", neck="fpn")
    assert [len(row[0]) for row in both["head"] if row[2] == "BiFPN_Concat"] == [2, 2]


@pytest.mark.slow
def test_weights_of_a_top_down_model() -> None:
    """A model with layers removed gets the weights of the right layers, although their indices differ."""
    torch.manual_seed(0)
    old = scrambled(YOLO("yolo11n.yaml").model)
    new = YOLO("yolo11n-fpn.yaml").model
    new.load(old)
    for a, b in zip(new.model[:17], old.model[:17]):
        for x, y in zip(a.state_dict().values(), b.state_dict().values()):
            assert torch.equal(x, y)
    cls, old_cls = new.model[-1].cv3, old.model[-1].cv3
    assert torch.equal(cls[0][0][0].conv.weight, old_cls[0][0][0].conv.weight)
    scrambled(new, 1)
    back = YOLO("yolo11n.yaml").model
    back.load(new)
    for part in (*range(17), -1):
        torch.testing.assert_close(back.model[part].state_dict(), new.model[part].state_dict(), rtol=0, atol=0)


# Bad input ------------------------------------------------------------------------------------------------------------

TINY = {"nc": 3, "backbone": [[-1, 1, "Conv", [16, 3, 2]]] * 3, "head": [[[2], 1, "Detect", ["nc"]]]}


def changed(**rows: Any) -> dict[str, Any]:
    """Change rows of the stock yolo11 by their index."""
    cfg = stock_cfg("yolo11", "n")
    for key, row in rows.items():
        index = int(key[1:])
        part, k = ("backbone", index) if index < 11 else ("head", index - 11)
        cfg[part][k] = row
    return cfg


def necks(*rows: list[Any], first: str = "Conv") -> dict[str, Any]:
    """Make a small model YAML with an upsampling and a downsampling in its head, followed by some rows."""
    backbone = [[-1, 1, "Conv", [8, 3, 2]] for _ in range(4)]
    up = [[-1, 1, "nn.Upsample", ["None", 2, "nearest"]], [[-1, 2], 1, "Concat", [1]]]
    head = [*up, [-1, 1, "Conv", [8, 3, 2]], [[-1, 3], 1, "Concat", [1]], *rows]
    backbone[0] = [-1, 1, first, [] if first == "nn.Flatten" else [8, 3, 2]]
    return {"nc": 2, "backbone": backbone, "head": head}


BAD: list[tuple[Any, dict[str, Any], str]] = [
    ("yolo11n.yaml", {"coordatt": "P9"}, "the backbone has no stage P9; there are P1, P2, P3, P4, P5"),
    ("yolo11n.yaml", {"coordatt": "N6"}, "the model has no neck output N6; there are N3, N4, N5"),
    ("yolo11n.yaml", {"coordatt": "Q5"}, "coordatt= takes P2...P5, deepest, N3...N5, bottleneck or none, got 'Q5'"),
    ("yolo11n.yaml", {"coordatt": "P5,P5"}, "names a place twice"),
    ("yolo11n.yaml", {"coordatt": "P5,deepest"}, "deepest is a place that another of them names already"),
    ("yolo11n.yaml", {"coordatt": ""}, "coordatt= must be a name, got ''"),
    ("yolo11n.yaml", {"bifpn": "sum"}, "bifpn= must be concat, add or none, got 'sum'"),
    ("yolo11n.yaml", {"neck": "nas"}, "neck= must be pan, fpn or dualpath, got 'nas'"),
    ("yolo11n.yaml", {"bifpn": "add", "neck": "fpn"}, "neck=fpn and bifpn=add are two necks"),
    ("yolo11n.yaml", {"coordatt": "none", "bifpn": "none"}, "leave nothing to do"),
    ("yolo11n.yaml", {"repeats": 0}, "repeats= must be a positive whole number up to 100, got 0"),
    ("yolo11n.yaml", {"edge": 1}, "edge= must be True or False, got 1"),
    (
        "yolo11n.yaml",
        {"attention": "Attention"},
        "attention=Attention: no block of this name is known",
    ),
    ("yolo11n-coordatt.yaml", {}, r"there is a CoordAtt already: yolo11n-coordatt.yaml, layer 9 (backbone row 9)"),
    ("yolo11n-bifpn.yaml", {}, r"the neck is weighted already: yolo11n-bifpn.yaml, layer 12 (head row 1)"),
    ("yolo11n-cls.yaml", {}, "the model has no neck to weight: there is no Concat in its head"),
    ("yolo11n-cls.yaml", {"coordatt": "N5", "bifpn": "none"}, "no neck output N5; it has no neck"),
    ("rtdetr-l.yaml", {"coordatt": "bottleneck"}, "no block of the backbone has bottlenecks; it is made of HGStem"),
    ("yolov8n-worldv2.yaml", {"bifpn": "add"}, "C2fAttn, [1024, 512, 16]] reads texts"),
    ("yolo13n.yaml", {}, "there is no model YAML yolo13n.yaml"),
    (TINY, {}, "the model has no neck to weight"),
    (TINY, {"coordatt": "none", "bifpn": "add"}, "no row of the head makes a feature map larger"),
    ({"backbone": []}, {}, "a model YAML has a list of rows under `backbone` and one under `head`"),
    (
        changed(i12=[[-1, 60], 1, "Concat", [1]]),
        {},
        "layer 12 (head row 1) [[-1, 60], 1, Concat, [1]]: `from` is 60, but at this row there are 12 layers: "
        "use -1 to read the layer before, or 0...11",
    ),
    (changed(i3=[-1, 1, "Conv"]), {}, "layer 3 (backbone row 3) [-1, 1, Conv]: a row has four parts"),
    (changed(i3=[-1, 1, "Conv", 64]), {}, "layer 3 (backbone row 3) [-1, 1, Conv, 64]: the arguments must be a list"),
    (changed(i3=[-1, 1, 7, [64]]), {}, "layer 3 (backbone row 3) [-1, 1, 7, [64]]: the module must be a name, got 7"),
    (changed(i3=["x", 1, "Conv", [64]]), {}, "`from` must be a layer index or a list of them, got 'x'"),
    (
        changed(i3=[-1, 1, "Covn", [64]]),
        {},
        "(backbone row 3) [-1, 1, Covn, [64]]: there is no module Covn here",
    ),
    (changed(i3=[-1, 10**9, "Conv", [64]]), {}, "repeats must be a positive whole number up to 1000, got 1000000000"),
    ("yolo11n.yaml", {"repeats": 10**9}, "repeats= must be a positive whole number up to 100, got 1000000000"),
    ({**TINY, "scales": 3}, {}, "cannot build the model: TypeError: 'int' object is not iterable"),
    (necks([-1, 1, "Classify", [2]], first="nn.Flatten"), {"bifpn": "none"}, "cannot run the model: "),
    (necks([-1, 1, "Conv", [8, 3, 2]], [[5, 7, 8], 1, "Detect", [2]]), {"neck": "fpn"}, "makes no P5, which the head"),
    (necks([-1, 1, "nn.Flatten", []], [-1, 1, "nn.Identity", []]), {"bifpn": "add"}, "reads no feature map"),
]


@pytest.mark.parametrize(("cfg", "options", "message"), BAD, ids=[x[2][:40] for x in BAD])
def test_bad_input(cfg: Any, options: dict[str, Any], message: str) -> None:
    """The error names the row and what is possible; the YAML is not changed."""
    before = copy.deepcopy(cfg)
    with pytest.raises(GraftError, match=re.escape(message)):
        graft(cfg, **options)
    assert cfg == before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([-1, 1, "SPPF_CoordAtt", [1024, 5]], "SPPF has no bottleneck with a k x k convolution for CoordAtt to follow"),
        ([-1, 2, "C3k2_BiFPN_Concat", [1024, True]], "BiFPN_Concat takes two or more inputs"),
        ([-1, 2, "C3k9_CoordAtt", [1024, True]], "there is no stock block C3k9 for CoordAtt to go into"),
        ([-1, 2, "C3k2_CoordAtt"], "a row has four parts"),
        ([-1, 2, "C3k2_CoordAtt", 1024], "the arguments must be a list, got 1024"),
        ([-1, "x", "C3k2_CoordAtt", [1024]], "repeats must be a positive whole number up to 1000, got 'x'"),
        ([-1, 1, "C3k2_CoordAtt", ["a", "b", "c"]], "Its arguments are those of C3k2"),
    ],
)
def test_blocks_that_cannot_go_inside(row: list[Any], message: str) -> None:
    """If a block cannot go inside a layer, the error names the row and says why."""
    cfg = changed(i9=row)
    with pytest.raises(RowError, match=r"layer 9 \(backbone row 9\).*" + re.escape(message)):
        tasks.DetectionModel(cfg, verbose=False)


# Text -----------------------------------------------------------------------------------------------------------------

USERS = """\
# my model
nc: 7 # classes
depth_multiple: 0.33
width_multiple: 0.25
anchors: 3

backbone:
# from, number
- [-1, 1, Conv, [64, 3, 2]] # 0-P1/2
- [-1, 1, Conv, [128, 3, 2]] # 1-P2/4
-   [-1, 3, C2f,   [128, True]]
- [-1, 1, Conv, [256, 3, 2]] # 3-P3/8

  # the small objects
- [-1, 3, C2f, [256, True]] # 4
- - -1
  - 1
  - Conv
  - [512, 3, 2]
- [-1, 3, C2f, [512, True]]
head:
- [-1, 1, nn.Upsample, [None, 2, "nearest"]]
- [[-1, 4], 1, Concat, [1]] # cat 4
- [-1, 3, C2f, [256]] # 9
- [-1, 1, Conv, [256, 3, 2]]
- [[-1, 6], 1, Concat, [1]]
- [-1, 3, C2f, [512]] # 12
- [[9, 12], 1, Detect, [nc]]
# the end
"""
FLOW = "{nc: 3, backbone: [[-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [16, 3, 2]]], head: [[-1, 1, nn.Upsample, [None, 2, nearest]], [[-1, 1], 1, Concat, [1]], [[4, 2], 1, Detect, [nc]]]}"  # fmt: skip # noqa: E501


def rows_of(cfg: dict[str, Any]) -> list[Any]:
    """List all rows of a model YAML."""
    return cfg["backbone"] + cfg["head"]


def test_a_users_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command keeps comments and everything but the rows, shifts every index, and the new model trains."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(USERS)
    assert main(["graft", "model=mine.yaml", "coordatt=P3", "save=new.yaml"]) == 0
    out = capsys.readouterr().out
    assert "layer 5   CoordAtt          P3" in out
    text = Path("new.yaml").read_text()
    assert text.startswith(
        "# Made by: yolo-coordbifpn graft model=mine.yaml coordatt=P3\n# my model\nnc: 7 # classes\n"
    )
    for line in (
        "  - [-1, 1, Conv, [256, 3, 2]] # 3-P3/8",
        "  # the small objects",
        "  - [-1, 3, C2f, [256, True]] # 4",
        "  - [-1, 1, CoordAtt, []] # 5, P3",
        "  - [-1, 1, Conv, [512, 3, 2]]",
        "  - [[-1, 5], 1, BiFPN_Concat, [1]] # fuse 4",
        "  - [-1, 3, C2f, [256]] # 10",
        "  - [[-1, 7], 1, BiFPN_Concat, [1]]",
        "  - [-1, 3, C2f, [512]] # 13",
        "  - [[10, 13], 1, Detect, [nc]]",
        "# the end",
    ):
        assert f"\n{line}\n" in text, line
    assert rows_of(yaml.safe_load(text)) == rows_of(graft("mine.yaml", "P3"))
    train_once(YOLO("new.yaml").model)

    # without the blocks the rows are those of the user
    again = yaml.safe_load(text)
    assert main(["graft", "model=new.yaml", "coordatt=P3"]) == 1
    assert "the neck is weighted already" in capsys.readouterr().err
    stripped = [row for row in rows_of(again) if row[2] != "CoordAtt"]
    assert [row[1:2] + row[3:] for row in stripped] == [row[1:2] + row[3:] for row in rows_of(yaml.safe_load(USERS))]
    assert {k: v for k, v in again.items() if k not in ("backbone", "head")} == {
        k: v for k, v in yaml.safe_load(USERS).items() if k not in ("backbone", "head")
    }


def test_a_file_on_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A YAML with several rows on a line is read and written too."""
    monkeypatch.chdir(tmp_path)
    Path("flow.yaml").write_text(FLOW)
    assert main(["graft", "model=flow.yaml", "coordatt=none"]) == 0
    made = yaml.safe_load(Path("flow-bifpn.yaml").read_text())
    assert [row[2] for row in made["head"]] == ["nn.Upsample", "BiFPN_Concat", "Detect"]
    assert made["nc"] == 3


@pytest.mark.slow
def test_every_stock_text_is_kept(quick_builds: None) -> None:
    """The rows in the new text of each stock model are those of the dict, and the indices in comments are right."""
    from yolo_coordbifpn.grafting.yaml_text import rewrite

    for name in ("yolo11", "yolov9e", "rtdetr-l", "yolov3-spp", "yolo26-pose", "yolov5-p6"):
        text = STOCK[name].read_text()
        cfg = yaml.safe_load(text)
        rows = graft_rows(cfg, facts(build(cfg)), Variant("P4,deepest", "concat"))
        new = rewrite(text, rows)
        assert yaml.safe_load(new) == rows.cfg()
        lines = [x for x in new.splitlines() if re.match(r"\s*- \[", x)]
        assert len(lines) == len(rows.nodes)
        for index, line in enumerate(lines):
            number = re.search(r"# (\d+)(?=$|-P|[, ] ?)", line)
            assert number is None or int(number[1]) == index, line
        kept = [x for x in text.splitlines() if x.lstrip().startswith("#")]
        assert all(x in new for x in kept)


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        (["model=yolo11n"], "model= must be a model YAML such as yolo12.yaml or my.yaml, got 'yolo11n'", 2),
        ([], "model= must be a model YAML", 2),
        (["model=yolo11.yaml", "edge=maybe"], "edge= must be True or False, got 'maybe'", 2),
        (["model=yolo11.yaml", "repeats=0"], "repeats= must be a whole number of at least 1, got '0'", 2),
        (["model=yolo11.yaml", "save=there.yaml"], "save=there.yaml exists already; give another name", 2),
        (["model=yolo11.yaml", "save=no/x.yaml"], "there is no folder no", 2),
        (["model=yolo11.yaml", "coordatt=P8"], "yolo11.yaml: the backbone has no stage P8", 1),
        (["model=yolo21.yaml"], "yolo21.yaml: there is no such model YAML", 1),
        (["model=bad.yaml"], "bad.yaml is not valid YAML", 1),
        (["model=text.yaml"], "a model YAML has a list of rows under `backbone`", 1),
    ],
)
def test_the_command_refuses(
    words: list[str],
    message: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Bad options and bad files are errors, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("there.yaml", "mine"), ("bad.yaml", "a: [1"), ("text.yaml", "hello")):
        Path(name).write_text(text)
    assert main(["graft", *words]) == status
    assert message in capsys.readouterr().err
    assert sorted(x.name for x in tmp_path.iterdir()) == ["bad.yaml", "text.yaml", "there.yaml"]
    assert Path("there.yaml").read_text() == "mine"


# Names ----------------------------------------------------------------------------------------------------------------


def test_names_are_split() -> None:
    """A stock name is followed by the variant; a name without a variant is not ours."""
    assert split("yolo12x-pose-coordatt-bifpn.yaml") == ("yolo12x-pose.yaml", Variant("deepest", "concat"))
    assert split("yolov8s-p2-bifpn.yaml") == ("yolov8s-p2.yaml", Variant("none", "concat"))
    assert split("yolo11n-se-bifpn-add.yaml") == ("yolo11n.yaml", Variant("deepest", "add", attention="SE"))
    assert split("yolo11n-cbam-fpn.yaml") == (
        "yolo11n.yaml",
        Variant("deepest", "none", neck="fpn", attention="CBAM"),
    )
    for name in ("yolo11n.yaml", "yolo26n-sem.yaml", "bifpn.yaml", "yolo11n-bifpn.pt", "yolov8s-world.yaml"):
        assert split(name) is None
    assert len(set(variants())) == len(variants()) == 27


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "scale"),
    [
        ("yolo12x-pose-coordatt-bifpn.yaml", "pose", "x"),
        ("yolov8s-p2-bifpn.yaml", "detect", "s"),
        ("yolov10m-cbam.yaml", "detect", "m"),
        ("rtdetr-l-bifpn.yaml", "detect", ""),
        ("yolo11n-coordatt-bifpn-add.yaml", "detect", "n"),
        ("yolo26n-seg-se-fpn.yaml", "segment", "n"),
        ("yolov8s-worldv2-coordatt.yaml", "detect", "s"),
        ("yoloe-11s-seg-coordatt-bifpn.yaml", "segment", "s"),
    ],
)
def test_names_without_files(name: str, task: str, scale: str) -> None:
    """A stock name followed by a variant is a model with the stock model's task and scale."""
    model = (RTDETR if name.startswith("rtdetr") else YOLO)(name)
    assert name not in shipped()
    assert model.task == task
    assert model.model.yaml["scale"] == scale
    assert model.model.yaml["yaml_file"] == name
    made = load(name)
    plain = load((split(name) or ("",))[0])
    assert made.pop("yolo_coordbifpn", None) == ({"neck": "fpn"} if name.endswith("-fpn.yaml") else None)
    assert {k: v for k, v in made.items() if k not in ("backbone", "head", "yaml_file")} == {
        k: v for k, v in plain.items() if k not in ("backbone", "head", "yaml_file")
    }


def test_a_users_file_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local file with such a name, or with the name without its scale, takes precedence."""
    monkeypatch.chdir(tmp_path)
    cfg = stock_cfg("yolo12")
    cfg["nc"] = 5
    Path("yolo12-pose-bifpn.yaml").write_text(yaml.safe_dump(cfg))
    assert load("yolo12n-pose-bifpn.yaml")["nc"] == 5
    assert load("yolo12s-pose-bifpn.yaml")["scale"] == "s"
    assert load("yolo12n-obb-bifpn.yaml")["nc"] == 80


def test_a_future_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stock YAML that is unknown to this package has its variants too."""
    from yolo_coordbifpn.patches import names

    new = tmp_path / "yolo31-seg.yaml"
    new.write_text(STOCK["yolo11-seg"].read_text())
    monkeypatch.setattr(names, "stock", lambda host: [new])
    model = YOLO("yolo31s-seg-coordatt-bifpn.yaml")
    assert model.task == "segment"
    assert sum(isinstance(m, (CoordAtt, BiFPN_Concat)) for m in model.model.modules()) == 5


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("yolo11n-cls-bifpn.yaml", GraftError, "bifpn in yolo11-cls.yaml: the model has no neck to weight"),
        ("yolov3-tiny-fpn.yaml", GraftError, "fpn in yolov3-tiny.yaml: neck=fpn: the neck has no bottom-up path"),
        ("yolo12n-pose-cordatt.yaml", FileNotFoundError, "Did you mean yolo12.*-pose-coordatt"),
        ("yolo31n-bifpn.yaml", FileNotFoundError, "Did you mean"),
    ],
)
def test_names_of_no_model(name: str, error: type[Exception], message: str) -> None:
    """The error for a name without a model says why, or which names are similar."""
    with pytest.raises(error, match=message):
        YOLO(name)


def test_a_host_without_a_map_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In forks of older hosts the class of the model is found without a map of tasks."""
    monkeypatch.setattr(ultralytics, "YOLO", object)
    for name, kind in {"yolov8": "DetectionModel", "yolov8-seg": "SegmentationModel"}.items():
        assert type(build(stock_cfg(name))).__name__ == kind


# Shipped files --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """Import the script that makes the shipped files."""
    spec = importlib.util.spec_from_file_location("make_model_yamls", ROOT / "scripts" / "make_model_yamls.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_model_yamls"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_shipped_files_are_those_of_the_script(
    maker: ModuleType, quick_builds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made again with the installed Ultralytics, each shipped file is the same except for the sizes of its scales."""

    def plain(text: str) -> str:
        text = re.sub(r"(?m)^( +[a-z]: \[[^\]]*\]).*$", r"\1", text)
        return re.sub(r"Ultralytics [\d.]+", "Ultralytics", text)

    page = (ROOT / "model_yamls" / "yolo11-bifpn.yaml").read_text()
    written = re.search(r"Ultralytics ([\d.]+),", page)[1]
    if [int(x) for x in written.split(".")] > [int(x) for x in re.findall(r"\d+", ultralytics.__version__)[:3]]:
        pytest.skip(f"the files are those of Ultralytics {written}, this is {ultralytics.__version__}")
    known: dict[str, Any] = {}  # 85 files are made of 30 stock models
    original = graft_module._inspected

    def inspected(cfg: dict[str, Any]) -> Any:
        if repr(cfg) not in known:
            known[repr(cfg)] = original(cfg)
        return known[repr(cfg)]

    monkeypatch.setattr(graft_module, "_inspected", inspected)
    names = list(maker.shipped_names())
    assert sorted(names) == shipped()
    for name in names:
        assert plain((ROOT / "model_yamls" / name).read_text()) == plain(maker.make_rows(name)), name


def test_flow_writes_what_yaml_reads() -> None:
    """Rows in messages are YAML on one line."""
    for row in ([[-1, 6], 1, "Concat", [1]], [-1, 1, "nn.Upsample", ["None", 2, "nearest"]], "x"):
        assert "\n" not in flow(row)
        assert yaml.safe_load(flow(row)) == row
    assert flow([[-1, 6], 1, "Concat", [1]]) == "[[-1, 6], 1, Concat, [1]]"
    assert "\n" not in flow([object()])
