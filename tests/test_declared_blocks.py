"""Blocks that are declared in one place: a file of the user's, an installed package, timm."""

from __future__ import annotations

import copy
import functools
import itertools
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT, gap, inserted, scrambled, yolo
from new_process import COMPARE, run_python
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.nn import tasks

from yolo_coordbifpn import GraftError, RowError, block, graft, install, register
from yolo_coordbifpn.blocks import timm_attention
from yolo_coordbifpn.blocks.rezero import ReZero
from yolo_coordbifpn.blocks.timm_attention import kinds
from yolo_coordbifpn.commands.scenes import write_scenes
from yolo_coordbifpn.grafting.graft import graft_rows, verify
from yolo_coordbifpn.grafting.variant import Variant
from yolo_coordbifpn.graph.layers import Facts, facts
from yolo_coordbifpn.graph.rows import KEY
from yolo_coordbifpn.graph.starts import fold_rezeros, rezeros
from yolo_coordbifpn.inspection.diagram import diagram
from yolo_coordbifpn.registry import TABLE, entry_points
from yolo_coordbifpn.registry.shipped import declared

ECA = '''
"""Efficient Channel Attention, as a user writes it."""

from torch import nn

from yolo_coordbifpn import block


@block()
class ECA(nn.Module):
    """Gate each channel by its neighbours."""

    def __init__(self, channels, k=3):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)

    def forward(self, x):
        y = self.conv(x.mean((2, 3)).unsqueeze(1)).transpose(1, 2)
        return x * y.sigmoid().unsqueeze(3)
'''
TRAIN = ("epochs=2", "imgsz=64", "batch=4", "nbs=4", "workers=0", "plots=False", "device=cpu")
LOOK = """
import numpy, onnxruntime, torch
from ultralytics import YOLO

model = YOLO("runs/eca/weights/best.pt")
layer = model.model.model[9]
print(type(layer).__name__, type(layer.block).__name__, abs(float(layer.weight)) > 1e-6)
image = torch.rand(1, 3, 64, 64)
with torch.no_grad():
    expected = model.model.float().eval()(image)[0]
    fused = YOLO("runs/eca/weights/best.pt").model.float().eval().fuse(verbose=False)(image)[0]
exported = onnxruntime.InferenceSession(model.export(format="onnx", imgsz=64, simplify=False))
(got,) = exported.run(None, {"images": image.numpy()})
print(*(float((x - expected).norm() / expected.norm()) < 1e-4 for x in (fused, torch.from_numpy(got))))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw a data set of a few images."""
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", train=12, val=6, size=64, seed=0)


