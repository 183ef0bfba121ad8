"""Registration: what the patches change in the host, what they leave alone, and what their errors say."""

from __future__ import annotations

import copy
import functools
import importlib.util
import io
import os
import pkgutil
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.utils import LOGGER

import yolo_coordbifpn
from yolo_coordbifpn import BiFPN_Concat, CoordAtt, HostError, RowError, install, model_yaml, register, uninstall
from yolo_coordbifpn.blocks.se import SE
from yolo_coordbifpn.files import write
from yolo_coordbifpn.grafting import names
from yolo_coordbifpn.host.models import quiet
from yolo_coordbifpn.patches import names as patch
from yolo_coordbifpn.patches import trainer_callbacks
from yolo_coordbifpn.patches.adaptive_nms import patch_densities
from yolo_coordbifpn.patches.block_losses import patch_block_losses
from yolo_coordbifpn.patches.install import status
from yolo_coordbifpn.patches.parser import BUILDER_NAME, patch_parser
from yolo_coordbifpn.registry import TABLE, BlockTable


@pytest.fixture
def installed(own_blocks: None) -> None:
    """Leave the patches installed and the table as it was, whatever a test does."""


def model_cfg(*rows: list, nc: int = 3) -> dict:
    """Build a small detection model with extra rows after its fourth layer, whose output has 32 channels."""
    backbone = [[-1, 1, "Conv", [c, 3, s]] for c, s in ((16, 2), (16, 2), (32, 2), (32, 1))]
    head = [*rows, [[3 + len(rows)], 1, "Detect", [nc]]]
    return {"nc": nc, "backbone": backbone, "head": head}


def build(*rows: list) -> nn.Module:
    """Build that model without printing it."""
    return tasks.DetectionModel(model_cfg(*rows), verbose=False)


# In other processes: the hook ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stock_code_finds_the_blocks(python: Callable[..., str]) -> None:
    """A new process that does not import the package builds one of our models, and the hook says nothing."""
    code = (
        "import sys; sys.stderr = sys.stdout;"
        "from ultralytics import YOLO; m = YOLO('yolo11n-coordatt-bifpn.yaml'); print(type(m.model.model[9]).__name__)"
    )
    out = python(code, fresh=True)
    assert out.splitlines()[-1] == "CoordAtt"
    assert "coordbifpn" not in out


def test_the_hook_loads_nothing(python: Callable[..., str]) -> None:
    """A Python that never imports Ultralytics loads one small module and no torch."""
    code = "import sys; print(*sorted(x for x in sys.modules if 'coordbifpn' in x or x in ('torch', 'yaml', 're')))"
    assert python(code, fresh=True).split() == ["yolo_coordbifpn_startup"]


@pytest.mark.slow
def test_the_hook_can_be_switched_off(python: Callable[..., str]) -> None:
    """With the variable at 0 nothing of ours is loaded; an explicit import still works."""
    off = {"YOLO_COORDBIFPN_AUTOLOAD": "0"}
    assert python("import sys; print('yolo_coordbifpn' in sys.modules)", fresh=True, **off).strip() == "False"
    out = python("from ultralytics import YOLO; YOLO('yolo11n-coordatt.yaml')", check=False, **off)
    assert "FileNotFoundError" in out
    code = "from ultralytics import YOLO; import yolo_coordbifpn; YOLO('yolo11n-coordatt.yaml'); print('built')"
    assert python(code, **off).splitlines()[-1] == "built"


def test_a_broken_package_does_not_break_python(python: Callable[..., str], tmp_path: Path) -> None:
    """If our package cannot even be imported, Python starts silently and Ultralytics imports."""
    (tmp_path / "yolo_coordbifpn.py").write_text("raise RuntimeError('broken')")
    code = "import yolo_coordbifpn_startup as s; s.run(); import ultralytics.nn.tasks; print('fine')"
    assert python(code, PYTHONPATH=str(tmp_path)).splitlines()[-1] == "fine"


def test_both_start_up_files_name_the_same_function() -> None:
    """The `.pth` file and its successor since Python 3.15 run the same start-up function."""
    site = Path(importlib.util.find_spec("yolo_coordbifpn_startup").origin).parent
    assert (site / "yolo_coordbifpn.pth").read_text().startswith("import yolo_coordbifpn_startup;")
    entry = (site / "yolo_coordbifpn.start").read_text().strip()
    run = pkgutil.resolve_name(entry)
    assert run.__name__ == "run"
    assert run() is None


def test_a_host_loaded_before_us_is_patched_by_our_import(python: Callable[..., str]) -> None:
    """The order of imports does not matter, and functions imported earlier know the blocks too."""
    code = (
        "from ultralytics.nn.tasks import parse_model, DetectionModel; import yolo_coordbifpn;"
        "cfg = {'nc': 1, 'backbone': [[-1, 1, 'Conv', [8, 3, 1]]], 'head': [[-1, 1, 'CoordAtt', []]]};"
        "print(type(parse_model(cfg, ch=3, verbose=False)[0][1]).__name__)"
    )
    assert python(code, YOLO_COORDBIFPN_AUTOLOAD="0").splitlines()[-1] == "CoordAtt"


