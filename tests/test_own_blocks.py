"""Blocks of users, as they write them: how they start, fuse, are found, tried, defined again and logged."""

from __future__ import annotations

import copy
import importlib
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import gap, inserted, scrambled
from new_process import run_python
from test_declared_blocks import Gate
from torch import Tensor, nn
from ultralytics.nn import tasks
from ultralytics.utils import DEFAULT_CFG

from yolo_coordbifpn import CoordAtt, block, graft, register
from yolo_coordbifpn.blocks.rezero import ReZero
from yolo_coordbifpn.errors import RowError, WeightsError
from yolo_coordbifpn.graph.rows import KEY
from yolo_coordbifpn.graph.starts import rezeros
from yolo_coordbifpn.inspection.effects import effects
from yolo_coordbifpn.registry import TABLE
from yolo_coordbifpn.registry.environment import VARIABLE, load

pytestmark = pytest.mark.usefixtures("quick_builds")


def built(cfg: dict[str, Any]) -> nn.Module:
    """Build a detector."""
    return tasks.DetectionModel(copy.deepcopy(cfg), verbose=False)


def stock(name: str = "yolo11n.yaml") -> nn.Module:
    """Build a stock model with weights as after a training."""
    torch.manual_seed(0)
    return scrambled(tasks.DetectionModel(name, verbose=False))


class GainGate(nn.Module):
    """A gate that is the identity by a plain number, and by a buffer that is not saved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.gain = 1.0
        self.register_buffer("shift", torch.ones(1), persistent=False)

    def neutral_(self) -> None:
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)
        self.gain = 2.0
        self.shift.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x.mean((2, 3), keepdim=True)).sigmoid() * self.gain + self.shift


class TwoGate(nn.Module):
    """A gate of its first input by its second."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1))

    def neutral_(self) -> None:
        nn.init.zeros_(self.gamma)

    def forward(self, xs: list[Tensor]) -> Tensor:
        return xs[0] * (1 + self.gamma * xs[1].mean((2, 3), keepdim=True).sigmoid().mean(1, keepdim=True))


def test_a_neutral_state_outside_the_state_dict(own_blocks: None) -> None:
    """Numbers and unsaved buffers that `neutral_()` sets are kept, also where the host builds the model again."""
    register(GainGate)
    old = stock()
    new = built(inserted(old.yaml, 10, module="GainGate"))
    new.load(old, verbose=False)
    assert gap(new, old) < 1e-5
    again = built(new.yaml)
    again.load(new, verbose=False)
    assert gap(again, old) < 1e-5
    assert (again.model[11].gain, float(again.model[11].shift)) == (2.0, 0.0)


def test_a_block_of_several_inputs_is_made_neutral(own_blocks: None) -> None:
    """It is the identity if it outputs the first of its inputs."""
    register(TwoGate, lambda channels, args: (channels[0], [channels, *args]))
    old = stock()
    cfg = inserted(old.yaml, 10, module="TwoGate")
    cfg["backbone"][11][0] = [-1, 9]
    new = built(cfg)
    new.load(old, verbose=False)
    assert float(new.model[11].gamma.detach()) == 0
    assert gap(new, old) < 1e-5


class Unevaluated:
    """As `__signature__` of a block, fails as an annotation does that names what is only imported for type checkers."""

    def __get__(self, instance: object, owner: type) -> None:
        raise NameError("name 'Sequence' is not defined")