@pytest.mark.slow
def test_one_file_is_all_it_takes(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block in one file is built, trained from weights, fused, exported, drawn and compared, by the stock command."""
    (tmp_path / "my_blocks.py").write_text(ECA)
    monkeypatch.setenv("YOLO_COORDBIFPN_BLOCKS", "my_blocks")  # found in the working folder
    YOLO("yolo11n.yaml").save(tmp_path / "stock.pt")
    start = ("pretrained=stock.pt", f"data={data}", *TRAIN)
    out = yolo(tmp_path, "train", "model=yolo11n-eca-bifpn.yaml", *start, f"project={tmp_path / 'runs'}", "name=eca")
    assert "1 layers inserted (9 ECA), 4 fusions weighted" in out
    assert float(re.findall(r"differs by (\S+) from the pretrained model", out)[0]) < 1e-5
    answer = run(tmp_path, "-c", LOOK).splitlines()
    assert [answer[0], answer[-1]] == ["ReZero ECA True", "True True"]
    ours = ("-m", "yolo_coordbifpn")
    assert "yolo11n-eca-bifpn" in run(tmp_path, *ours, "models", "of=yolo11n", "only=*-eca-bifpn")
    run(tmp_path, *ours, "graph", "model=yolo11n-eca.yaml", "save=eca.svg")
    assert "ECA" in (tmp_path / "eca.svg").read_text(encoding="utf-8")
    words = ("seeds=0", f"data={data}", *TRAIN[1:5], "epochs=1")
    assert "yolo11n-eca" in run(tmp_path, *ours, "compare", "models=yolo11n", "variants=eca", "dry=True", *words)
    run(tmp_path, "-c", COMPARE, "models=yolo11n-eca.yaml", *words)
    report = (tmp_path / "runs" / "compare" / "compare" / "report.md").read_text(encoding="utf-8")
    assert "yolo11n-eca" in report


def run(folder: Path, *words: str, **env: str) -> str:
    """Run Python in a folder and return its output."""
    done = run_python(*words, folder=folder, **env)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


# Declarations ---------------------------------------------------------------------------------------------------------


class Gate(nn.Module):
    """A user's attention that has no state in which it is the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x.mean((2, 3), keepdim=True)).sigmoid()


def test_a_declared_word_is_a_variant(own_blocks: None) -> None:
    """The declared word, not the class name, stands for the block in model names and in the names of files."""

    @block(variant="mine", paper="0000.00000")
    class Attention(Gate):
        """The block."""

    register(Attention)
    layers = tasks.DetectionModel(graft("yolo11n.yaml", attention="mine", bifpn="none"), verbose=False).model
    assert type(layers[9]) is Attention
    assert type(YOLO("yolo11n-bifpn-mine.yaml").model.model[9]) is Attention
    assert {line.mark for c in diagram(YOLO("yolo11n-mine.yaml").model, "").cells for line in c.lines} == {
        "",
        "attention",
    }
    with pytest.raises(FileNotFoundError):
        YOLO("yolo11n-attention.yaml")


@pytest.mark.slow
def test_a_word_of_a_stock_name_is_no_variant(own_blocks: None) -> None:
    """A user's class named like a word of the host's own models does not change what their names mean."""
    register(type("Tiny", (Gate,), {}))
    assert type(YOLO("yolov3-tiny-bifpn.yaml").model.model[0]).__name__ == "Conv"
    assert len(YOLO("yolov3-tiny-bifpn.yaml").model.model) == len(YOLO("yolov3-tiny.yaml").model.model)
    assert graft("yolo11n.yaml", attention="Tiny", bifpn="none")["backbone"][9] == [-1, 1, "Tiny", []]


@pytest.mark.parametrize("word", ["Mine", "two-words", "1st", "bifpn", "seg", "p2", "fpn"])
def test_words_that_cannot_be_a_variant(word: str) -> None:
    """A word that model names could not hold, or that means something else in them, is refused."""
    with pytest.raises(ValueError, match="variant must be a word of lower-case letters"):
        block(variant=word)


def test_what_cannot_be_declared(own_blocks: None) -> None:
    """A function, a decorator without parentheses, and a word that another block has are errors that say so."""
    with pytest.raises(TypeError, match="stands above a subclass of torch.nn.Module"):
        block()(lambda x: x)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="needs parentheses: write @block\\(\\) above class Gate"):
        block(Gate)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="a variant coordatt is already registered: .*CoordAtt. Give yours another word"
    ):
        register(block(variant="coordatt")(type("Other", (Gate,), {})))


@pytest.mark.slow
def test_a_block_that_changes_the_channels_is_no_attention(own_blocks: None) -> None:
    """`attention=` refuses a block that does not keep the channels, and names it."""

    @block(lambda c, args: (2 * c, [c, 2 * c, 1]))
    class Double(nn.Conv2d):
        """Twice as many channels."""

    register(Double)
    with pytest.raises(GraftError, match="attention=Double: Double .*does not keep the channels of one layer"):
        graft("yolo11n.yaml", attention="Double")
    cfg = tasks.yaml_model_load("yolo11n.yaml")
    cfg["backbone"][2][2] = "C3k2_Double"
    with pytest.raises(RowError, match="Double .* makes 32 channels out of 16; inside a stock block"):
        tasks.DetectionModel(cfg, verbose=False)


def test_a_block_that_fails_on_small_maps(own_blocks: None) -> None:
    """A block that needs large maps is refused when a model is built: the error names block, row and size."""

    class Window(nn.Module):
        """A block whose windows must fit into the map."""

        def __init__(self, channels: int) -> None:
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(x, 6, 1).mean() + x

    register(Window)
    cfg = inserted(tasks.yaml_model_load("yolo11n.yaml"), 8, module="Window")
    message = r"layer 9 .*\[-1, 1, Window, \[\]\]: Window .* fails on a feature map of 5 x 3 cells: RuntimeError: "
    with pytest.raises(RowError, match=message):
        tasks.DetectionModel(cfg, verbose=False)