# In this process: install and uninstall ------------------------------------------------------------------------------


def test_install_is_idempotent_and_undoable(installed: None) -> None:
    """A second install changes nothing, and uninstall restores the host, down to the code object."""
    code, check_yaml = tasks.parse_model.__code__, tasks.check_yaml
    install()
    install()
    assert tasks.parse_model.__code__ is code
    assert tasks.check_yaml is check_yaml
    patches = [
        "model YAML names",
        "model parser",
        "pretrained weights",
        "fusing",
        "safe loading",
        "losses of blocks",
        "densities",
        "grid skipping",
    ]
    parts = ["trainer callbacks", "adaptive NMS", "mask prototypes", "distillation"]
    assert status() == (dict.fromkeys([*patches, *parts], True), None)
    uninstall()
    uninstall()
    assert not any(status()[0].values())
    assert BUILDER_NAME not in tasks.__dict__
    assert not {"CoordAtt", "BiFPN_Add", "BiFPN_Concat"} & set(tasks.__dict__)
    assert tasks.check_yaml.__module__ == "ultralytics.utils.checks"
    source = Path(tasks.__file__).read_text(encoding="utf-8")
    compiled = compile(source, tasks.__file__, "exec", dont_inherit=True)
    assert tasks.parse_model.__code__ in compiled.co_consts
    with pytest.raises(KeyError, match="CoordAtt"):
        build([-1, 1, "CoordAtt", []])
    install()
    build([-1, 1, "CoordAtt", []])


def test_public_names() -> None:
    """Each public name exists and is listed in order; an unknown one is an AttributeError."""
    assert yolo_coordbifpn.__all__ == sorted(yolo_coordbifpn.__all__)
    for name in yolo_coordbifpn.__all__:
        assert getattr(yolo_coordbifpn, name).__doc__
        assert name in dir(yolo_coordbifpn)
    with pytest.raises(AttributeError, match="CoordAttn"):
        _ = yolo_coordbifpn.CoordAttn


def test_safe_loading(tmp_path: Path, installed: None) -> None:
    """A checkpoint with our blocks loads under `weights_only=True` while the patches are installed, and only then."""
    torch.save({"model": build([-1, 1, "CoordAtt", []]).model[4]}, tmp_path / "x.pt")
    with torch.serialization.safe_globals([nn.Conv2d, nn.BatchNorm2d]):
        assert isinstance(torch.load(tmp_path / "x.pt", weights_only=True)["model"], CoordAtt)
        uninstall()
        with pytest.raises(Exception, match="CoordAtt"):
            torch.load(tmp_path / "x.pt", weights_only=True)


def test_safe_loading_from_an_open_file() -> None:
    """The search for blocks in a checkpoint leaves an open file where it was."""
    if not hasattr(tasks, "torch_load"):
        pytest.skip("this Ultralytics loads checkpoints another way")
    stream = io.BytesIO()
    torch.save({"block": CoordAtt(8).state_dict()}, stream)
    stream.seek(0)
    assert list(tasks.torch_load(stream, weights_only=True)) == ["block"]


def test_weights_leave_a_users_dict_as_it_is() -> None:
    """The gains that pretrained weights bring are written into the model's own YAML, not into the user's dict."""
    cfg = tasks.yaml_model_load("yolo11n-coordatt.yaml")
    model = tasks.DetectionModel(cfg, verbose=False)
    rows = copy.deepcopy(cfg["backbone"])
    model.load(tasks.DetectionModel("yolo11n.yaml", verbose=False), verbose=False)
    assert model.model[9].gain == model.yaml["backbone"][9][3][1] == 4
    assert cfg["backbone"] == rows
    assert tasks.DetectionModel(cfg, verbose=False).model[9].gain == 1


@pytest.mark.parametrize(
    ("patch_host", "message"),
    [
        (lambda host: patch.patch_names(host, "9.9", None), "yaml_model_load does not look model YAMLs up"),
        (trainer_callbacks.patch_trainer_callbacks, "has no add_integration_callbacks"),
        (lambda host: patch_block_losses(host, TABLE), "has no method loss"),
        (patch_densities, "has no method predict"),
    ],
)
def test_a_host_that_has_changed(patch_host: Callable[[Any], Any], message: str) -> None:
    """A host without the function that a patch replaces is named with that function."""
    with pytest.raises(HostError, match=f"^host.*{message}"):
        patch_host(SimpleNamespace(__name__="host"))


# Patches that something else has replaced ----------------------------------------------------------------------------