class Composite(nn.Module):
    """A block that has one of ours inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = CoordAtt(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x)


def test_a_block_with_one_of_ours_inside(own_blocks: None) -> None:
    """Inside bottlenecks it is one block, which starts as the identity."""
    register(Composite)
    old = stock()
    new = built(graft("yolo11n.yaml", coordatt="bottleneck", attention="Composite", bifpn="none"))
    new.load(old)
    assert gap(new, old) < 1e-5
    assert {type(m.block) for m in new.modules() if isinstance(m, ReZero)} == {Composite}


class Dropped(CoordAtt):
    """A subclass of ours with other arguments."""

    def __init__(self, channels: int, p: float = 0.0) -> None:
        super().__init__(channels)
        self.p = p


def test_a_subclass_with_other_arguments(own_blocks: None) -> None:
    """Its row is left as it was written, so that the model can be rebuilt; the gain comes with the weights."""
    register(Dropped)
    old = stock()
    new = built(inserted(tasks.yaml_model_load("yolo11n.yaml"), 10, module="Dropped", args=[0.5]))
    new.load(old)
    rebuilt = built(new.yaml)
    rebuilt.load(new)
    assert new.yaml["backbone"][11] == [-1, 1, "Dropped", [0.5]]
    assert [m.p for m in rebuilt.modules() if isinstance(m, Dropped)] == [0.5]
    assert gap(rebuilt, old) < 1e-5


@pytest.mark.parametrize("name", ["SE", "CBAM"])
def test_a_users_own_block_of_a_library_name(name: str, tmp_path: Path) -> None:
    """A block that the user names in the environment comes before ours of the same name."""
    (tmp_path / "mine.py").write_text(
        f"from torch import nn\nfrom yolo_coordbifpn import block\n@block()\nclass {name}(nn.Module):\n"
        "    def __init__(self, channels):\n        super().__init__()\n"
        "        self.conv = nn.Conv2d(channels, channels, 1)\n"
        "    def forward(self, x):\n        return self.conv(x)\n"
    )
    code = f"""
