"""Names of model YAMLs and of blocks: which file a name stands for, what the log says, what is suggested."""

from __future__ import annotations

import logging
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.nn.tasks import DetectionModel

from yolo_coordbifpn import CoordAtt, graft, model_yaml
from yolo_coordbifpn.commands import main
from yolo_coordbifpn.compare.provenance import model_file
from yolo_coordbifpn.errors import GraftError, RowError
from yolo_coordbifpn.grafting import names
from yolo_coordbifpn.grafting.names import canonical, split
from yolo_coordbifpn.grafting.variant import Variant
from yolo_coordbifpn.patches.hook import is_on
from yolo_coordbifpn.patches.training_log import SETTING


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "coordatt-bifpn"),
        ({"coordatt": "P3"}, "coordatt-P3-bifpn"),
        ({"coordatt": "P3, N5", "bifpn": "none"}, "coordatt-P3-N5"),
        ({"coordatt": "bottleneck", "attention": "SE"}, "se-bottleneck-bifpn"),
        ({"coordatt": "none", "edge": False}, "bifpn-noedge"),
        ({"coordatt": "none", "bifpn": "add", "repeats": 2, "width": 128}, "bifpn-add-r2-w128"),
        ({"coordatt": "none", "bifpn": "add", "repeats": 3, "width": 256, "edge": True}, "bifpn-add"),
        ({"coordatt": "none", "bifpn": "none", "neck": "fpn"}, "fpn"),
    ],
)
def test_the_name_of_a_variant_has_what_is_not_default(options: dict[str, Any], name: str) -> None:
    """Two variants that differ never write the same file by default."""
    assert Variant(**options).name == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 2}, "repeats= has no effect with bifpn=concat; it needs bifpn=add"),
        ({"width": 64}, "width= has no effect with bifpn=concat; it needs bifpn=add"),
        ({"bifpn": "none", "edge": True}, "edge= has no effect with bifpn=none"),
        ({"coordatt": "none", "attention": "SE"}, "attention=SE has no effect with coordatt=none"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], message: str) -> None:
    """An option that would be ignored is an error, from Python and from the command line."""
    with pytest.raises(GraftError, match=message):
        Variant(**options)


@pytest.mark.slow
def test_the_default_file_of_a_graft_is_no_shipped_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, quick_builds: None
) -> None:
    """`graft coordatt=P3` writes a name of its own, and leaves the shipped model of the plain name alone."""
    monkeypatch.chdir(tmp_path)
    assert main(["graft", "model=yolov10n.yaml", "coordatt=P3"]) == 0  # a file of one scale
    assert [x.name for x in tmp_path.iterdir()] == ["yolov10n-coordatt-P3-bifpn.yaml"]
    assert tasks.check_yaml("yolov10n-coordatt-bifpn.yaml") == str(model_yaml("yolov10n-coordatt-bifpn"))
    assert main(["graft", "model=yolov10n.yaml", "repeats=2"]) == 2
    assert "repeats= has no effect" in capsys.readouterr().err


@pytest.mark.slow
def test_the_scale_that_was_asked_for_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, quick_builds: None
) -> None:
    """A graft of yolo11s.yaml in a file whose name has no scale builds scale s, from the command and from Python."""
    monkeypatch.chdir(tmp_path)
    assert main(["graft", "model=yolo11s.yaml", "bifpn=none", "save=big.yaml"]) == 0
    assert "its scale is s" in capsys.readouterr().out
    text = Path("big.yaml").read_text(encoding="utf-8")
    assert list(yaml.safe_load(text)["scales"]) == ["s", "n", "m", "l", "x"]
    expected = sum(p.numel() for p in YOLO("yolo11s-coordatt.yaml").model.parameters())
    cfg = graft("yolo11s.yaml", bifpn="none")
    Path("dict.yaml").write_text(yaml.safe_dump(cfg, sort_keys=False), encoding="utf-8")
    for file in ("big.yaml", "dict.yaml"):
        assert sum(p.numel() for p in YOLO(file).model.parameters()) == expected