def test_what_another_package_replaced_is_left_alone(installed: None, log: Any) -> None:
    """Uninstall undoes the other patches and names in a warning what it leaves; install patches on top of that."""
    ours, original = tasks.check_yaml, tasks.BaseModel.fuse.__wrapped__

    def theirs(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    del tasks.SeparableConv
    tasks.check_yaml = theirs
    assert not status()[0]["model YAML names"]
    uninstall()
    assert tasks.check_yaml is theirs
    assert f"ultralytics.nn.tasks.check_yaml has been replaced since by {theirs!r}; it is left as it is" in log.text
    assert not any(status()[0].values())
    assert tasks.BaseModel.fuse is original
    install()
    assert all(status()[0].values())
    uninstall()
    assert tasks.check_yaml is theirs
    tasks.check_yaml = sys.modules["ultralytics.utils.checks"].check_yaml


def test_a_patch_that_another_package_wraps_stays_known(installed: None, log: Any) -> None:
    """A wrapper that names what it wraps leaves the patch in effect, which status says, and install adds no second."""
    ours = tasks.BaseModel.load
    theirs = functools.wraps(ours)(lambda *args, **kwargs: ours(*args, **kwargs))
    tasks.BaseModel.load = theirs
    install()
    assert tasks.BaseModel.load is theirs
    uninstall()
    assert status()[0] == {**dict.fromkeys(status()[0], False), "pretrained weights": True}
    assert "BaseModel.load has been replaced since" in log.text
    tasks.BaseModel.load = ours
    uninstall()
    assert not any(status()[0].values())


def test_a_parser_that_another_package_replaced(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install refuses a parser that is not the host's, with every patch undone, and works again without it."""
    host_parser = tasks.parse_model
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "parse_model", lambda *args, **kwargs: host_parser(*args, **kwargs))
        with pytest.raises(HostError, match="parse_model is not the host's own function"):
            install()
        assert not any(status()[0].values())
        with pytest.raises(HostError, match="parse_model is not the host's own function"):
            YOLO("yolo11n-coordatt.yaml")
        uninstall()
    assert BUILDER_NAME not in host_parser.__code__.co_names
    install()
    assert all(status()[0].values())
    build([-1, 1, "CoordAtt", []])


RELOAD = """
import importlib
from ultralytics import YOLO
from ultralytics.nn import tasks
import yolo_coordbifpn
from yolo_coordbifpn.patches.install import status
for hooked in (True, False):
    if not hooked:
        yolo_coordbifpn.patches.hook.disarm()
    old = tasks.BaseModel
    importlib.reload(tasks)
    print(all(status()[0].values()))
    yolo_coordbifpn.install()
    assert all(status()[0].values()) and tasks.BaseModel is not old
    assert type(YOLO("yolo11n-coordatt.yaml").load(YOLO("yolo11n.yaml").model).model.model[9]).__name__ == "CoordAtt"
yolo_coordbifpn.uninstall()
print(any(status()[0].values()), old.load.__module__, "has been replaced" in __import__("sys").stderr.getvalue())
"""


@pytest.mark.slow
def test_a_reloaded_host_is_patched_again(python: Callable[..., str]) -> None:
    """`importlib.reload` of the host's module undoes patches; the hook or `install()` makes them again, undoably."""
    code = f"import io, sys\nsys.stderr = io.StringIO()\n{RELOAD}"
    out = [x for x in python(code).splitlines() if x[:4] in ("True", "Fals")]
    assert out == ["True", "False", "False ultralytics.nn.tasks False"]


# Threads and forks ---------------------------------------------------------------------------------------------------


def test_quiet_keeps_other_threads_loud(log: Any) -> None:
    """What is built quietly in several threads leaves the log's level and filters, and other threads' messages."""
    level, filters = LOGGER.level, list(LOGGER.filters)
    first, second = threading.Event(), threading.Event()

    def work(entered: threading.Event, leave: threading.Event) -> None:
        with quiet():
            LOGGER.info("not logged")
            LOGGER.error("logged error")
            entered.set()
            leave.wait(60)

    done = threading.Event()
    threads = [threading.Thread(target=work, args=(first, second)), threading.Thread(target=work, args=(second, done))]
    threads[0].start()
    assert first.wait(60)
    LOGGER.info("logged info")
    threads[1].start()  # the first thread leaves while the second is inside
    threads[0].join(60)
    done.set()
    threads[1].join(60)
    assert (LOGGER.level, LOGGER.filters) == (level, filters)
    assert "not logged" not in log.text
    assert log.text.count("logged error") == 2
    assert "logged info" in log.text


def test_a_table_grows_while_it_is_read() -> None:
    """Another thread may register a block while one goes through the table."""
    blocks = table()
    found = [block for block in blocks if not blocks.named("SE") and blocks.add(SE) is None]
    assert found == [CoordAtt]
    assert SE in blocks


def test_two_threads_name_a_block_first() -> None:
    """Two threads that look for SE at once, which registers it, both find it."""
    barrier, found = threading.Barrier(2), []
    table = BlockTable()

    def source(names: Any) -> list[str]:
        barrier.wait(60)
        table.add(SE)
        return []

    table.discovery.add_source(source)

    def work() -> None:
        table.discovery.find({"SE"})
        found.append(table.named("SE") is SE)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [True, True]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_leaves_the_parents_files(python: Callable[..., str]) -> None:
    """A model YAML made for a name outlives a forked process, and is deleted at the end of the one that made it."""
    code = (
        "import os, sys; from pathlib import Path; from ultralytics.nn import tasks\n"
        "file = Path(tasks.check_yaml('yolo12-pose-bifpn.yaml'))\n"
        "if not os.fork():\n    sys.exit()\n"
        "os.wait(); print(file.is_file(), file)"
    )
    answer, file = python(code).splitlines()[-1].split(maxsplit=1)
    assert answer == "True"
    assert not Path(file).parent.exists()


@pytest.mark.slow
def test_a_made_file_that_is_gone_is_made_again() -> None:
    """A cleaner of temporary folders may delete the YAML made for a name; the name is found all the same."""
    file = Path(tasks.check_yaml("yolo12-pose-bifpn.yaml"))
    text = file.read_text()
    assert tasks.check_yaml("yolo12-pose-bifpn.yaml") == str(file)
    shutil.rmtree(file.parent)
    assert Path(tasks.check_yaml("yolo12-pose-bifpn.yaml")).read_text() == text


@pytest.mark.skipif(sys.platform == "win32", reason="links and modes of POSIX")
def test_a_file_keeps_its_place_and_its_mode(tmp_path: Path) -> None:
    """A file that is written through a link stays where it is, and nobody may read more than before."""
    (tmp_path / "real.pt").write_text("old")
    (tmp_path / "real.pt").chmod(0o600)
    (tmp_path / "link.pt").symlink_to(tmp_path / "real.pt")
    write(tmp_path / "link.pt", "new")
    assert (tmp_path / "link.pt").is_symlink()
    assert (tmp_path / "real.pt").read_text() == "new"
    assert (tmp_path / "real.pt").stat().st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="File name too long") as caught:
        write(tmp_path / ("a" * 250), "text")
    assert caught.value.filename == str(tmp_path / ("a" * 250))


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    """If a file cannot be written, its temporary file is deleted."""
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write(tmp_path / "taken", "text")
    assert [x.name for x in tmp_path.iterdir()] == ["taken"]