from ultralytics import YOLO
print(type(YOLO("yolo11n-{name.lower()}.yaml").model.model[9]).__module__)
"""
    environment = {"YOLO_COORDBIFPN_BLOCKS": "mine", "PYTHONPATH": str(tmp_path)}
    done = run_python("-c", code, folder=tmp_path, **environment)
    assert done.stdout.split()[-1] == "mine", done.stderr[-2000:]


def test_a_signature_that_cannot_be_evaluated(own_blocks: None) -> None:
    """A block is built without it, and an error of its row still says what is wrong."""
    register(Gate)
    Gate.__signature__ = Unevaluated()  # type: ignore[attr-defined]
    try:
        cfg = inserted(stock().yaml, 9, module="Gate")
        assert type(built(cfg).model[10]) is Gate
        cfg["backbone"][10][3] = [1, 2, 3, 4]
        with pytest.raises(ValueError, match=r"Gate.*TypeError: .*__init__\(\) takes"):
            built(cfg)
    finally:
        del Gate.__signature__  # type: ignore[attr-defined]


@pytest.mark.slow
def test_rezeros_move_with_their_rows(own_blocks: None) -> None:
    """A grafted model names its `ReZero` by the new indices; weights that are refused leave the model as it was."""
    register(Gate)
    old = stock()
    new = tasks.DetectionModel("yolo11n-gate.yaml", verbose=False)
    new.load(old, verbose=False)
    assert new.yaml[KEY]["rezero"] == ["9"]
    moved = graft(new.yaml, coordatt="P3", bifpn="none", levels="P2")
    assert moved[KEY] == {"rezero": ["10"], "levels": "P2"}
    other = built(moved)
    assert rezeros(other.model) == ["10"]
    other.load(new, verbose=False)
    assert gap(other, old) < 1e-5

    larger = tasks.DetectionModel("yolo11s-gate.yaml", verbose=False)
    with pytest.raises(WeightsError):
        larger.load(new, verbose=False)
    assert rezeros(larger.model) == []


def test_a_block_fuses_itself_once(own_blocks: None) -> None:
    """Old hosts fuse a model for each predictor."""

    class Scaled(nn.Module):
        """A convolution with a learned factor, which it folds into its weights."""

        def __init__(self, channels: int) -> None:
            super().__init__()
            self.conv, self.factor = nn.Conv2d(channels, channels, 1), 2.0

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) * self.factor

        def fuse(self) -> None:
            self.conv.weight.data *= 2.0
            self.conv.bias.data *= 2.0
            self.factor = 1.0

    register(Scaled)
    model = built(inserted(stock().yaml, 10, module="Scaled")).eval()
    expected = copy.deepcopy(model)
    model.fuse(verbose=False)
    copy.deepcopy(model).fuse(verbose=False)
    model.fuse(verbose=False)
    assert gap(model, expected) < 1e-4


def test_parts_with_the_names_of_our_methods(own_blocks: None) -> None:
    """A block may call its layers as it likes: only methods of its class are called."""

    class Split(nn.Module):
        """A gate whose convolution and criterion have the names of methods."""

        def __init__(self, channels: int) -> None:
            super().__init__()
            self.fuse = nn.Conv2d(channels, channels, 1)
            self.neutral_, self.loss = nn.Identity(), nn.MSELoss()

        def forward(self, x: Tensor) -> Tensor:
            return x * self.neutral_(self.fuse(x)).sigmoid()

    register(Split)
    old, model = stock(), built(inserted(stock().yaml, 10, module="Split"))
    model.load(old, verbose=False)
    assert rezeros(model.model) == ["11"]
    assert gap(model, old) < 1e-5
    assert gap(copy.deepcopy(model).eval().fuse(verbose=False), old) < 1e-4
    batch = {"img": torch.rand(1, 3, 64, 64), "bboxes": torch.rand(1, 4), "cls": torch.zeros(1, 1)}
    model.args = SimpleNamespace(**vars(DEFAULT_CFG))
    assert model.train().loss({**batch, "batch_idx": torch.zeros(1)})[0].isfinite().all()


def test_blocks_that_need_even_or_several_cells(own_blocks: None) -> None:
    """Space to depth halves maps of even sides alone, and an instance normalisation needs more than one cell."""

    class ToDepth(nn.Module):
        """Space to depth."""

        def __init__(self, channels: int) -> None:
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            corners = [x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
            return torch.cat(corners, 1)

    register(ToDepth, lambda channels, args: (4 * channels, [channels, *args]))
    register(type("Norm", (nn.InstanceNorm2d,), {}))
    cfg = {
        "nc": 2,
        "backbone": [[-1, 1, "ToDepth", []], [-1, 1, "Norm", []], [-1, 1, "Conv", [16, 3, 2]]],
        "head": [[[2], 1, "Detect", ["nc"]]],
    }
    assert built(cfg).stride.tolist() == [4]


def test_arguments_are_not_changed_by_the_trial(own_blocks: None) -> None:
    """A constructor that changes its list of arguments gets the list of the row."""

    class Chain(nn.Module):
        """Convolutions by a list of widths."""

        def __init__(self, channels: int, widths: list[int]) -> None:
            super().__init__()
            widths.insert(0, channels)
            widths.append(channels)
            self.convs = nn.Sequential(*(nn.Conv2d(a, b, 1) for a, b in itertools.pairwise(widths)))

        def forward(self, x: Tensor) -> Tensor:
            return self.convs(x)

    register(Chain)
    model = built(inserted(tasks.yaml_model_load("yolo11n.yaml"), 4, module="Chain", args=[[16]]))
    assert [(m.in_channels, m.out_channels) for m in model.model[5].convs] == [(128, 16), (16, 128)]


def test_a_name_that_ends_like_another_block(tmp_path: Path) -> None:
    """`My_SE` is the user's block, not a block inside a stock one."""
    (tmp_path / "mine.py").write_text(
        "from torch import nn\nfrom yolo_coordbifpn import block\n\n"
        "@block()\nclass My_SE(nn.Conv2d):\n    def __init__(self, c): super().__init__(c, c, 1)\n"
    )
    code = """
from ultralytics.nn import tasks
cfg = tasks.yaml_model_load("yolo11n-se.yaml")
assert type(tasks.DetectionModel(cfg, verbose=False).model[9]).__name__ == "SE"
cfg["backbone"][9] = [-1, 1, "My_SE", []]
print(type(tasks.DetectionModel(cfg, verbose=False).model[9]).__name__)
"""
    environment = {"YOLO_COORDBIFPN_BLOCKS": "mine", "PYTHONPATH": str(tmp_path)}
    done = run_python("-c", code, folder=tmp_path, **environment)
    assert done.stdout.split()[-1] == "My_SE", done.stderr[-2000:]