def test_words_of_a_name_in_any_order() -> None:
    """The words of a variant are understood in another order and before the task, with the scale kept."""
    assert canonical("yolo11n-bifpn-coordatt.yaml") == "yolo11n-coordatt-bifpn.yaml"
    assert canonical("yolo11x-bifpn-add-se-seg.yaml") == "yolo11x-seg-se-bifpn-add.yaml"
    assert split("yolo11n.yaml") is None
    assert split("yolo11-coordatt-cbam.yaml") is None
    assert split("coordatt.yaml") is None
    model = YOLO("yolo11s-coordatt-seg.yaml")
    assert model.task == "segment"
    assert model.model.yaml["scale"] == "s"
    assert sum(isinstance(m, CoordAtt) for m in model.model.modules()) == 1
    assert tasks.check_yaml("yolo11-bifpn-coordatt.yaml") == str(model_yaml("yolo11-coordatt-bifpn"))


@pytest.mark.parametrize(
    ("name", "stock", "word"),
    [
        ("yolo11n-coordatt.yaml", None, None),
        ("yolo11n-coordatt-bifpn.yaml", "yolo11n-coordatt.yaml", "bifpn"),
        ("yolo11n-pose-coordatt.yaml", "yolo11n-pose.yaml", "coordatt"),
        ("yolov8n-bifpn-coordatt.yaml", "yolov8n.yaml", "coordatt-bifpn"),
    ],
)
def test_a_file_of_a_fork_that_is_named_like_a_variant(
    name: str, stock: str | None, word: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork's own yolo11-coordatt.yaml is a stock model; in the names of its other models the word is a variant."""
    theirs = {*names._stock_names(), "yolo11-coordatt.yaml", "yolo11-eca.yaml"}
    monkeypatch.setattr(names, "_stock_names", lambda: theirs)
    monkeypatch.setattr(names, "_stock_words", names._stock_words.__wrapped__)
    found = split(name)
    assert (found and found[0], found and found[1].name) == (stock, word)
    assert "No block eca is known" in " ".join(names.missed_blocks("yolov8n-eca.yaml"))
    assert not names.missed_blocks("yolo11n-eca-bifpn.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "/no/such/yolo11x-coordatt.yaml",
            r"such.yolo11x-coordatt.yaml does not exist.* write yolo11x-coordatt.yaml",
        ),
        (
            "yolo11n-eca-bifpn.yaml",
            "No block eca is known; if it is your own, name its module in YOLO_COORDBIFPN_BLOCKS",
        ),
        ("yolo11x-cordatt-seg.yaml", "Did you mean yolo11x-seg-coordatt.yaml"),
    ],
)
def test_names_that_do_not_exist(name: str, message: str) -> None:
    """A missing path is called one, and a suggestion keeps task and scale."""
    with pytest.raises(FileNotFoundError, match=message):
        YOLO(name)


@pytest.mark.parametrize("name", ["mine-bifpn.yaml", "yolo11n-cls-bifpn.yaml", "yolo99n-bifpn.yaml"])
def test_a_model_with_a_name_that_has_no_file_is_built(name: str, log: Any) -> None:
    """A checkpoint may have the name of a user's file, or of a model that only another host has; nothing is logged."""
    DetectionModel({**tasks.yaml_model_load("yolo11n-bifpn.yaml"), "yaml_file": name})
    assert not [x for x in log.messages if "yolo_coordbifpn:" in x]


@pytest.mark.slow
def test_the_log_says_which_file_a_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Any) -> None:
    """A build logs the file; a local file with the name of another model is warned about; a quiet build is quiet."""
    monkeypatch.chdir(tmp_path)
    name = "yolo11n-coordatt-bifpn.yaml"
    DetectionModel(name, verbose=False)
    assert not log.messages
    DetectionModel(name)
    assert f"yolo_coordbifpn: {name} is {model_yaml('yolo11-coordatt-bifpn')}" in log.messages
    log.clear()
    cfg = tasks.yaml_model_load(name)
    cfg["head"] = tasks.yaml_model_load("yolo11n-coordatt.yaml")["head"]  # as in a checkpoint of another model
    DetectionModel(cfg)
    assert not [x for x in log.messages if "yolo_coordbifpn:" in x]
    shutil.copy(model_yaml("yolo11-coordatt-bifpn"), "yolo11-coordatt-bifpn.yaml")  # the same model
    DetectionModel(name)
    shutil.copy(model_yaml("yolo11-coordatt"), "yolo11-coordatt-bifpn.yaml")
    assert not [x for x in log.records if x.levelno >= logging.WARNING]
    DetectionModel(name)
    (warning,) = [x.getMessage() for x in log.records if x.levelno >= logging.WARNING]
    assert str(tmp_path / "yolo11-coordatt-bifpn.yaml") in warning
    assert "takes precedence" in warning


