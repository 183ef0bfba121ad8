"""Forks of Ultralytics itself: other signatures, blocks of the same name, rows with several outputs, other files."""

from __future__ import annotations

import copy
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType, SimpleNamespace
from typing import Any

import pytest
import torch
import ultralytics
from new_process import run_python
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.nn.tasks import DetectionModel

from yolo_coordbifpn import BiFPN_Concat, CoordAtt, GraftError, HostError, RowError, graft
from yolo_coordbifpn.commands import main
from yolo_coordbifpn.graph.layers import facts
from yolo_coordbifpn.patches import names as patch
from yolo_coordbifpn.patches.parser import BUILDER_NAME, _compiled, _parsed
from yolo_coordbifpn.registry import TABLE
from yolo_coordbifpn.registry.row_builder import RowBuilder

OTHER_LOAD = """
from ultralytics.nn import tasks
original, seen = tasks.BaseModel.load, []
def load(self, weights, verbose=True, strict=True):
    seen.append(strict)
    return original(self, weights, verbose)
tasks.BaseModel.load = load
import yolo_coordbifpn
from ultralytics import YOLO
stock, ours = YOLO("yolo11n.yaml").model, YOLO("yolo11n-bifpn.yaml").model
YOLO("yolo11n.yaml").model.load(stock, strict=False)
ours.load(stock, strict=False)
ours.load(ours, False, False)
stock.load(ours, strict=False)
print(seen)
"""


@pytest.mark.slow
def test_a_load_with_more_arguments(python: Callable[..., str]) -> None:
    """What a fork's `load` takes besides is passed on, with and without our blocks."""
    assert python(OTHER_LOAD, YOLO_COORDBIFPN_AUTOLOAD="0").splitlines()[-1] == str([False] * 4)


OWN_METHODS = """
import torch
from ultralytics.nn import tasks
def load(self, weights, verbose=True):
    print("load")
    state = tasks.intersect_dicts(weights.float().state_dict(), self.state_dict()) if {alone} else None
    self.load_state_dict(state, strict=False) if {alone} else super(tasks.DetectionModel, self).load(weights, verbose)
def fuse(self, *args, **kwargs):
    print("fuse")
    return super(tasks.DetectionModel, self).fuse(*args, **kwargs)
tasks.DetectionModel.load, tasks.DetectionModel.fuse = load, fuse
import yolo_coordbifpn
from yolo_coordbifpn.patches.install import status
old, new = (tasks.DetectionModel(f"yolo11n{{x}}.yaml", verbose=False).eval() for x in ("", "-coordatt-bifpn"))
new.load(old)
x = torch.rand(1, 3, 64, 64)
print("gap", max(float((m(x)[0] - old(x)[0]).norm() / old(x)[0].norm()) for m in (new, new.fuse(verbose=False))))
print(sum(type(m).__name__ == "BiFPN_Concat" for m in new.modules()), all(status()[0].values()))
tasks.DetectionModel.load = load
print(status()[0]["pretrained weights"], status()[0]["fusing"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
def test_a_fork_whose_detector_has_methods_of_its_own(alone: bool, python: Callable[..., str]) -> None:
    """A `load` or `fuse` of one class of models is replaced too, whether or not it calls that of the base class."""
    lines = python(OWN_METHODS.format(alone=alone), YOLO_COORDBIFPN_AUTOLOAD="0").splitlines()
    assert lines[0] == "load"
    assert lines[-4] == "fuse"
    assert float(lines[-3].split()[1]) < 1e-5
    assert lines[-2:] == ["0 True", "False True"]
    assert lines.count("load") == lines.count("fuse") == 1


REPLACED = """
import ultralytics.nn.tasks as tasks
import yolo_coordbifpn
from ultralytics import YOLO
YOLO("yolo11n-bifpn.yaml")
def parse_model(d, ch, verbose=True): raise TypeError("mine")
tasks.parse_model = parse_model
try:
    YOLO("yolo11n-bifpn.yaml")
except yolo_coordbifpn.HostError as error:
    print(error)