# The parser ----------------------------------------------------------------------------------------------------------


def test_rows_get_their_channels() -> None:
    """CoordAtt keeps channels, BiFPN_Concat sums them, BiFPN_Add keeps them; repeats of CoordAtt are chained."""
    model = build(
        [-1, 1, "CoordAtt", []],
        [[-1, 2], 1, "BiFPN_Concat", [1]],
        [[-1, 5], 1, "BiFPN_Add", []],
        [-1, 2, "CoordAtt", [16]],
    )
    x = torch.zeros(1, 3, 64, 64)
    shapes = []
    for m in model.model[:8]:
        m.register_forward_hook(lambda m, a, out: shapes.append(out.shape[1]))
    model(x)
    assert shapes[4:] == [32, 64, 64, 64]
    assert [len(m) for m in model.model if type(m) is nn.Sequential] == [2]
    assert [m.type for m in model.model[4:6]] == [
        "yolo_coordbifpn.blocks.coordatt.CoordAtt",
        "yolo_coordbifpn.blocks.bifpn.BiFPN_Concat",
    ]


BAD_ROWS = [
    ([-1, 1, "CoordAtt", [1024]], r"layer 4 \(head row 0\) \[-1, 1, CoordAtt, \[1024\]\].*write \[\] for the paper's"),
    ([-1, 1, "CoordAtt", [32, 32]], r"\[-1, 1, CoordAtt, \[32, 32\]\].*gain must be a positive float"),
    ([-1, 1, "CoordAtt", [32, 32, 1]], r"arguments of CoordAtt are \[reduction=32, gain=1.0\]"),
    ([[-1, 2], 1, "CoordAtt", []], r"\[\[-1, 2\], 1, CoordAtt, \[\]\].*CoordAtt takes one input, got 2"),
    ([-1, 1, "CoordAtt", ["half"]], "reduction must be a positive whole number .default 32., got 'half'"),
    ([-1, 1, "CoordAtt", ["scale"]], "reduction must be a positive whole number .default 32., got (None|'scale')"),
    ([-1, 1, "CoordAtt", [-4]], "reduction must be a positive whole number"),
    ([-1, 1, "CoordAtt", 32], "the arguments must be a list, got 32"),
    ([-1, 1, "CoordAtt"], "a row has four parts"),
    ([-1, 0, "CoordAtt", []], "repeats must be a positive whole number up to 1000, got 0"),
    ([-1, "2", "CoordAtt", []], "repeats must be a positive whole number up to 1000, got '2'"),
    ([-1, 1.5, "CoordAtt", []], "repeats must be a positive whole number up to 1000, got 1.5"),
    ([7, 1, "CoordAtt", []], "`from` is 7, but at this row there are 4 layers"),
    ([-9, 1, "CoordAtt", []], "`from` is -9, but at this row there are 4 layers"),
    (["-1", 1, "CoordAtt", []], "`from` must be a layer index or a list of them, got '-1'"),
    ([None, 1, "CoordAtt", []], "`from` must be a layer index or a list of them, got None"),
    ([[-1, [2]], 1, "BiFPN_Concat", [1]], r"`from` must be a layer index or a list of them, got \[2\]"),
    ([[-1, 12], 1, "BiFPN_Concat", [1]], "`from` is 12, but at this row there are 4 layers"),
    ([-1, 1, "BiFPN_Concat", [1]], "two or more inputs"),
    ([[-1], 1, "BiFPN_Concat", [1]], "two or more inputs"),
    ([[], 1, "BiFPN_Concat", [1]], r"`from` must be a layer index or a list of them, got \[\]"),
    ([[-1, 2], 2, "BiFPN_Concat", [1]], "cannot be repeated; repeats must be 1, got 2"),
    ([[-1, 2], 1, "BiFPN_Concat", [2]], "dim must be 1"),
    ([[-1, 2], 1, "BiFPN_Concat", ["sum"]], "dim must be 1 .the channels., got 'sum'"),
    ([[-1, 2], 1, "BiFPN_Concat", [1, "softmax"]], "eps must be a positive float .*got 'softmax'"),
    ([[-1, 1], 1, "BiFPN_Add", []], "the inputs have 32, 16 channels and must have equal ones"),
    ([[2, 3], 1, "BiFPN_Add", ["add"]], "eps must be a positive float"),
    ([-1, 10**6, "CoordAtt", []], "repeats must be a positive whole number up to 1000, got 1000000"),
    ([-1, True, "CoordAtt", []], "repeats must be a positive whole number up to 1000, got True"),
    ([-1, 1, "CoordAtt", [32, 1.0, 2, 3]], "got 4 arguments, which are too many or too few"),
    ([-1, 1, "CoordAtt", ["("]], "an argument is a string that Python cannot read as a value"),
    ([-1, 1, "CoordAtt", ["d"]], r"\[-1, 1, CoordAtt, \[d\]\]: CoordAtt: reduction must be"),
    (["CoordAtt", -1, 1, []], r"the module must be a name, got 1; the parts are \[from, repeats, module, args\]"),
    ("CoordAtt", "a row has four parts, .*, got 'CoordAtt'"),
    ({"CoordAtt": [32]}, "a row has four parts, .*, got {'CoordAtt': \\[32\\]}"),
    ([-1, 1, "SE", [0]], "SE: reduction must be a positive whole number .default 16., got 0"),
    ([-1, 1, "SE", [256]], "SE keeps the channels of the layer before"),
    ([[-1, 2], 1, "SE", []], "SE takes one input, got 2"),
    ([-1, 1, "CBAM", [64]], "CBAM: kernel_size must be 3 or 7, got 64"),
    ([[-1], 1, "CBAM", []], "CBAM takes one input, got a list"),
    ([-1, 1, "CoordAttn", []], "unknown module CoordAttn. Did you mean CoordAtt?"),
    ([[-1, 2], 1, "BiFPNConcat", [1]], "unknown module BiFPNConcat. Did you mean BiFPN_Concat?"),
    ([-1, 2, "C3k2_CoordAt", [64]], "unknown module C3k2_CoordAt. Did you mean C3k2_CoordAtt?"),
    ([-1, 1, "coordatt", []], "unknown module coordatt. Did you mean CoordAtt?"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_bad_rows(row: list, message: str) -> None:
    """Each mistake in one of our rows raises one error that names the row, what it has and what was expected."""
    with pytest.raises(RowError, match=message):
        build(row)


def test_inputs_of_different_size_name_their_layers() -> None:
    """The error about inputs of different height and width names the layers and their shapes."""
    with pytest.raises(ValueError, match=r"layer 4\).*layer 3 \(1, 32, 32, 32\), layer 0 \(1, 16, 128, 128\)"):
        build([[-1, 0], 1, "BiFPN_Concat", [1]])


@pytest.mark.parametrize("name", ["CoordAtt", "SeparableConv", "SE", "CBAM"])
def test_other_features_than_expected_name_their_layer(name: str) -> None:
    """A block after a layer that outputs no feature map, or other channels than the parser counts, raises an error."""
    flat = [-1, 1, "nn.Flatten", []]
    with pytest.raises(ValueError, match=rf"{name} \(layer 5\) takes features of shape .*got layer 4 \(1, 32768\)"):
        build(flat, [-1, 1, name, []])
    uncounted = [-1, 1, "nn.Conv2d", [32, 24, 1]]
    with pytest.raises(ValueError, match=rf"{name} \(layer 5\) takes .*\(N, 32, H, W\), got layer 4 \(1, 24, 32, 32\)"):
        build(uncounted, [-1, 1, name, []])


def test_rows_made_in_python_stay_as_they_were() -> None:
    """`from` may be a tuple there, and the parser, which evaluates strings, does not write into our rows."""
    cfg = model_cfg([(-1, 2), 1, "BiFPN_Concat", ["1"]])
    layers, _ = tasks.parse_model(cfg, ch=3, verbose=False)
    assert layers[4].f == [-1, 2]
    assert cfg["head"][0] == [(-1, 2), 1, "BiFPN_Concat", ["1"]]


def test_repeats_are_checked_as_written(tmp_path: Path) -> None:
    """A depth factor that reduces repeats to 1 does not hide a wrong row."""
    cfg = model_cfg([[-1, 2], 2, "BiFPN_Concat", [1]]) | {"scales": {"n": [0.33, 1.0, 1024]}}
    with pytest.raises(RowError, match="repeats must be 1, got 2"):
        tasks.DetectionModel(cfg, verbose=False)


def test_mistakes_in_other_rows_stay_the_hosts() -> None:
    """An error in a row without our blocks is raised as the host raises it."""
    with pytest.raises(KeyError, match="Foo"):
        build([-1, 1, "Foo", []])
    with pytest.raises((TypeError, IndexError)):
        build([-1, 1, "Conv", []])


def test_a_first_row(tmp_path: Path) -> None:
    """A block in the very first row reads the image."""
    cfg = model_cfg()
    cfg["backbone"].insert(0, [-1, 1, "CoordAtt", []])
    cfg["head"][-1][0] = [4]
    assert tasks.DetectionModel(cfg, verbose=False).model[0].conv1.in_channels == 3
    cfg["backbone"][0][0] = 0
    with pytest.raises(RowError, match="use -1, the image"):
        tasks.DetectionModel(cfg, verbose=False)


# A user's own blocks -------------------------------------------------------------------------------------------------


class Scale(nn.Module):
    """A user's block: one learnable factor per channel."""

    def __init__(self, c1: int, start: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, c1, 1, 1), start))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class Widen(nn.Module):
    """A user's block that sets its output channels."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Join(nn.Module):
    """A user's block with several inputs."""

    def __init__(self, c1: list[int]) -> None:
        super().__init__()
        self.c1 = c1

    def forward(self, xs: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(xs, 1)


def test_own_blocks(installed: None) -> None:
    """A user's block works in a row as ours do, with each kind of channel rule; errors name the row."""
    register(Scale)
    register(Scale, "same")
    register(Join, channels="sum")
    register(Widen, channels=lambda c1, args: (args[0], [c1, *args]))
    model = build([-1, 1, "Scale", [2.0]], [[-1, 2], 1, "Join", []], [-1, 1, "Widen", [24]], [-1, 1, "CoordAtt", []])
    assert model.model[4].weight.shape == (1, 32, 1, 1)
    assert model.model[5].c1 == [32, 32]
    assert model.model[6].conv.weight.shape[:2] == (24, 64)
    assert model.model[7].conv1.in_channels == 24
    with pytest.raises(RowError, match=r"\[-1, 1, Scale, \[1, 2, 3\]\].*arguments of Scale are \[start=1.0\]"):
        build([-1, 1, "Scale", [1, 2, 3]])
    with pytest.raises(RowError, match="list index out of range"):
        build([-1, 1, "Widen", []])


def test_registering_is_checked(installed: None) -> None:
    """What is not a block, an unknown rule and a taken name are refused, and nothing is added."""
    before = list(TABLE)
    with pytest.raises(TypeError, match="subclass of torch.nn.Module"):
        register(lambda x: x)
    with pytest.raises(TypeError, match="subclass of torch.nn.Module"):
        register(Scale(3))
    with pytest.raises(ValueError, match="'same' or 'sum' or a callable, got 'max'"):
        register(Scale, "max")
    with pytest.raises(TypeError, match="got 3"):
        register(Scale, 3)
    with pytest.raises(HostError, match="already has a Conv"):
        register(type("Conv", (nn.Module,), {}))
    with pytest.raises(ValueError, match="already registered"):
        register(type("CoordAtt", (nn.Module,), {}))
    assert list(TABLE) == before


# Hosts of another shape ----------------------------------------------------------------------------------------------

PARSER = '''
from torch import nn
from ultralytics.nn.modules import Conv, Concat

def parse_model(d, ch):
    """A parser in the style of the field's forks."""
    layers, save, c2 = [], [], ch[-1]
    for i, (f, n, m, args) in enumerate(d["backbone"] + d["head"]):
        m = eval(m) if isinstance(m, str) else m
        if m in [Conv]:
            c1, c2 = ch[f], args[0]
            args = [c1, c2, *args[1:]]
        elif m is Concat:
            c2 = sum(ch[x] for x in f)
        else:
            c2 = ch[f]
        layers.append(m(*args))
        if i == 0:
            ch = []
        ch.append(c2)
    return nn.Sequential(*layers)
'''


def load(tmp_path: Path, source: str, name: str = "fork") -> ModuleType:
    """Import a module from source text."""
    file = tmp_path / f"{name}.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def table() -> BlockTable:
    """Make a table of our blocks, separate from the real one."""
    result = BlockTable()
    result.add(CoordAtt, "same")
    result.add(BiFPN_Concat, "sum")
    return result


def test_a_forks_parser_is_patched_too(tmp_path: Path) -> None:
    """The patch depends on the shape of the function only; this one resolves names with eval."""
    fork = load(tmp_path, PARSER)
    undo = patch_parser(fork, table())
    cfg = {"backbone": [[-1, 1, "Conv", [8]]], "head": [[-1, 1, "CoordAtt", []], [[-1, 0], 1, "BiFPN_Concat", []]]}
    layers = fork.parse_model(cfg, [3])
    assert layers[2].channels == [8, 8]
    undo()
    with pytest.raises(NameError):
        fork.parse_model(cfg, [3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.replace("c2 = ch[f]\n        layers", "c2 = ch[f] + 0\n        layers"), "another shape"),
        (lambda s: s.replace("(f, n, m, args)", "(f, n, m, a)").replace("args", "a"), "another shape"),
        (lambda s: s.replace("def parse_model", "def parse"), "has no function parse_model"),
        (
            lambda s: s + "\nimport functools\nparse_model = functools.cache(parse_model)\n",
            "not the host's own function",
        ),
    ],
)
def test_other_parsers_are_refused_untouched(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    """A parser of another shape, or in a module that has our names, is left exactly as it was."""
    fork = load(tmp_path, change(PARSER))
    before = dict(fork.__dict__)
    code = getattr(getattr(fork, "parse_model", None), "__code__", None)
    with pytest.raises(HostError, match=message):
        patch_parser(fork, table())
    assert fork.__dict__ == before
    assert getattr(getattr(fork, "parse_model", None), "__code__", None) is code


def test_a_parser_patched_by_someone_else_is_refused(tmp_path: Path) -> None:
    """If the function is not what its file says, or the file cannot be read, it is left alone."""
    fork = load(tmp_path, PARSER)
    fork.parse_model.__code__ = (lambda d, ch: None).__code__
    with pytest.raises(HostError, match="not what its source file says"):
        patch_parser(fork, table())
    fork = load(tmp_path, PARSER, "fork2")
    (tmp_path / "fork2.py").unlink()
    with pytest.raises(HostError, match="cannot be read"):
        patch_parser(fork, table())


CLASH = """
from ultralytics.nn import tasks
tasks.CoordAtt = int
import yolo_coordbifpn
from ultralytics import YOLO
YOLO("yolo11n.yaml")
for name in ("yolo11n-coordatt.yaml", "yolo11n-coordatt-bifpn.yaml", "yolo12n-coordatt.yaml"):
    try:
        YOLO(name)
    except (yolo_coordbifpn.HostError, yolo_coordbifpn.GraftError) as error:
        print(error)
for name in ("yolo11n-bifpn.yaml", "yolo12n-bifpn.yaml", "yolo11n-se.yaml", "yolo11n-p2.yaml"):
    YOLO(name)
rows = [[[-1, 0], 1, "BiFPN_Concat", [1]], [-1, 1, "CoordAtt", []]]
try:
    tasks.parse_model({"nc": 1, "backbone": [[-1, 1, "Conv", [8]]], "head": rows}, 3, False)
except (AttributeError, TypeError) as error:  # of the host's own
    print("theirs:", error)
yolo_coordbifpn.install()
yolo_coordbifpn.uninstall()
assert tasks.parse_model.__module__ == "ultralytics.nn.tasks" and tasks.CoordAtt is int
"""


@pytest.mark.slow
def test_a_host_with_its_own_block_of_a_name_of_ours(python: Callable[..., str]) -> None:
    """Its rows mean its own block, models with our block of that name name the conflict, and all others work."""
    out = python(CLASH, YOLO_COORDBIFPN_AUTOLOAD="0")
    assert out.count("ultralytics.nn.tasks already has a CoordAtt (builtins); this host keeps its own") == 3
    assert "theirs:" in out


UNEXPECTED = """
from ultralytics.nn import tasks
del tasks.BaseModel.load
import yolo_coordbifpn
from ultralytics import YOLO
YOLO("yolo11n.yaml")
assert not hasattr(tasks, "CoordAtt") and tasks.check_yaml.__qualname__ != "patch_names.<locals>.check_yaml"
try:
    YOLO("yolo11n-coordatt.yaml")
except yolo_coordbifpn.HostError as error:
    print(error)
"""


def test_whatever_goes_wrong_nothing_stays_half_done(python: Callable[..., str]) -> None:
    """If a later patch fails, the earlier ones are undone."""
    assert "BaseModel has no method load" in python(UNEXPECTED, YOLO_COORDBIFPN_AUTOLOAD="0")


OLD = """
import ultralytics
ultralytics.__version__ = "8.3.0"
from ultralytics import YOLO
from yolo_coordbifpn import HostError
from yolo_coordbifpn.patches import names
every = names.stock
names.stock = lambda host: [x for x in every(host) if not x.name.startswith("yolo26")]
YOLO("yolo11n-coordatt.yaml")
for name in "yolo26n-coordatt.yaml", "yolo26n-new-coordatt.yaml":
    try:
        YOLO(name)
    except HostError as error:
        print(error)
"""


def test_a_host_too_old_for_a_family(python: Callable[..., str]) -> None:
    """A model whose stock blocks an older host lacks names the version that it needs, with and without a file."""
    out = python(OLD)
    for name in ("yolo26-coordatt.yaml", "yolo26n-new-coordatt.yaml"):
        assert f"{name} needs ultralytics>=8.4.0, this is 8.3.0: pip install -U ultralytics" in out


def test_a_fork_with_a_stock_model_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a fork has changed a stock YAML, the blocks are put into the fork's file."""
    (stock,) = [x for x in names.stock(tasks) if x.name == "yolov8.yaml"]
    own = tmp_path / "yolov8.yaml"
    monkeypatch.setattr(patch, "stock", lambda host: [own])
    own.write_text(f"# theirs\n{stock.read_text()}")
    assert tasks.check_yaml("yolov8-coordatt.yaml") == str(model_yaml("yolov8-coordatt"))
    own.write_text(stock.read_text().replace("[-1, 3, C2f, [1024, True]]", "[-1, 2, C3, [1024, True]]"))
    rows = [row[2] for row in tasks.yaml_model_load("yolov8n-coordatt.yaml")["backbone"]]
    assert rows[8:] == ["C3", "CoordAtt", "SPPF"]


def test_a_fork_with_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a fork ships a YAML with one of our names, the fork's file is used."""
    asked = []
    host = SimpleNamespace(
        __name__="fork", __file__=str(tmp_path / "nn/tasks.py"), check_yaml=asked.append, yaml_model_load=load_by_name
    )
    own = tmp_path / "cfg/models/v8/yolov8-bifpn.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("backbone: []")
    undo = patch.patch_names(host, "8.3.0", lambda file, variant: ("", None))
    for name in ("yolov8-bifpn.yaml", "yolov8n-bifpn.yaml"):
        host.check_yaml(name)
    assert host.check_yaml("yolov8n-coordatt.yaml") == str(model_yaml("yolov8-coordatt"))
    undo()
    assert asked == ["yolov8-bifpn.yaml", "yolov8n-bifpn.yaml"]


def load_by_name(name: str) -> object:
    """Stand in for the host's function that looks a name up."""
    return check_yaml(name)  # noqa: F821


@pytest.mark.parametrize("call", ["install()", "graft('yolo11n.yaml')"])
def test_a_missing_host(call: str, python: Callable[..., str]) -> None:
    """Without Ultralytics, the error says what to install."""
    code = f"import sys; sys.modules['ultralytics'] = None; import yolo_coordbifpn; yolo_coordbifpn.{call}"
    assert "Ultralytics is not installed: pip install ultralytics" in python(code, check=False)


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_shipped_file_is_found_by_its_bare_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shipped files are found from any folder, with and without a scale letter."""
    monkeypatch.chdir(tmp_path)
    assert len(names.shipped()) >= 9
    for file in names.shipped():
        scaled = names.scaled(file, "x")
        own = re.match(r"yolov?\d+([nsmlx])-", scaled)  # some families have a file for each scale
        assert tasks.yaml_model_load(file)["scale"] == ("" if scaled != file or not own else own[1])
        loaded = tasks.yaml_model_load(scaled)
        assert (loaded["scale"], loaded["yaml_file"]) == (own[1] if own else "", scaled)


@pytest.mark.parametrize("folder", [".", "sub", "lab2s"])
def test_a_local_file_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """A user's own file of one of our names takes precedence, also in a folder whose name looks like a scale."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder).mkdir(exist_ok=True)
    text = model_yaml("yolo11-coordatt").read_text(encoding="utf-8").replace("nc: 80", "nc: 7")
    (tmp_path / folder / "yolo11-coordatt.yaml").write_text(text)
    for name in ("yolo11-coordatt.yaml", "yolo11s-coordatt.yaml"):
        assert tasks.yaml_model_load(f"{folder}/{name}" if folder != "." else name)["nc"] == 7
    if folder != ".":
        assert tasks.yaml_model_load("yolo11s-coordatt.yaml")["nc"] == 80


def test_a_wrong_folder_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that does not exist is an error, not our file; the message offers the bare name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist.* write yolo11-coordatt.yaml without a folder"):
        tasks.yaml_model_load("mine/yolo11-coordatt.yaml")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("yolo11n-coordat-bifpn.yaml", "yolo11n?-coordatt-bifpn.yaml"),
        ("yolov11n-coordatt.yaml", "yolo11n?-coordatt.yaml"),
        ("yolo11n-biffpn.yaml", "yolo11n?-bifpn.yaml"),
        ("yolo11n_coordatt_bifpn.yaml", "yolo11n?-coordatt-bifpn.yaml"),
    ],
)
def test_unknown_names_suggest_the_nearest(name: str, near: str) -> None:
    """A misspelled name raises the host's error with a suggestion; other unknown names raise it without one."""
    with pytest.raises(FileNotFoundError, match=near):
        YOLO(name)
    with pytest.raises(FileNotFoundError) as error:
        YOLO("yolo11n-something.yaml")
    assert "Did you mean" not in str(error.value)


def test_model_yaml() -> None:
    """The path of a shipped file exists; a scale letter or an unknown name is explained."""
    assert model_yaml("yolo11-coordatt-bifpn").is_file()
    assert model_yaml("yolo11-coordatt-bifpn.yaml") == model_yaml("yolo11-coordatt-bifpn")
    with pytest.raises(ValueError, match=r'scale s of the file yolo11-bifpn.yaml.*YOLO\("yolo11s-bifpn.yaml"\)'):
        model_yaml("yolo11s-bifpn")
    with pytest.raises(FileNotFoundError, match="Did you mean yolo11-bifpn.yaml"):
        model_yaml("yolo11-bifnp")
    with pytest.raises(FileNotFoundError, match="`yolo-coordbifpn models` lists them"):
        model_yaml("resnet50")