def test_a_constructor_that_wants_more(own_blocks: None) -> None:
    """A block whose constructor takes more than the row gives is named with its module, the row and its arguments."""
    register(type("Needy", (Gate,), {"__init__": lambda self, channels, heads: None}))
    with pytest.raises(
        GraftError, match=r"\[-1, 1, Needy, \[\]\]: got 0 arguments.*\(test_declared_blocks\).*\[heads\]"
    ):
        graft("yolo11n.yaml", attention="Needy")


def test_random_numbers_are_those_of_the_stock_model(own_blocks: None) -> None:
    """Trying a user's block does not change the random numbers of the layers after it."""

    class Same(nn.Conv2d):
        """A block that draws random numbers."""

        def __init__(self, channels: int) -> None:
            super().__init__(channels, channels, 1)

    weights = []
    for probed in (True, False):
        register(Same)
        if not probed:
            Same.__module__ = "yolo_coordbifpn.blocks.same"
        torch.manual_seed(0)
        cfg = inserted(tasks.yaml_model_load("yolo11n.yaml"), 8, module="Same")
        weights.append(tasks.DetectionModel(cfg, verbose=False).model[10].cv1.conv.weight)
    torch.testing.assert_close(*weights)


# ReZero ---------------------------------------------------------------------------------------------------------------


def test_rezero_is_the_formula() -> None:
    """x + a (f(x) - x): the input at a = 0, the block at a = 1, between them in between, in the dtype of the block."""
    torch.manual_seed(0)
    f, x = Gate(8), torch.randn(2, 8, 3, 5)
    m = ReZero(f)
    torch.testing.assert_close(m(x), x, rtol=0, atol=0)
    m.weight.data.fill_(1)
    torch.testing.assert_close(m(x), f(x))
    m.weight.data.fill_(0.25)
    torch.testing.assert_close(m(x), x + 0.25 * (f(x) - x))
    with torch.autocast("cpu", torch.bfloat16):
        assert m(x.bfloat16()).dtype is torch.bfloat16


def test_rezero_moves_first_and_then_its_block() -> None:
    """At a = 0 only a has a gradient; once it has moved, so has the block."""
    m, x = ReZero(Gate(8)), torch.randn(2, 8, 3, 5)
    m(x).square().sum().backward()
    assert m.weight.grad.abs() > 0
    assert not m.block.conv.weight.grad.any()
    m.weight.data += 0.1
    m(x).square().sum().backward()
    assert m.block.conv.weight.grad.any()


def test_from_scratch_there_is_no_rezero(own_blocks: None) -> None:
    """Without pretrained weights the block stands in the model as it is."""
    register(Gate)
    assert type(YOLO("yolo11n-gate.yaml").model.model[9]) is Gate


@pytest.mark.slow
@pytest.mark.parametrize("places", ["deepest", "bottleneck", "N3"])
def test_rezero_travels_with_the_model(own_blocks: None, tmp_path: Path, places: str) -> None:
    """A checkpoint, a model rebuilt from its YAML, and a new model of the same name get a and the block's weights."""
    register(Gate)
    cfg = graft("yolo11n.yaml", coordatt=places, bifpn="none", attention="Gate")
    first = tasks.DetectionModel(copy.deepcopy(cfg), verbose=False)
    first.load(scrambled(tasks.DetectionModel("yolo11n.yaml", verbose=False)), verbose=False)
    names = rezeros(first.model)
    assert names
    assert first.yaml[KEY] == {"rezero": names}
    for name in names:
        first.model.get_submodule(name).weight.data += 0.3
    torch.save({"model": first}, tmp_path / "a.pt")
    loaded = torch.load(tmp_path / "a.pt", weights_only=False)["model"]
    assert gap(loaded, first) == 0
    for yaml in (first.yaml, cfg):
        again = tasks.DetectionModel(copy.deepcopy(yaml), verbose=False)
        again.load(first, verbose=False)
        assert gap(again, first) == 0
        assert again.yaml[KEY] == {"rezero": names}
    back = tasks.DetectionModel("yolo11n.yaml", verbose=False)
    back.load(first, verbose=False)
    assert gap(back, first) > 1e-6  # what the blocks had learned is lost


