"""Shared fixtures: where real data is, if there is any, and how to run a new process."""

from __future__ import annotations

import gc
import logging
import os
import re
import shutil
import sysconfig
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from new_process import run_fresh, run_python
from shapes import shape_alone
from torch import Tensor, nn
from ultralytics.nn import tasks
from ultralytics.utils import LOGGER

from yolo_coordbifpn import install, uninstall
from yolo_coordbifpn.grafting.row_graph import Rows
from yolo_coordbifpn.graph.layers import Facts
from yolo_coordbifpn.registry import TABLE
from yolo_coordbifpn.registry.environment import VARIABLE

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("YOLO_COORDBIFPN_SHARED", ROOT.parent / "shared"))  # real data sets and weights

YOLO_COMMAND = shutil.which("yolo", path=sysconfig.get_path("scripts")) or "yolo"

os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # and so do the processes that they start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests over many model YAMLs as slow, except for those of YOLO11."""
    quick = re.compile(r"\[yolo11n?(-coordatt-bifpn)?\]")
    for item in items:
        if item.get_closest_marker("zoo") and not quick.search(item.name):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Exempt what the imports have made from garbage collection, which would take a tenth of the time."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef) -> None:
    """Seed torch with the fixture's name, so that no test depends on those that its worker ran before."""
    torch.manual_seed(zlib.crc32(fixturedef.argname.encode()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Seed torch with the test's name: a model that it builds is another one than that of a fixture."""
    torch.manual_seed(zlib.crc32(item.nodeid.encode()))


def tensors(out: object) -> Iterator[Tensor]:
    """Iterate over all tensors in a nested output."""
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, dict):
        for value in out.values():
            yield from tensors(value)
    elif isinstance(out, (list, tuple)):
        for value in out:
            yield from tensors(value)


def scrambled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give a model random batch-norm statistics, scales and shifts, as after a training."""
    generator = torch.Generator().manual_seed(seed)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor, low, high in ((m.running_mean, -0.5, 0.5), (m.running_var, 0.3, 2.0)):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
            for tensor, low, high in ((m.weight.data, 0.5, 1.5), (m.bias.data, -0.5, 0.5)):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return model.eval()


def alike(new: Any, old: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Pair the tensors of two outputs; the predictions of levels that only the new model has come last, and are cut."""
    if isinstance(old, Tensor):
        yield new[..., : old.shape[-1]], old
    elif isinstance(old, dict):
        old = old.get("one2many", old) if "one2many" not in new else old  # fusing leaves one of the two branches
        assert new.keys() == old.keys()
        for key in old:
            yield from alike(new[key], old[key])
    elif isinstance(old, (list, tuple)):
        for x, y in zip(new, old):
            yield from alike(x, y)


def gap(new: nn.Module, old: nn.Module, size: tuple[int, int] = (96, 64)) -> float:
    """Return the largest relative difference between the output tensors of two models in eval mode."""
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        a, b = new.eval()(x), old.eval()(x)
    if getattr(old, "end2end", False):  # the first tensor is sorted by score there, so its values cannot be compared
        a, b = a[1:], b[1:]
    pairs = list(alike(a, b))
    assert pairs
    return max(float((p - q).norm() / q.norm().clamp_min(1e-9)) for p, q in pairs)


def inserted(cfg: dict, *places: int, module: str = "CoordAtt", args: Sequence = (), repeats: int = 1) -> dict:
    """Insert a row after some layers of a model YAML."""
    rows = Rows(cfg, [Facts()] * len(cfg["backbone"] + cfg["head"]))
    for node in [rows.nodes[place] for place in places]:
        rows.insert_after(node, module, args).repeats = repeats
    return rows.cfg()


def yolo(folder: Path, *words: str, fresh: bool = False) -> str:
    """Run the stock command in a folder, in a fork unless it must be `fresh`, and return its output."""
    done = (run_fresh if fresh else run_python)(YOLO_COMMAND, *words, folder=folder)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-3000:]
    return text


@pytest.fixture(scope="session", autouse=True)
def host_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give the host a temporary settings folder, so that the user's is not changed."""
    os.environ["YOLO_CONFIG_DIR"] = str(tmp_path_factory.mktemp("settings"))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Any:
    """Capture the host's log, which does not propagate to other handlers."""
    LOGGER.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, LOGGER.name)
    yield caplog
    LOGGER.removeHandler(caplog.handler)


@pytest.fixture(scope="session")
def numbers() -> Tensor:
    """Draw random numbers for the weights of many models, more than the largest convolution has."""
    return torch.rand(2**24, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def quick_builds(numbers: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build models in less time: weights from one store, strides without convolutions, no count of operations."""
    forward, convolve = tasks.BaseModel.forward, nn.Conv2d._conv_forward
    building = []

    def draw(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        start = int(torch.randint(len(numbers) - tensor.numel(), ()))
        with torch.no_grad():
            tensor.copy_(numbers[start : start + tensor.numel()].view_as(tensor))
            return tensor.div_(tensor[0].numel() ** 0.5)

    def shape_of_new(*args: Any) -> Tensor:
        return (shape_alone if building else convolve)(*args)

    def run(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        building[:] = [] if hasattr(model, "stride") else [model]  # the host runs a new model to find its strides
        try:
            return forward(model, *args, **kwargs)
        finally:
            building.clear()

    monkeypatch.setattr(nn.init, "kaiming_uniform_", draw)
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", shape_of_new)
    monkeypatch.setattr(tasks.BaseModel, "forward", run)
    monkeypatch.setattr(tasks.BaseModel, "info", lambda *args, **kwargs: None)


@pytest.fixture
def own_blocks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Remove the blocks that a test registers."""
    monkeypatch.setenv(VARIABLE, "")
    before = dict(TABLE._rules), dict(TABLE._by_name), dict(TABLE.variants)
    yield
    uninstall()
    TABLE._rules, TABLE._by_name, TABLE.variants = before
    install()


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs Python code in an empty folder, in a fork unless it must be `fresh`."""

    def run(code: str, check: bool = True, fresh: bool = False, **env: str) -> str:
        done = (run_fresh if fresh else run_python)("-c", code, folder=tmp_path, **env)
        if check and done.returncode:
            raise AssertionError(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout if check else done.stdout + done.stderr

    return run


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many of the host's model YAMLs accept the blocks, and for which a variant is impossible."""
    reports = terminalreporter.getreports("passed")
    properties = [(key, value) for report in reports for key, value in report.user_properties if report.when == "call"]
    models = [value.split(" ", 2) for key, value in properties if key == "stock model"]
    if not models:
        return
    count = sum(int(number) for _, number, _ in models)
    terminalreporter.write_sep(
        "-", f"{len(models)} stock model YAMLs, {count} models with their scales, take the blocks"
    )
    for reason in sorted({reason for *_, reason in models if reason}):
        names = [name for name, _, why in models if why == reason]
        terminalreporter.write_line(f"{reason} ({len(names)}): {', '.join(names)}")
    for variant in sorted({key for key, _ in properties if key.startswith("no ")}):
        names = [value for key, value in properties if key == variant]
        terminalreporter.write_line(f"{variant} ({len(names)}): {', '.join(names)}")