@pytest.mark.parametrize(
    ("module", "block"),
    [
        ("CoordAttention", "CoordAtt"),
        ("CoordinateAttention", "CoordAtt"),
        ("CA", "CoordAtt"),
        ("BiFPN", "BiFPN_Concat"),
        ("Concat_BiFPN", "BiFPN_Concat"),
    ],
)
def test_names_of_the_fields_forks(module: str, block: str) -> None:
    """A row with another project's name for a block gets the name here."""
    cfg = yaml.safe_load(model_yaml("yolo11-coordatt").read_text(encoding="utf-8"))
    cfg["backbone"][9] = [-1, 1, module, []]
    with pytest.raises(RowError, match=f"unknown module {module}. Did you mean {block}?"):
        DetectionModel(cfg, verbose=False)


def test_the_whole_message_of_an_unknown_module() -> None:
    """What to do about an unknown block is in the text of the error, not in a note that notebooks hide."""
    cfg = yaml.safe_load(model_yaml("yolo11-coordatt").read_text(encoding="utf-8"))
    cfg["backbone"][9] = [-1, 1, "Whatever", []]
    with pytest.raises(KeyError) as caught:
        DetectionModel(cfg, verbose=False)
    assert "YOLO_COORDBIFPN_BLOCKS=my_package.blocks:Whatever" in str(caught.value)
    assert "layer 9 (backbone row 9)" in str(caught.value)


def test_an_attention_that_nobody_knows() -> None:
    """`attention=` with an unknown name lists the registered blocks."""
    with pytest.raises(
        GraftError, match="attention=ECA: no block of this name is known. Known are CoordAtt, CBAM, SE;"
    ):
        graft("yolo11n.yaml", attention="ECA")


def test_a_list_of_one_input() -> None:
    """A row `[[-1], 1, CoordAtt, []]` says to drop the brackets."""
    cfg = yaml.safe_load(model_yaml("yolo11-coordatt").read_text(encoding="utf-8"))
    cfg["backbone"][9] = [[-1], 1, "CoordAtt", []]
    with pytest.raises(RowError, match="takes one input, got a list: write its index without brackets"):
        DetectionModel(cfg, verbose=False)


SWITCH = """
import sys
print("yolo_coordbifpn_startup" in {type(x).__module__ for x in sys.meta_path})
"""