@pytest.mark.slow
def test_a_rezero_that_never_moved_is_folded_away(own_blocks: None) -> None:
    """For inference nothing is left of a block at a = 0, and of a ReZero at a = 1 only its block."""
    register(Gate)
    model = tasks.DetectionModel("yolo11n-gate.yaml", verbose=False)
    model.load(scrambled(tasks.DetectionModel("yolo11n.yaml", verbose=False)), verbose=False)
    for a, kind in ((0.0, nn.Identity), (1.0, Gate), (0.5, ReZero)):
        other = copy.deepcopy(model)
        other.model[9].weight.data.fill_(a)
        expected = copy.deepcopy(other)
        fold_rezeros(other)
        assert type(other.model[9]) is kind
        assert gap(other, expected) < 1e-6


# Blocks of installed packages -----------------------------------------------------------------------------------------

USE = """
import os, torch
from ultralytics import YOLO
model = YOLO("yolo11n-simam-bifpn.yaml")
print(type(model.model.model[9]).__module__)
model.save("simam.pt")
print(type(YOLO("simam.pt").model.model[9]).__name__)
"""
AGAIN = """
from ultralytics import YOLO
import copy
model = YOLO("simam.pt")
print(type(model.model.model[9]).__name__)
cfg = copy.deepcopy(model.model.yaml)
cfg["backbone"][3] = [-1, 1, "SpaceToDepth", []]
from ultralytics.nn.tasks import DetectionModel
print(DetectionModel(cfg, verbose=False).stride.tolist())
"""


@pytest.mark.slow
def test_the_example_package(tmp_path: Path) -> None:
    """The package in `scripts/example_blocks` is built and installed, and its blocks are known by name everywhere."""
    site = tmp_path / "site"
    install_it = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site)]
    run(tmp_path, *install_it, str(ROOT / "scripts" / "example_blocks"))
    assert run(tmp_path, "-c", USE, PYTHONPATH=str(site)).split()[-2:] == ["example_blocks", "SimAM"]
    answer = run(tmp_path, "-c", AGAIN, PYTHONPATH=str(site), ULTRALYTICS_SAFE_LOAD="1").splitlines()
    assert answer[-2:] == ["SimAM", "[8.0, 16.0, 32.0]"]
    listed = run(tmp_path, "-m", "yolo_coordbifpn", "check", PYTHONPATH=str(site))
    assert "block: SimAM" in listed
    assert "registered, of example_blocks 1.0" in listed


def entry(name: str, value: str, package: str) -> EntryPoint:
    """Make the entry point of a package."""
    found = EntryPoint(name, value, entry_points.GROUP)
    vars(found).update(dist=SimpleNamespace(name=package, version="1.0"))
    return found


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch, own_blocks: None) -> list[EntryPoint]:
    """Give a list of entry points in place of those of the installed packages."""
    install()
    found: list[EntryPoint] = []
    monkeypatch.setattr(entry_points, "entry_points", lambda group: found)
    return found


def test_a_package_is_imported_only_when_its_block_is_named(packages: list[EntryPoint]) -> None:
    """A model without it does not import a package; a word that nobody knows makes all packages known."""
    packages += [entry("Missing", "no_such_package:Missing", "broken"), entry("Gate", f"{__name__}:Gate", "gates")]
    YOLO("yolo11n-coordatt.yaml")
    assert TABLE.named("Gate") is None
    assert type(YOLO("yolo11n-gate.yaml").model.model[9]).__name__ == "Gate"


def test_a_broken_package_is_named(packages: list[EntryPoint]) -> None:
    """The error of a row, a graft and a name says which package could not be imported, and why."""
    packages.append(entry("Broken", "no_such_package:Broken", "broken-blocks"))
    problem = r"Broken of broken-blocks 1.0 \(no_such_package:Broken\): ModuleNotFoundError: No module named"
    with pytest.raises(KeyError, match=problem):
        tasks.DetectionModel(inserted(tasks.yaml_model_load("yolo11n.yaml"), 8, module="Broken"), verbose=False)
    with pytest.raises(GraftError, match=problem):
        graft("yolo11n.yaml", attention="Broken")
    with pytest.raises(FileNotFoundError, match=problem):
        YOLO("yolo11n-broken.yaml")
    YOLO("yolo11n-coordatt-bifpn.yaml")


def test_two_packages_with_one_name(packages: list[EntryPoint]) -> None:
    """Neither is taken, and the error names both; one entry point that is found twice is no conflict."""
    packages += [entry("Gate", f"{__name__}:Gate", "one"), entry("Gate", "other.blocks:Gate", "two")]
    with pytest.raises(
        GraftError, match=r"Gate is a block of one 1.0 \(.*\) and two 1.0 \(other.blocks:Gate\): uninstall"
    ):
        graft("yolo11n.yaml", attention="Gate")
    packages[1] = packages[0]
    graft("yolo11n.yaml", attention="Gate")


