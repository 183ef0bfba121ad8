"""Any model YAML, option or file gives a model that runs or an error that names the row, and the host is unchanged.

Runs a few cases of `scripts/fuzz.py`, always the same ones.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ROOT
from fuzz_report import BUILT, FINDING, OURS
from ultralytics.nn import tasks
from ultralytics.utils import LOGGER

from yolo_coordbifpn.registry.row_builder import RowBuilder

PACKAGE = ROOT / "yolo_coordbifpn"


@pytest.fixture
def fuzz(own_blocks: None) -> Iterator[Any]:
    """Import the script, and stop the host from logging each model."""
    pytest.importorskip("hypothesis", reason="hypothesis is not installed, see the extra `test`")
    pytest.importorskip("resource", reason="the script limits memory by a call of Unix")
    level = LOGGER.level
    LOGGER.setLevel(logging.CRITICAL)
    import fuzz

    yield fuzz
    LOGGER.setLevel(level)


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        pytest.param("rows", 120, marks=pytest.mark.slow),
        pytest.param("yamls", 80, marks=pytest.mark.slow),
        pytest.param("grafts", 40, marks=pytest.mark.slow),
        ("files", 10),
    ],
)
def test_cases(fuzz: Any, kind: str, count: int) -> None:
    """Each case is built and runs, or has the right error, and leaves the host unchanged; both outcomes occur."""
    bases = [fuzz.SMALL, *fuzz.load("yolo11.yaml"), *fuzz.load("yolov8-cls.yaml"), *fuzz.load("yolo11-bifpn.yaml")]
    result = fuzz.fuzz(kind, count, 0, bases)
    assert not result.findings, "\n\n".join(f"{case}\n{verdict.detail}" for case, verdict in result.findings.values())
    assert result.counts.total() >= count
    assert {outcome for outcome, _ in result.counts} >= {BUILT, OURS}


@pytest.mark.slow
def test_a_bare_error_is_a_finding(fuzz: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of ours that names no row is a finding, and is reduced to a single row."""

    def broken(*args: Any) -> Any:
        raise KeyError("CoordAtt")

    import fuzz_judge

    fuzz.warm_up()
    monkeypatch.setattr(fuzz, "warm_up", lambda: None)  # done, and not with what follows
    monkeypatch.setattr(RowBuilder, "resolve", broken)
    monkeypatch.setattr(RowBuilder, "explain", lambda *args: None)

    result = fuzz.fuzz("rows", 10, 0, [fuzz.SMALL])
    case, verdict = result.findings["KeyError", "test_fuzz.py:broken"]
    assert result.counts[FINDING, "KeyError"]
    assert "KeyError: 'CoordAtt'" in verdict.detail
    assert sum(fuzz_judge.is_ours(row) for row in case.cfg["backbone"] + case.cfg["head"]) == 1


def test_a_changed_host_is_a_finding(fuzz: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that a case leaves in the module of the parser is a finding."""
    import fuzz_judge

    monkeypatch.setattr(tasks, "left_behind", None, raising=False)
    monkeypatch.setattr(fuzz_judge, "build_and_run", lambda cfg, size: setattr(tasks, "left_behind", cfg))
    verdict = fuzz.judge(fuzz.Case("rows", fuzz.SMALL, fuzz.SMALL.cfg, {}), 20)
    assert (verdict.outcome, verdict.where) == (FINDING, "tasks.left_behind")


def test_a_hang_is_a_finding(fuzz: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of ours that takes too long is a finding if the nearest row of the host does not."""
    import fuzz_judge

    def work(cfg: dict[str, Any], size: int) -> None:
        while fuzz_judge.is_ours(cfg["head"][0]):
            pass

    monkeypatch.setattr(fuzz_judge, "build_and_run", work)
    cfg = {**fuzz.SMALL.cfg, "head": [[-1, 1, "CoordAtt", []]]}
    verdict = fuzz.judge(fuzz.Case("rows", fuzz.SMALL, cfg, {}), 0.2)
    assert (verdict.outcome, verdict.error) == (FINDING, "TimeLimit")


CALLS = {"eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load"}
KNOWN = {  # the only calls, and what they receive
    "patches/adaptive_nms.py: compile",  # the installed source of the host's NMS, with other calls where it suppresses
    "patches/parser.py: compile",  # the installed source of the host's parser, once with an added branch
}


def test_nothing_that_is_read_is_run() -> None:
    """No file of the package evaluates, executes or unpickles what it reads."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                weights_only = any(x.arg == "weights_only" and ast.unparse(x.value) == "True" for x in node.keywords)
                if name in CALLS or (name == "torch.load" and not weights_only):
                    found.add(f"{file.relative_to(PACKAGE).as_posix()}: {name}")
    assert found == KNOWN