def test_a_block_that_the_host_has_imported(own_blocks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork may import its declared blocks into the module of its parser; rows of them are those of a block."""
    (tmp_path / "fork_blocks.py").write_text(
        "from torch import nn\nfrom yolo_coordbifpn import block\n@block()\nclass Imported(nn.Conv2d):\n"
        "    def __init__(self, channels): super().__init__(channels, channels, 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(VARIABLE, "fork_blocks")
    cls = importlib.import_module("fork_blocks").Imported
    monkeypatch.setitem(vars(tasks), "Imported", cls)
    assert type(built(inserted(stock().yaml, 10, module="Imported")).model[11]) is cls


@pytest.mark.parametrize("name", ["Fast_CoordAtt", "CoordAtt_X", "X_CoordAtt_X"])
def test_a_name_that_ends_like_another_block_inside_a_stock_block(
    name: str, own_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block whose name follows the stock block's is the one that goes into it."""

    class Own(nn.Conv2d):
        """The user's block."""

        def __init__(self, channels: int) -> None:
            super().__init__(channels, channels, 1)

    for each in {name, "CoordAtt_X"}:
        register(type(each, (Own,), {}))
    monkeypatch.setenv(VARIABLE, "nowhere")
    cfg = stock().yaml
    cfg["backbone"][2][2] = f"C3k2_{name}"
    assert {type(m).__name__ for m in built(cfg).modules() if isinstance(m, Own)} == {name}
    cfg["backbone"][2][2] = f"Other_{name}"
    message = f"no stock block Other for {name} to go into. YOLO_COORDBIFPN_BLOCKS names nowhere: ModuleNotFoundError: "
    with pytest.raises(RowError, match=message):
        built(cfg)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("from .eca import Eca", ""),
        ("from .eca import Plain; import yolo_coordbifpn; yolo_coordbifpn.register(Plain)", ""),
        ("from .eca import Plain", "which declares no block with @block() and registers none; its classes are Plain"),
        ("from yolo_coordbifpn import CoordAtt", "registers none; its classes are none"),
        ("", "registers none; its classes are none"),
    ],
)
def test_a_package_named_as_a_whole(
    text: str, problem: str, own_blocks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It brings the declared classes that it imports from its own modules; if there are none, the reason says so."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "__init__.py").write_text(text)
    (tmp_path / "whole" / "eca.py").write_text(
        "from torch.nn import Conv2d\nfrom yolo_coordbifpn import block\n"
        "class Plain(Conv2d):\n    def __init__(self, c): super().__init__(c, c, 1)\n"
        "@block()\nclass Eca(Plain): ...\n"
    )
    try:
        for _ in range(2):  # also when it has been imported
            found = load("whole", register)
            assert problem in found if problem else not found
        assert bool(TABLE.named("Eca") or TABLE.named("Plain")) == (not problem)
    finally:
        for name in ("whole", "whole.eca"):
            sys.modules.pop(name, None)


def test_a_cell_is_run_again(own_blocks: None) -> None:
    """A class that is defined again, as in a notebook, takes the place of the first in table, variants and models."""
    cell = "@block()\nclass Note(nn.Conv2d):\n    size = {}\n    def __init__(self, c): super().__init__(c, c, 1)"
    for size in (1, 2):
        scope = {"__name__": "notebook", "block": block, "nn": nn}
        exec(cell.format(size), scope)  # noqa: S102
        register(scope["Note"])
        model = tasks.DetectionModel("yolo11n-note.yaml", verbose=False)
        assert model.model[9].size == size
    assert [x.size for x in TABLE if x.__name__ == "Note"] == [2]
    with pytest.raises(ValueError, match="a block named Note is already registered: notebook.Note"):
        register(type("Note", (nn.Identity,), {}))


def test_the_log_leaves_out_what_is_no_attention(own_blocks: None) -> None:
    """A block of several inputs, or one that outputs another size, is never the identity and ends no log."""
    register(TwoGate, lambda channels, args: (channels[0], [channels, *args]))
    TABLE.variants["twogate"] = TwoGate
    cfg = inserted(graft("yolo11n.yaml"), 11, module="TwoGate")
    cfg["backbone"][12][0] = [-1, 10]
    found = effects(built(cfg).eval(), torch.rand(1, 3, 64, 64))
    assert [x.name for x in found] == ["CoordAtt"]
