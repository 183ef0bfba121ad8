"""The command line `yolo-coordbifpn`: help, errors, tables, checks, and the demo with its data set."""

from __future__ import annotations

import errno
import functools
import os
import random
import re
import runpy
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT
from new_process import run_fresh, run_python
from PIL import Image

from yolo_coordbifpn.commands import COMMANDS, check, main, scenes
from yolo_coordbifpn.commands.scenes import NAMES, draw_scene, write_scenes
from yolo_coordbifpn.patches import install

OURS = ("-m", "yolo_coordbifpn")
POSIX = pytest.mark.skipif(os.name != "posix", reason="the reasons are those of POSIX systems")
PT = "trained.pt"  # an empty file in the working folder
SCRIPTS = [x.stem for x in (ROOT / "scripts").glob("*.py") if "run_script(main)" in x.read_text(encoding="utf-8")]


@pytest.mark.parametrize("words", [[], ["--help"], ["help"], *([x, "--help"] for x in COMMANDS)])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every command has a help text that shows how to call it, and --help never runs the command."""
    assert main(words) == 0
    out = capsys.readouterr().out
    for name in words[:-1] or COMMANDS:
        assert f"yolo-coordbifpn {name}" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_option(name: str) -> None:
    """Each option has a line in the help, which names it, and the sections come in the same order everywhere."""
    command = import_module(f"yolo_coordbifpn.commands.{name}")
    lines = (command.__doc__ or "").splitlines()
    assert lines[0].endswith(".")
    listed = [line.partition("=")[0] for line in lines if re.match(r"[a-z]+= ", line)]
    assert listed == [key for key in command.OPTIONS if key != "*"]
    usage = [k for k, line in enumerate(lines) if line.startswith("    yolo-coordbifpn ")]
    assert usage[0] == 2
    assert not listed or lines.index(next(x for x in lines if x.startswith(listed[0]))) > usage[-1]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The version is the package's."""
    import yolo_coordbifpn

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == yolo_coordbifpn.__version__


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["modles"],
            "there is no command 'modles'. Did you mean models? Commands: models, graft, upgrade, graph, ",
        ),
        (["models", "n"], "'n' is not of the form key=value"),
        (["models", "scal=n"], "there is no option 'scal'. Did you mean scale? Options: scale, only"),
        (["models", "scale=n", "scale=s"], "scale= is given twice"),
        (["models", "scale=nq"], "scale= takes letters of nsmlx"),
        (["models", "scale="], "scale= takes letters of nsmlx"),
        (["models", "of=yolo12n", "only=*-ese"], "only= must match names such as yolo12n-coordatt, got '*-ese'"),
        (["models", "only=yolo13*"], "only= must match names such as yolo11-coordatt, got 'yolo13*'"),
        (["models", "of=yolo11n-bifpn"], "of= takes a stock model such as yolo12n, got the variant yolo11n-bifpn"),
        (["models", "of=yolo11n", "scale=s"], "scale= and copy= are not for it. See yolo-coordbifpn models --help."),
        (["graft", "model=yolo11.yaml", "save=x.txt"], "save= must end in .yaml, .yml, got x.txt"),
        (
            ["upgrade", "model=best"],
            "model= must be a checkpoint such as runs/detect/train/weights/best.pt, got 'best'",
        ),
        (["upgrade", "model=no.pt"], "model=no.pt: there is no such file"),
        (["upgrade", f"model={PT}", "levels=P2-P4"], "levels= must be P2; P2-P4 may remove a level"),
        (["upgrade", f"model={PT}", "save=x.yaml"], "save= must end in .pt, got x.yaml"),
        (["check", "x=1"], "there is no option 'x'. Options: none"),
        (["demo", "epochs=none"], "epochs= must be a whole number of at least 1, got 'none'"),
        (["demo", "epochs=0"], "epochs= must be a whole number of at least 1, got '0'"),
        (["demo", f"folder={__file__}"], "folder= is a file"),
    ],
)
def test_bad_words(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong command line says what was expected and exits with status 2 before anything else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / PT).touch()
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["models", "only=yolo11-bifpn", "copy={file}"], "models: {file}: File exists", marks=POSIX),
        pytest.param(["demo", "folder={file}/x"], "demo: {file}/x/scenes/images/train: Not a directory", marks=POSIX),
        (["graft", "model=/no/x.yaml"], "graft: /no/x.yaml: there is no such model YAML."),
        (["upgrade", "model={file}.pt"], "upgrade: {file}.pt: this Ultralytics cannot read it as a checkpoint: "),
        pytest.param(
            ["inspect", "model=yolo11n-bifpn.yaml", "project={file}"], "inspect: {file}/inspect: Not a dir", marks=POSIX
        ),
        (["inspect", "model=yolo11n-bifpn.yaml", "imgsz=abc"], "inspect: the host's predict does not accept "),
        (["inspect", "model=yolo11n-bifpn.yaml", "classes=person"], "inspect: the host's predict does not accept "),
        (["inspect", "model=yolo11n-bifpn.yaml", "device=17"], "inspect: the host's predict does not accept "),
        (["nms", "model=yolo11n-anms.yaml", "data=coco8.yaml", "device=17"], "nms: the host's val does not accept "),
        (
            ["graph", "model=yolo11n-bifpn"],
            "graph: model must be a checkpoint (.pt) or a model YAML, got 'yolo11n-bifpn': d",
        ),
        (
            ["graph", "model=yolo11n-coordatt-bifnp.yaml"],
            "graph: yolo11n-coordatt-bifnp.yaml: there is no such model YA",
        ),
        (["graph", "model=/no/x.yaml"], f"graph: {Path('/no/x.yaml')}: there is no such model YAML."),
        (["compare", "models=/no/x.pt", "data=/no", "epochs=1"], "compare: models=: there is no checkpoint /no/x.pt"),
    ],
)
def test_failures_are_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file where a folder is wanted, a missing path or a bad value ends a command with one line and status 1."""
    file = tmp_path / "file"
    for x in (file, tmp_path / "file.pt"):
        x.write_text("junk")
    assert main([x.format(file=file) for x in words]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"yolo-coordbifpn {message.format(file=file)}")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_wrong_option_of_a_script_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that reads options refuses an unknown one with its name and a single line, before anything else."""
    monkeypatch.setattr(sys, "argv", [f"scripts/{name}.py", "modles=yolo11n"])
    with pytest.raises(SystemExit, match=rf"^{name}: there is no option 'modles'\.[^\n]*$"):
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")