@pytest.mark.parametrize(("value", "on"), [("0", False), ("False", False), ("no", False), ("off", False), ("on", True)])
def test_switches_take_the_usual_words(
    value: str, on: bool, python: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment variables are switched off by 0, false, no and off, in any case."""
    assert python(SWITCH, YOLO_COORDBIFPN_AUTOLOAD=value).strip() == str(on)
    monkeypatch.setenv(SETTING, value)
    assert is_on(SETTING) == on


def test_switches_report_other_words(
    python: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value that is neither on nor off leaves the switch on, and is reported."""
    out = python(f"{SWITCH}import yolo_coordbifpn", check=False, YOLO_COORDBIFPN_AUTOLOAD="maybe")
    assert "YOLO_COORDBIFPN_AUTOLOAD='maybe' is neither on" in out
    assert "True" in out
    monkeypatch.setenv(SETTING, "2")
    assert is_on(SETTING)
    assert "YOLO_COORDBIFPN_TRAINING_LOG='2' is neither on" in capsys.readouterr().err


DECLARED = """
from yolo_coordbifpn.commands import main
from ultralytics.nn.tasks import DetectionModel
import yolo_coordbifpn, yaml
status = main(["check"])
cfg = yaml.safe_load(yolo_coordbifpn.model_yaml("yolo11-coordatt").read_text())
cfg["backbone"][9] = [-1, 1, "Mine", []]
try:
    DetectionModel(cfg, verbose=False)
except KeyError as error:
    print(error)
print("status", status)
"""


def test_a_declared_block_that_is_not_there(tmp_path: Path, python: Callable[..., str]) -> None:
    """The error and `check` name the variable, the entry, and the classes that were found."""
    (tmp_path / "blocks.py").write_text("import torch\nclass Other(torch.nn.Identity): ...\n")
    out = python(DECLARED, YOLO_COORDBIFPN_BLOCKS="blocks:Mine")
    reason = "YOLO_COORDBIFPN_BLOCKS names blocks:Mine: blocks has no Mine; its classes are Other"
    assert out.count(reason) == 2
    assert "NOT registered" in out
    assert "status 1" in out


def test_fusing_quietly_is_quiet(log: Any) -> None:
    """`fuse(verbose=False)` logs nothing of ours, also where fusions stay."""
    model = DetectionModel("yolo11n-bifpn-add.yaml", verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.eval().fuse(verbose=False)
    assert not [x for x in log.messages if "yolo_coordbifpn" in x]


def test_a_report_says_which_file_each_model_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock, shipped and made models and local files are told apart, also where a local file takes a shipped name."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(model_yaml("yolo11-coordatt"), "yolo11-bifpn.yaml")
    assert model_file("yolo11n.yaml") == "stock yolo11.yaml"
    assert model_file("yolo11n-coordatt.yaml") == "shipped yolo11-coordatt.yaml"
    assert model_file("yolo11n-se.yaml") == "made from a stock YAML, yolo11-se.yaml"
    assert model_file("yolo11n-bifpn.yaml") == f"local file {tmp_path / 'yolo11-bifpn.yaml'}"
    assert model_file("runs/best.pt") == "checkpoint runs/best.pt"


@pytest.mark.slow
def test_a_host_with_its_own_cbam(python: Callable[..., str]) -> None:
    """The host keeps its own block, and models that have nothing to do with it are built and trained as before."""
    code = """
import shutil, torch
from ultralytics.nn import tasks
tasks.CBAM = torch.nn.Identity
shutil.copy(tasks.check_yaml("yolo11.yaml"), "helmet-detector.yaml")
print(tasks.DetectionModel("helmet-detector.yaml", verbose=True).stride.tolist())
tasks.DetectionModel("yolo11n-cbam.yaml", verbose=False)
"""
    text = python(code, check=False)
    assert "[8.0, 16.0, 32.0]" in text
    assert re.search("GraftError: .*this host keeps its own", text), text[-2000:]


@pytest.mark.slow
def test_a_name_draws_no_random_numbers(tmp_path: Path) -> None:
    """The file of a name is made from a built stock model, but a model has the weights of its seed."""
    cfg = {**tasks.yaml_model_load("yolo11n-se-fpn.yaml"), "yaml_file": "yolov8n-se-fpn.yaml"}
    sums = []
    for _ in range(2):
        torch.manual_seed(0)
        sums.append(float(DetectionModel(dict(cfg), verbose=True).model[0].conv.weight.detach().sum()))
        before = torch.get_rng_state()
        tasks.check_yaml("yolov8n-pose-se-fpn.yaml")
        assert torch.equal(torch.get_rng_state(), before)
    assert sums[0] == sums[1]


def test_a_file_in_another_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The host reads a comment in another encoding; the log does not fail at it, and `graft` says what is wrong."""
    monkeypatch.chdir(tmp_path)
    text = Path(tasks.check_yaml("yolo11.yaml")).read_bytes()
    Path("yolo11n-bifpn.yaml").write_bytes("# \u4e2d\u6587\n".encode("gbk") + text)
    assert DetectionModel("yolo11n-bifpn.yaml", verbose=True).stride.tolist() == [8, 16, 32]
    assert main(["graft", "model=yolo11n-bifpn.yaml", "save=x.yaml"]) == 1
    assert "yolo11n-bifpn.yaml is not UTF-8 text" in capsys.readouterr().err