"""


def test_a_parser_replaced_later(python: Callable[..., str]) -> None:
    """The error says that other code has replaced the parser."""
    assert "other code has replaced ultralytics.nn.tasks.parse_model" in python(REPLACED)


# Rows with several outputs --------------------------------------------------------------------------------------------


def test_channels_of_a_backbone_with_several_outputs() -> None:
    """If a row has several outputs, `ch` has all their channels, and sources count outputs."""
    cfg = {"backbone": [[-1, 1, "starnet", []]], "head": [[[-1, 3], 1, "BiFPN_Concat", [1]]]}
    channels, _ = RowBuilder(TABLE).resolve(BiFPN_Concat, cfg, [0, 16, 32, 64, 128], 1, [-1, 3], [1])
    assert channels == 128 + 64


def counted(name: str) -> Any:
    """Build a model whose first row counts as five layers, as in forks with a backbone of several outputs."""
    model = DetectionModel(name, verbose=False)
    for layer in list(model.model)[1:]:
        layer.i += 4
    return model


@pytest.mark.slow
def test_layers_that_are_counted_in_another_way(monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture) -> None:
    """A graft and a drawing say so; loaded weights are not claimed to differ."""
    from yolo_coordbifpn.grafting import graft as module

    counts = r"counts layer 0 \(Conv\), which has several outputs, as several layers"
    with pytest.raises(GraftError, match=counts):
        facts(counted("yolo11n.yaml"))
    cfg = copy.deepcopy(YOLO("yolo11n.yaml").model.yaml)
    cfg["head"][-1][0] = [x + 4 for x in cfg["head"][-1][0]]  # read as rows, there are no such layers
    monkeypatch.setattr(module, "build", lambda given: counted("yolo11n.yaml"))
    with pytest.raises(GraftError, match=counts):
        graft(cfg)
    counted("yolo11n-bifpn.yaml").load(DetectionModel("yolo11n.yaml", verbose=False))
    assert "the initial output was not compared with the pretrained model's: the layers cannot be run" in log.text
    assert "differs from the pretrained model's" not in log.text


# Other YAMLs ----------------------------------------------------------------------------------------------------------


def test_rows_in_another_section() -> None:
    """Rows under `neck` are named as what is wrong, by a graft and by a row of a block."""
    cfg = YOLO("yolo11n.yaml").model.yaml
    split = {**cfg, "neck": cfg["head"][:-1], "head": cfg["head"][-1:]}
    with pytest.raises(GraftError, match="has rows under neck too"):
        graft(split)
    message = "there are rows under `neck`: BiFPN_Concat is built where all rows are under `backbone` and `head`"
    for section in ("neck", "head"):  # a fork that reads the rows under `neck` counts layers in another way
        given = copy.deepcopy(split)
        given[section].insert(0, [[-1, 6], 1, "BiFPN_Concat", [1]])
        with pytest.raises(RowError, match=message):
            DetectionModel(given, verbose=False)


@pytest.mark.parametrize("name", ["yolo11-bifpn.yaml", "yolo11n-bifpn.yaml"])
def test_a_file_of_the_fork_with_one_of_our_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    """The fork's file is built, and a warning says so."""
    (source,) = (x for x in patch.stock(tasks) if x.name == "yolo11.yaml")
    own = tmp_path / "yolo11-bifpn.yaml"
    own.write_text(source.read_text())
    original = patch.stock
    monkeypatch.setattr(patch, "stock", lambda host: [*original(host), own])
    monkeypatch.setattr(tasks, "check_yaml", lambda file, **_: str(own) if Path(file).name == own.name else "")
    cfg = {**YOLO(str(own)).model.yaml, "yaml_file": name}
    log.clear()
    patch.report_file(tasks, cfg)
    (warning,) = log.messages
    assert f"{name} is this Ultralytics' own file {own}, which takes precedence" in warning


def test_grey_images(log: pytest.LogCaptureFixture) -> None:
    """A model of one channel is compared with its weights for colours on a grey image."""
    old = DetectionModel("yolo11n.yaml", verbose=False)
    cfg = {**copy.deepcopy(tasks.yaml_model_load("yolo11n-bifpn.yaml")), "channels": 1}
    new = DetectionModel(cfg, ch=1, verbose=False)
    new.load(old)
    assert "what the head reads differs by" in log.text


# Parsers --------------------------------------------------------------------------------------------------------------

NESTED = """
def parse_model(d, ch):
    layers = []
    for i, (f, n, m, args) in enumerate(d["backbone"] + d["head"]):
        if m == "a":
            if n > 1:
                c2 = args[0]
            else:
                c2 = ch[f]
        elif m == "b":
            c2 = args[0]
        else:
            c2 = ch[f]
        layers.append(c2)
    return layers
"""


def code_of(source: str) -> CodeType:
    """Compile a module and return the code of its `parse_model`."""
    scope: dict[str, Any] = {}
    exec(compile(source, "nested", "exec", dont_inherit=True), scope)  # noqa: S102
    return scope["parse_model"].__code__


def test_a_chain_inside_a_branch() -> None:
    """The branch is added to the chain of the loop, not to one inside a branch; else the error names the lines."""
    assert "resolve" in _compiled(NESTED, "nested", code_of(NESTED)).co_names
    second = "        if m:\n            pass\n        else:\n            c2 = ch[f]\n"
    two = NESTED.replace("        layers.append", f"{second}        layers.append")
    with pytest.raises(HostError, match=r"3 chains that end in .*, at the lines 9, 13, 17; expected one of each"):
        _compiled(two, "nested", code_of(two))


def patched(source: str) -> Callable[..., Any]:
    """Return the patched `parse_model` of a module."""
    return FunctionType(_compiled(source, "nested", code_of(source)), {BUILDER_NAME: RowBuilder(TABLE)})