def test_files_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without permission to write, the line has the name of the file that the user gave, and nothing is left."""

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    save = tmp_path / "x.svg"
    monkeypatch.setattr(Path, "replace", refuse)
    assert main(["graph", "model=yolo11n.yaml", "against=none", f"save={save}"]) == 1
    assert capsys.readouterr().err == f"yolo-coordbifpn graph: {save}: Permission denied\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_an_interrupt_while_it_imports(tmp_path: Path) -> None:
    """Ctrl-C before the work begins ends a command with one line and status 130."""
    code = (  # torch is the first thing that a command imports; a job in the background ignores the signal
        "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "os.kill(os.getpid(), signal.SIGINT)"
    )
    (tmp_path / "torch.py").write_text(code)
    words = ("graft", "model=yolo11n.yaml")  # which imports nothing that might swallow the interrupt
    done = run_fresh(*OURS, *words, folder=tmp_path)
    assert (done.returncode, done.stderr) == (130, "yolo-coordbifpn graft: interrupted\n")


@pytest.mark.slow
def test_models(capsys: pytest.CaptureFixture[str], quick_builds: None) -> None:
    """The table shows the stock models, and the variants with their extra cost; those of one model can be chosen."""

    def table(*words: str) -> dict[str, list[str]]:
        assert main(["models", *words]) == 0
        lines = capsys.readouterr().out.splitlines()
        return {line.split()[0]: line.split()[1:] for line in lines if line.startswith("yolo")}

    rows = table("only=yolo11-c*") | table("only=yolov10s*")
    assert rows["yolo11n.yaml"] == ["(stock)", "2.624", "6.67"]
    assert rows["yolo11n-coordatt-bifpn.yaml"] == ["coordatt-bifpn", "2.647", "+0.88%", "6.73", "+0.84%"]
    assert rows["yolo11n-cls-coordatt.yaml"][0] == "coordatt"
    assert rows["yolov10s-bifpn.yaml"][0] == "bifpn"
    assert len(rows) == 4 + 3 + 3  # files and stock models
    assert "has no neck to weight" in " ".join(table("of=yolo11n-cls", "only=*-bifpn")["yolo11n-cls-bifpn.yaml"])
    assert list(table("of=yolo12n", "only=*-se")) == ["yolo12n.yaml", "yolo12n-se.yaml"]


@pytest.mark.slow
def test_check_without_faults(tmp_path: Path) -> None:
    """With the hook on, all patches hold and the exit status is 0."""
    done = run_fresh(*OURS, "check", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(" holds") == len(install.status()[0])
    assert "active" in done.stdout


@pytest.mark.slow
def test_check_finds_faults(tmp_path: Path) -> None:
    """With the hook off, or a host that cannot be patched, the exit status is 1 and the list says why."""
    done = run_python(*OURS, "check", folder=tmp_path, YOLO_COORDBIFPN_AUTOLOAD="0")
    assert done.returncode == 1
    assert "off by YOLO_COORDBIFPN_AUTOLOAD=0" in done.stdout
    code = (
        "from ultralytics.nn import tasks; del tasks.BaseModel.load;"
        "from yolo_coordbifpn.commands import main; raise SystemExit(main(['check']))"
    )
    done = run_python("-c", code, folder=tmp_path, YOLO_COORDBIFPN_AUTOLOAD="0")
    assert done.returncode == 1
    optional = {name for name, *_ in install._OPTIONAL}
    assert done.stdout.count("does NOT hold") == len(install.status()[0].keys() - optional)
    assert "ultralytics.nn.tasks.BaseModel has no method load" in done.stdout


def test_check_finds_what_other_packages_did(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A patch that was undone, two hosts in one place and a hook that Python does not find are faults."""
    holds, error = install.status()
    monkeypatch.setattr(install, "status", lambda: ({**holds, "fusing": False}, error))
    monkeypatch.setattr(check.metadata, "version", lambda distribution: "1.0")
    monkeypatch.setattr(check.subprocess, "run", lambda *args, **kwargs: SimpleNamespace(stdout="False"))
    monkeypatch.setenv("YOLO_COORDBIFPN_PARSERS", "models.yolo")
    monkeypatch.setenv("YOLO_COORDBIFPN_NMS", "sfot")
    assert main(["check"]) == 1
    lines = [" ".join(x.split()) for x in capsys.readouterr().out.splitlines()]
    assert "parser: models.yolo does NOT hold" in lines
    faults = [x.removeprefix("conflict ") for x in lines if x.startswith("conflict ")]
    assert "there is no module models on Python's path" in faults[0]
    assert faults[1] == "the patch of the fusing was undone by other code"
    assert "hook is not active: not installed where this Python looks for .pth files" in faults[2]
    assert faults[3] == "YOLO_COORDBIFPN_NMS=sfot: expected adaptive, soft, plain"
    assert faults[4].startswith("ultralytics and ultralytics-opencv-headless are installed over each other")


