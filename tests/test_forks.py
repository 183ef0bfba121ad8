"""Forks with a `parse_model` of their own: small ones, written here in the style of well-known repositories.

The repositories themselves (ultralytics/yolov5, WongKinYiu/yolov7 and yolov9, THU-MIG/yolov10, sunsmarterjie/yolov12,
iMoonLab/yolov13) were tested by hand, see scripts/README.md, "Forks".
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from torch import nn

from yolo_coordbifpn import BiFPN_Concat, CoordAtt, HostError, RowError, install, model_yaml, register, uninstall
from yolo_coordbifpn.commands import main
from yolo_coordbifpn.patches import hook

LAYERS = """
import torch
from torch import nn

class Conv(nn.Module):
    def __init__(self, c1, c2, k=1, s=1, p=None):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2 if p is None else p, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.SiLU()
    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

class Bottleneck(nn.Module):
    def __init__(self, c1, c2, shortcut=True):
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(c1, c2), Conv(c2, c2, 3), shortcut and c1 == c2
    def forward(self, x):
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))

class C3(nn.Module):
    def __init__(self, c1, c2, n=1, shortcut=True):
        super().__init__()
        self.cv1, self.cv2, self.cv3 = Conv(c1, c2 // 2), Conv(c1, c2 // 2), Conv(c2, c2)
        self.m = nn.Sequential(*(Bottleneck(c2 // 2, c2 // 2, shortcut) for _ in range(n)))
    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))

class SPPF(nn.Module):
    def __init__(self, c1, c2, k=5):
        super().__init__()
        self.cv1, self.cv2, self.m = Conv(c1, c1 // 2), Conv(c1 * 2, c2), nn.MaxPool2d(k, 1, k // 2)
    def forward(self, x):
        y = [self.cv1(x)]
        y += [self.m(y[-1])]
        y += [self.m(y[-1])]
        return self.cv2(torch.cat([*y, self.m(y[-1])], 1))

class Concat(nn.Module):
    def __init__(self, dimension=1):
        super().__init__()
        self.d = dimension
    def forward(self, x):
        return torch.cat(x, self.d)

class Detect(nn.Module):
    def __init__(self, nc=80, anchors=(), ch=()):
        super().__init__()
        self.m = nn.ModuleList(nn.Conv2d(x, (nc + 5) * len(anchors[0]) // 2, 1) for x in ch)
    def forward(self, x):
        return [m(y) for m, y in zip(self.m, x)]

class Model(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.yaml = cfg
        self.model, self.save = self.parse(cfg)
    def forward(self, x):
        y = []
        for m in self.model:
            if m.f != -1:
                x = y[m.f] if isinstance(m.f, int) else [x if j == -1 else y[j] for j in m.f]
            x = m(x)
            y.append(x)
        return x
"""

FIVE = '''
from copy import deepcopy
from layers import *
import layers

def parse_model(d, ch):
    """Set of classes, modules by eval, as in the yolov5 and yolov9 repositories."""
    anchors, nc, gd, gw = d["anchors"], d["nc"], d["depth_multiple"], d["width_multiple"]
    no = len(anchors[0]) // 2 * (nc + 5)
    layers, save, c2 = [], [], ch[-1]
    for i, (f, n, m, args) in enumerate(d["backbone"] + d["head"]):
        m = eval(m) if isinstance(m, str) else m
        for j, a in enumerate(args):
            try:
                args[j] = eval(a) if isinstance(a, str) else a
            except NameError:
                pass
        n = max(round(n * gd), 1) if n > 1 else n
        if m in {Conv, Bottleneck, C3, SPPF}:
            c1, c2 = ch[f], args[0]
            if c2 != no:
                c2 = int(-(-c2 * gw // 8) * 8)
            args = [c1, c2, *args[1:]]
            if m in {C3}:
                args.insert(2, n)
                n = 1
        elif m is nn.BatchNorm2d:
            args = [ch[f]]
        elif m is Concat:
            c2 = sum(ch[x] for x in f)
        elif m in {Detect}:
            args.append([ch[x] for x in f])
        else:
            c2 = ch[f]
        m_ = nn.Sequential(*(m(*args) for _ in range(n))) if n > 1 else m(*args)
        m_.i, m_.f, m_.type, m_.np = i, f, str(m)[8:-2], sum(x.numel() for x in m_.parameters())
        save.extend(x % i for x in ([f] if isinstance(f, int) else f) if x != -1)
        layers.append(m_)
        if i == 0:
            ch = []
        ch.append(c2)
    return nn.Sequential(*layers), sorted(save)

class Model(layers.Model):
    def parse(self, cfg):
        return parse_model(deepcopy(cfg), ch=[3])

def groups(model):
    """By the name of each parameter, as in the yolov5 repository."""
    g = [], [], []
    for v in model.modules():
        for name, p in v.named_parameters(recurse=False):
            g[2 if name == "bias" else 1 if name == "weight" and isinstance(v, nn.BatchNorm2d) else 0].append(p)
    return g
'''

FOUR = (
    FIVE.replace("as in the yolov5 and yolov9 repositories", "as in the yolov5 of 2020")
    .replace("c2 = sum(ch[x] for x in f)", "c2 = sum([ch[x if x < 0 else x + 1] for x in f])")
    .replace("args.append([ch[x] for x in f])", "args.append([ch[x + 1] for x in f])")
    .replace("        else:\n            c2 = ch[f]", "        else:\n            c2 = ch[f if f < 0 else f + 1]")
    .replace("        if i == 0:\n            ch = []\n", "")
)  # the image's channels stay in front, so the output of layer x is ch[x + 1]

SEVEN = (
    FIVE.replace("Set of classes, modules by eval, as in the yolov5 and yolov9 repositories", "Lists, as in yolov7's")
    .replace("m in {Conv, Bottleneck, C3, SPPF}", "m in [nn.Conv2d, Conv, Bottleneck, C3, SPPF]")
    .replace("sum(ch[x] for x in f)", "sum([ch[x] for x in f])")
    .partition("def groups")[0]
    + '''
def groups(model):
    """By the attributes bias and weight alone, as in the yolov7 and yolov9 repositories."""
    g = [], [], []
    for v in model.modules():
        if hasattr(v, "bias") and isinstance(v.bias, nn.Parameter):
            g[2].append(v.bias)
        if isinstance(v, nn.BatchNorm2d):
            g[0].append(v.weight)
        elif hasattr(v, "weight") and isinstance(v.weight, nn.Parameter):
            g[1].append(v.weight)
    return g
'''
)

TEN = (
    SEVEN.replace("def parse_model(d, ch):", "def parse_model(d, ch, verbose=True):")
    .replace("layers, save, c2 = [], [], ch[-1]", "ch = [ch]\n    layers, save, c2 = [], [], ch[-1]")
    .replace(
        "m = eval(m) if isinstance(m, str) else m",
        'm = getattr(torch.nn, m[3:]) if "nn." in m else globals()[m]',
    )
    .replace("parse_model(deepcopy(cfg), ch=[3])", "parse_model(deepcopy(cfg), ch=3)")
)  # forks of ultralytics itself

STYLES = {"four": FOUR, "five": FIVE, "seven": SEVEN, "ten": TEN}

YAML = """
nc: 2
depth_multiple: 0.33
width_multiple: 0.25
anchors: [[10, 13, 16, 30], [30, 61, 62, 45]]
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 3, C3_CoordAtt, [64]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 1, CoordAtt, []]
  - [-1, 1, SPPF, [128, 5]]
head:
  - [-1, 1, Conv, [64, 1, 1]]
  - [-1, 1, nn.Upsample, [None, 2, "nearest"]]
  - [[-1, 2], 1, BiFPN_Concat, [1]]
  - [-1, 3, C3, [64, False]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [[-1, 6], 1, BiFPN_Add, []]
  - [-1, 1, SeparableConv, []]
  - [[9, 12], 1, Detect, [nc, anchors]]
"""

TRAIN = """
import sys
from importlib import import_module
import torch
import yaml

torch.manual_seed(0)
for style in sys.argv[1:]:
    fork = import_module(f"{style}.yolo")
    model = fork.Model(yaml.safe_load(open("mine.yaml")))
    groups = fork.groups(model)
    optimizer = torch.optim.SGD(groups[2], lr=0.1, momentum=0.9)
    for group in groups[:2]:
        optimizer.add_param_group({"params": group, "weight_decay": 5e-4})
    ours = [(n, p) for m in model.modules() if type(m).__module__.startswith("yolo_coordbifpn")
            for n, p in m.named_parameters()]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert all(id(p) in held for _, p in ours), [n for n, p in ours if id(p) not in held]
    before = [p.detach().clone() for _, p in ours]
    for _ in range(3):
        loss = sum(x.square().mean() for x in model(torch.rand(2, 3, 64, 64)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # (a bias before batch norm has no gradient)
    still = [n for (n, p), old in zip(ours, before) if torch.equal(p, old) and n != "conv1.bias"]
    assert not still, still
    torch.save({"model": model}, f"{style}.pt")
    back = torch.load(f"{style}.pt", weights_only=False)["model"].eval()
    x = torch.rand(1, 3, 96, 64)
    assert all(torch.equal(a, b) for a, b in zip(back(x), model.eval()(x)))
    print(style, len(ours), "yolo_coordbifpn.patches.install" in sys.modules)
"""


def write_forks(folder: Path) -> None:
    """Write the forks, each a package with a module `yolo`, and what they share."""
    (folder / "layers.py").write_text(LAYERS)
    (folder / "mine.yaml").write_text(YAML)
    (folder / "train.py").write_text(TRAIN)
    for name, source in STYLES.items():
        (folder / name).mkdir()
        (folder / name / "yolo.py").write_text(source)


@pytest.fixture
def forks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make the forks importable in this process during a test."""
    write_forks(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    uninstall()
    hook._forks.clear()
    for name in ["layers", *(f"{x}{y}" for x in STYLES for y in ("", ".yolo"))]:
        sys.modules.pop(name, None)
    install()


def build(name: str, change: Callable[[dict], Any] = lambda cfg: None) -> nn.Module:
    """Build the model of a fork from its YAML."""
    cfg = yaml.safe_load(YAML)
    change(cfg)
    return importlib.import_module(f"{name}.yolo").Model(cfg)


@pytest.mark.slow
def test_forks_train_unedited(tmp_path: Path, python: Callable[..., str]) -> None:
    """With the environment variable alone, rows build, all our parameters are trained, and a checkpoint loads again."""
    write_forks(tmp_path)
    code = f"import sys, runpy; sys.argv[1:] = {list(STYLES)}; sys.path.insert(0, '.'); runpy.run_path('train.py')"
    out = python(code, YOLO_COORDBIFPN_PARSERS=",".join(f"{x}.yolo" for x in STYLES))
    assert out.splitlines() == [
        f"{style} 22 True" for style in STYLES
    ]  # two CoordAtt of 8, two weights, 4 of the convolution


@pytest.mark.parametrize("style", STYLES)
def test_install_names_a_parser(forks: Path, style: str) -> None:
    """`install(parser=)` patches a fork's parser alone and once; uninstall undoes it."""
    with pytest.raises((NameError, KeyError)):
        build(style)
    for _ in range(2):
        install(parser=f"{style}.yolo")
        assert sum(type(m).__name__ == "CoordAtt" for m in build(style).modules()) == 2
    for other in set(STYLES) - {style}:
        with pytest.raises((NameError, KeyError)):
            build(other)
    uninstall()
    with pytest.raises((NameError, KeyError)):
        build(style)
    install()
    build(style)


def test_a_parser_with_several_returns(forks: Path) -> None:
    """Blocks go into stock ones whichever `return` ends the parser; one without the layers is refused."""
    last = "    return nn.Sequential(*layers)"
    early = f"    if d.get('early'):\n    {last.replace('layers', 'layers[:3]')}, save\n{last}"
    (forks / "five" / "yolo.py").write_text(FIVE.replace(last, early))
    (forks / "seven" / "yolo.py").write_text(SEVEN.replace(last, f"    if not layers:\n        return\n{last}"))
    install(parser="five.yolo")

    def change(cfg: dict) -> None:
        cfg["early"], cfg["head"][3][2] = True, "C3_CoordAtt"

    assert [sum(type(x) is CoordAtt for x in m.modules()) for m in build("five", change).model] == [0, 0, 1]
    with pytest.raises(HostError, match="seven.yolo.parse_model does not return its layers wherever it ends"):
        install(parser="seven.yolo")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([[-1, 60], 1, "BiFPN_Concat", [1]], "`from` is 60, but at this row there are 8 layers"),
        ([[-1, 2], 3, "BiFPN_Concat", [1]], "repeats must be 1, got 3"),
        ([[-1, 2], 1, "BiFPN_Concta", [1]], "Did you mean BiFPN_Concat?"),
        ([-1, 1, "SPPF_CoordAtt", [64]], "no bottleneck with a k x k convolution"),
    ],
)
def test_a_mistake_names_its_row_in_a_fork(forks: Path, row: list, message: str) -> None:
    """The errors are the same as with Ultralytics."""
    install(parser="five.yolo")

    def change(cfg: dict) -> None:
        cfg["head"][2] = row

    with pytest.raises(RowError, match=message.replace("?", r"\?")) as error:
        build("five", change)
    assert "layer 8 (head row 2)" in str(error.value)


class Halve(nn.Module):
    """A user's block."""

    def __init__(self, c1: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) / 2


def test_own_blocks_in_a_fork(forks: Path, own_blocks: None) -> None:
    """A registered block is known in forks patched before and after its registration."""

    def change(cfg: dict) -> None:
        cfg["backbone"][4][2] = "Halve"

    install(parser="five.yolo")
    register(Halve)
    install(parser="seven.yolo")
    for style in ("five", "seven"):
        assert type(build(style, change).model[4]) is Halve


def test_a_name_that_a_fork_has_taken(forks: Path) -> None:
    """A fork with its own CoordAtt keeps it in its rows; the other blocks are ours, and Ultralytics is not affected."""
    own = "\nclass CoordAtt(nn.Identity): pass\n"
    (forks / "five" / "yolo.py").write_text(FIVE + own)
    install(parser="five.yolo")
    kinds = [type(m) for m in build("five").model]
    assert BiFPN_Concat in kinds
    assert CoordAtt not in kinds
    assert "CoordAtt" in [x.__name__ for x in kinds]
    from ultralytics.nn import tasks

    assert tasks.CoordAtt is CoordAtt


def test_a_users_name_that_a_fork_has_taken(forks: Path, own_blocks: None) -> None:
    """A fork that has something else under the name of a user's block is not patched, and the error says why."""
    register(Halve)
    (forks / "five" / "yolo.py").write_text(FIVE + "\nclass Halve(nn.Module): pass\n")
    with pytest.raises(HostError, match=r"parser five.yolo at .*already has a Halve.*Nothing was changed"):
        install(parser="five.yolo")
    with pytest.raises(HostError, match="already has a Halve"):
        build("five")


@pytest.mark.parametrize(
    ("parser", "message"),
    [
        ("layers", "layers has no function parse_model"),
        ("models.nowhere", "there is no module models on Python's path"),
        ("five.nowhere", "there is no module five.nowhere on Python's path"),
        ("models/yolo.py", "parser is the name of a module to import, such as 'models.yolo', got 'models/yolo.py'"),
        (5, "parser is the name of a module to import"),
    ],
)
def test_parsers_that_cannot_be_patched(forks: Path, parser: Any, message: str) -> None:
    """A parser that cannot be patched raises an error that says why."""
    with pytest.raises(HostError, match=message):
        install(parser=parser)


def test_a_parser_that_is_a_folder(tmp_path: Path, python: Callable[..., str]) -> None:
    """A folder without `__init__.py` in the variable breaks no import and is reported; built-in modules work too."""
    write_forks(tmp_path)
    code = "import sys; sys.path.insert(0, '.'); import five, five.yolo, seven.yolo; print(type(five.__loader__))"
    names = {"YOLO_COORDBIFPN_PARSERS": "five,six,json,zipimport"}
    assert "NamespaceLoader" in python(f"import yolo_coordbifpn, json, zipimport; {code}", **names)
    out = python(f"{code}; five.yolo.nothing", check=False, **names)
    assert "YOLO_COORDBIFPN_PARSERS names five, which is a folder" in out
    assert "has no attribute 'nothing'" in out


def test_a_module_keeps_its_loader(forks: Path) -> None:
    """The hook patches a fork's module and leaves the module's loader unchanged, also when it is reloaded."""
    hook.wait_for("five.yolo")
    module = importlib.import_module("five.yolo")
    assert type(module.__loader__) is type(module.__spec__.loader) is importlib.machinery.SourceFileLoader
    assert "exec_module" not in vars(module.__loader__)
    assert len(build("five").model) == 14
    assert "CoordAtt" in vars(importlib.reload(module))
    assert len(build("five").model) == 14


ALONE = """
import sys
sys.modules["ultralytics"] = None  # as if it were not installed
sys.path.insert(0, ".")
import yolo_coordbifpn, yaml
from torch import nn
from five.yolo import Model
class Own(nn.Identity):
    def __init__(self, c1): super().__init__()
yolo_coordbifpn.register(Own)
cfg = yaml.safe_load(open("mine.yaml"))
cfg["backbone"][4][2] = "Own"
print(len(Model(cfg).model))
cfg["backbone"][4][2] = "CBAM"
Model(cfg)
"""


def test_a_fork_without_ultralytics(tmp_path: Path, python: Callable[..., str]) -> None:
    """A repository without Ultralytics works; only CBAM, which is Ultralytics' own, raises an error."""
    write_forks(tmp_path)
    out = python(ALONE, check=False, YOLO_COORDBIFPN_PARSERS="five.yolo, not.imported")
    assert out.startswith("14\n"), out
    assert "CBAM needs ultralytics, which is not installed" in out


def test_yamls_for_the_yolov5_repository(forks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are those that the script makes from the host's YOLOv5, and they build in a parser of that style."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    made = dict(importlib.import_module("make_model_yamls").repository_files())
    folder = ROOT / "model_yamls" / "yolov5-repository"
    assert sorted(made) == sorted(x.name for x in folder.glob("*.yaml"))
    assert len(made) == 15
    install(parser="five.yolo")
    for name, text in made.items():
        assert model_yaml(f"yolov5-repository/{name}").read_text(encoding="utf-8") == text
        cfg = yaml.safe_load(text)
        assert set(cfg) == {"nc", "depth_multiple", "width_multiple", "anchors", "backbone", "head"}
        if name.startswith("yolov5n"):
            model = sys.modules["five.yolo"].Model(cfg).eval()
            assert [x.shape[2:] for x in model(torch.rand(1, 3, 64, 64))] == [(8, 8), (4, 4), (2, 2)]


def test_copying_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`models copy=` copies the files that match a pattern and does not overwrite any."""
    options = ["models", "only=yolov5-repository/*-bifpn", f"copy={tmp_path / 'models'}"]
    assert main(options) == 0
    copied = sorted(x.name for x in (tmp_path / "models").iterdir())
    assert len(copied) == 10
    assert copied[0] == "yolov5l-bifpn.yaml"
    assert capsys.readouterr().out.splitlines()[0].endswith(copied[0])
    assert main(options) == 2
    assert "already has yolov5l-bifpn.yaml" in capsys.readouterr().err
    assert main(["models", "only=yolov5-repositorie/*", f"copy={tmp_path}"]) == 2
    assert main(["models", "only=yolo11-bifpn", f"copy={tmp_path}"]) == 0
    assert [x.name for x in tmp_path.glob("*.yaml")] == ["yolo11-bifpn.yaml"]