def test_an_entry_point_with_another_name(packages: list[EntryPoint]) -> None:
    """The name of an entry point is the name in YAMLs, so it must be that of the class."""
    packages.append(entry("Other", f"{__name__}:Gate", "gates"))
    with pytest.raises(GraftError, match="the name of the entry point must be that of the class"):
        graft("yolo11n.yaml", attention="Other")


# The package's own, and timm's ----------------------------------------------------------------------------------------


def test_every_declared_block_is_in_the_table() -> None:
    """The table has every declared class in the folder of the blocks, and its docstring says what a row is."""
    assert {x.__name__ for x in declared()} >= {"CoordAtt", "BiFPN_Concat", "BiFPN_Add", "SeparableConv", "SE", "CBAM"}
    TABLE.discovery.find_all()
    assert set(declared()) <= set(TABLE)
    for cls in declared():
        assert f", {cls.__name__}, [" in str(cls.__doc__)


def test_kinds_of_timm() -> None:
    """The names are read from timm; those that need a fixed size are left out, with a reason."""
    assert {"se", "ese", "eca", "ceca", "gc", "cbam", "lcbam", "coord"} <= set(kinds())
    assert "halo" not in kinds()
    assert timm_attention.unusable("halo")
    with pytest.raises(AttributeError, match="timm's halo cannot be a block: "):
        timm_attention.timm_halo  # noqa: B018
    with pytest.raises(GraftError, match="timm's halo cannot be a block: .*; there are timm_se, "):
        graft("yolo11n.yaml", attention="timm_halo")


def test_timm_is_missing(monkeypatch: pytest.MonkeyPatch, own_blocks: None) -> None:
    """Without timm the error says what to install."""
    monkeypatch.setattr(timm_attention, "_names", list)
    kinds.cache_clear()
    try:
        with pytest.raises(GraftError, match=r'timm_foo needs timm: pip install "yolo_coordbifpn\[zoo\]"'):
            graft("yolo11n.yaml", attention="timm_foo")
    finally:
        kinds.cache_clear()


@functools.cache
def inspected(stock: str) -> tuple[Any, list[Facts]]:
    """Build a stock model with weights as after a training, and inspect its layers."""
    model = scrambled(tasks.DetectionModel(f"{stock}.yaml", verbose=False))
    return model, facts(model)


@pytest.mark.parametrize(
    ("kind", "stock"),
    [*itertools.product(kinds(), ("yolo11n",)), *itertools.product(("se", "cbam", "nl"), ("yolov8n", "yolo26n"))],
)
@pytest.mark.slow
def test_attention_of_timm(kind: str, stock: str, own_blocks: None, quick_builds: None, tmp_path: Path) -> None:
    """Every usable module of timm starts exactly, also inside bottlenecks, trains its a, and is saved and loaded."""
    install()
    old, known = inspected(stock)
    variant = Variant("deepest,bottleneck", "none", attention=f"timm_{kind}")
    new = verify(old, graft_rows(old.yaml, known, variant).cfg(), variant)
    new.load(old, verbose=False)
    assert gap(new, old) < 1e-5
    found = [new.model.get_submodule(x) for x in rezeros(new.model)]
    new.train()
    for m in new.modules():  # the batch's own mean would take away a constant that a block adds to a channel
        if isinstance(m, nn.BatchNorm2d):
            m.eval()
    sum(x.float().square().mean() for x in outputs(new)).backward()
    assert all(m.weight.grad.abs() > 0 for m in found)
    assert bool(found) != (kind == "nl")  # which is the identity until its batch normalisation has learned
    for m in (new.model.get_submodule(x) for x in rezeros(new.model)):
        m.weight.data += 0.2
    torch.save(new, tmp_path / "a.pt")
    assert gap(torch.load(tmp_path / "a.pt", weights_only=False), new) == 0


def outputs(model: Any) -> list[Tensor]:
    """Return what the heads output in training mode."""
    found = model(torch.rand(2, 3, 64, 64))
    found = found.get("one2many", found) if isinstance(found, dict) else found
    return [x for x in (found.values() if isinstance(found, dict) else found) if isinstance(x, Tensor)]