def test_scenes_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    """The data set has the host's layout, is reproducible to the byte, and depends on the seed."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_scenes(tmp_path / name, train=3, val=2, size=64, seed=seed)
    files = sorted(x.relative_to(tmp_path / "a") for x in (tmp_path / "a").rglob("*.[pt][nx][gt]"))
    assert len(files) == 10
    assert all((tmp_path / "a" / x).read_bytes() == (tmp_path / "b" / x).read_bytes() for x in files)
    assert any((tmp_path / "a" / x).read_bytes() != (tmp_path / "c" / x).read_bytes() for x in files)
    config = yaml.safe_load((tmp_path / "a" / "data.yaml").read_text())
    assert list(config["names"].values()) == list(NAMES)
    assert (Path(config["path"]) / config["train"]).is_dir()
    with Image.open(tmp_path / "a" / "images" / "train" / "0000.png") as image:
        assert image.size == (64, 64)


@pytest.mark.slow
def test_scenes_have_all_classes_and_sizes() -> None:
    """All classes occur, all boxes are inside the image, and the sizes range from small to large."""
    boxes = [box for k in range(60) for box in draw_scene(192, random.Random(k))[1]]
    assert {box[0] for box in boxes} == set(range(len(NAMES)))
    for _, x, y, w, h in boxes:
        assert 0 < w <= 1
        assert 0 < h <= 1
        assert -1e-9 <= x - w / 2 <= x + w / 2 <= 1 + 1e-9
        assert -1e-9 <= y - h / 2 <= y + h / 2 <= 1 + 1e-9
    longest = sorted(192 * max(w, h) for _, _, _, w, h in boxes)
    assert longest[len(longest) // 10] < 16
    assert longest[-1] > 55


@pytest.mark.slow
def test_demo_learns(tmp_path: Path) -> None:
    """The demo trains with the stock command and draws plots; three of its fifteen epochs reach an mAP50 of 0.06."""
    done = run_fresh(*OURS, "demo", f"folder={tmp_path / 'my demo'}", "epochs=3", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "yolo train model=yolo11n-coordatt-bifpn.yaml" in done.stdout
    last = done.stdout.splitlines()[-3:]
    assert float(last[0].split()[1].rstrip(",")) > 0.06, last
    assert (tmp_path / "my demo" / "train" / "val_batch0_pred.jpg").is_file()
    assert (tmp_path / "my demo" / "train" / "fusion_weights.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_demo_reports_a_failed_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A model that does not exist ends the demo with the status and message of the training."""
    monkeypatch.chdir(tmp_path)
    few = functools.partial(write_scenes, train=1, val=1)
    monkeypatch.setattr(scenes, "write_scenes", lambda folder, size, seed, **_: few(folder, size=size, seed=seed))
    assert main(["demo", f"folder={tmp_path}", "model=yolo11n-coordat.yaml"]) != 0
    text = "".join(capfd.readouterr())
    assert "the training failed" in text
    assert "Did you mean" in text