def test_a_parser_with_another_parameter() -> None:
    """The model YAML may have another name, or be no dict: then rows of blocks alone are refused."""
    rows = {"backbone": [[-1, 2, "b", [8]]], "head": [[-1, 1, CoordAtt, []]]}
    renamed = NESTED.replace("(d, ch)", "(model, ch)").replace("d[", "model[")
    assert patched(renamed)(rows, [3]) == [8, 3]
    with pytest.raises(HostError, match="parse_model has no parameter for the model YAML"):
        patched(renamed.replace("(model, ch)", "(**kwargs)"))
    parse = patched(NESTED.replace('["', ".").replace('"]', ""))
    assert parse(SimpleNamespace(backbone=rows["backbone"], head=[]), [3]) == [8]
    with pytest.raises(HostError, match="CoordAtt needs a model YAML as a dict, this parser got SimpleNamesp"):
        parse(SimpleNamespace(**rows), [3])


@pytest.mark.parametrize(
    "other",
    [
        "import re\nclass A:\n    def parse_model(self):\n        pass\n",
        "@staticmethod\ndef other():\n    return '''\ndef at the margin\n'''\n",
        "TEXT = '''\ndef none:\n'''\nif TEXT:\n    def other():\n        pass\n",
        "async def other(\n    a,\n):\n    pass\n# def\n",
    ],
)
@pytest.mark.parametrize("text", ["pass", "'''\nclass none:\n    '''"])
def test_what_stands_beside_the_parser(other: str, text: str) -> None:
    """Whatever else the file of the parser holds, the code is that of the whole file, with its lines."""
    parser = NESTED.replace("layers = []", f"{text}; layers = []")
    source = f"from __future__ import annotations\n{other}{parser}{other}"
    code = code_of(source)
    _, function = _parsed(source, "nested", code)
    assert function.lineno == code.co_firstlineno == source.split("\n").index("def parse_model(d, ch):") + 1
    assert "resolve" in _compiled(source, "nested", code).co_names
    with pytest.raises(HostError, match="not what its source file says"):
        _parsed(source.replace("n > 1", "n > 2"), "nested", code)


# The commands ---------------------------------------------------------------------------------------------------------

COMMAND = Path(sysconfig.get_path("scripts")) / "yolo-coordbifpn"


@pytest.mark.skipif(not COMMAND.is_file(), reason="the package is not installed with its command")
def test_a_fork_in_the_working_folder(tmp_path: Path) -> None:
    """The installed command takes the fork in the working folder, as `python train.py` does there."""
    (tmp_path / "ultralytics").symlink_to(Path(ultralytics.__file__).parent)
    done = run_python(str(COMMAND), "check", folder=tmp_path)
    assert str(tmp_path / "ultralytics") in done.stdout, done.stderr


def test_check_with_a_fork_alone(tmp_path: Path, python: Callable[..., str]) -> None:
    """Where a fork with its own parser stands alone, a missing Ultralytics is no fault."""
    (tmp_path / "mine.py").write_text(NESTED)
    code = "import sys; sys.modules['ultralytics'] = None; from yolo_coordbifpn.commands import main; main(['check'])"
    out = python(code, YOLO_COORDBIFPN_PARSERS="mine")
    lines = [" ".join(x.split()) for x in out.splitlines()]
    assert "ultralytics missing, which the parsers below do not need" in lines
    assert "parser: mine holds" in lines
    assert not [x for x in lines if x.startswith("conflict ") and "start-up hook" not in x]


OPTIONAL = """
import ultralytics.utils.callbacks as callbacks
del callbacks.add_integration_callbacks
import ultralytics.utils.nms as nms
def non_max_suppression(prediction, *args, **kwargs): return prediction
nms.non_max_suppression = non_max_suppression
from yolo_coordbifpn.commands import main
main(["check"])
"""


def test_check_names_the_patches_that_are_not_possible(python: Callable[..., str]) -> None:
    """What a host lacks is listed with its reason; the patches that every host has hold."""
    lines = [" ".join(x.split()) for x in python(OPTIONAL, YOLO_COORDBIFPN_AUTOLOAD="0").splitlines()]
    start = "not made, the others work without it:"
    assert f"patch: trainer callbacks {start} ultralytics.utils.callbacks has no add_integration_callbacks" in lines
    assert any(x.startswith(f"patch: adaptive NMS {start} ") for x in lines)
    assert "patch: pretrained weights holds" in lines


def test_check_names_the_blocks_that_the_host_has_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A block of the fork with the name of one of ours is listed, and is no fault."""
    monkeypatch.setattr(tasks, "CoordAtt", torch.nn.Identity)
    main(["check"])
    out = capsys.readouterr().out
    assert "ultralytics.nn.tasks already has a CoordAtt (torch.nn.modules.linear)" in out
    assert not [x for x in out.splitlines() if x.startswith("conflict ") and "CoordAtt" in x]


def test_a_row_with_the_forks_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that names the fork's own block of a name of ours builds that block."""

    class CoordAtt(torch.nn.Identity):
        pass

    monkeypatch.setattr(tasks, "CoordAtt", CoordAtt)
    cfg = tasks.yaml_model_load("yolo11n.yaml")
    cfg["head"] = [[-1, 1, "CoordAtt", []], [[-1], 1, "Detect", ["nc"]]]
    assert type(DetectionModel(cfg, verbose=False).model[11]) is CoordAtt
