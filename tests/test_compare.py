"""Comparisons: statistics, plan, report and command. The processes are tested in test_compare_processes.py."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import random
import re
import runpy
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from conftest import ROOT
from filelock import FileLock
from markdown_it import MarkdownIt
from new_process import COMPARE, Program, all_end, run_fresh, run_python
from PIL import Image

from yolo_coordbifpn import graft
from yolo_coordbifpn.commands import main
from yolo_coordbifpn.commands.scenes import write_scenes
from yolo_coordbifpn.compare import plots
from yolo_coordbifpn.compare.arguments import all_arguments, image_size, train_arguments
from yolo_coordbifpn.compare.devices import read_devices, torch_device
from yolo_coordbifpn.compare.formats import Report, Table, latex, markdown
from yolo_coordbifpn.compare.labels import label_models
from yolo_coordbifpn.compare.latency import in_turn
from yolo_coordbifpn.compare.metrics import larger_is_better, main_metric, table_metrics
from yolo_coordbifpn.compare.object_sizes import average_precision
from yolo_coordbifpn.compare.plan import Plan, Run
from yolo_coordbifpn.compare.preview import duration
from yolo_coordbifpn.compare.report import _next_bigger, write_report
from yolo_coordbifpn.compare.resume import ResumeState
from yolo_coordbifpn.compare.session import compare
from yolo_coordbifpn.compare.statistics import difference, interval, verdict
from yolo_coordbifpn.compare.transfers import unequal_starts
from yolo_coordbifpn.compare.validation import _classes, _sizes
from yolo_coordbifpn.errors import CompareError
from yolo_coordbifpn.files import write, write_figure
from yolo_coordbifpn.host.machine import machine

# Statistics -----------------------------------------------------------------------------------------------------------


def test_intervals() -> None:
    """Student's t: three values have 4.303 standard errors on each side, two have 12.706; one value has no interval."""
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.count) == (2, 3)
    assert found.half == pytest.approx(4.30265 / math.sqrt(3), rel=1e-4)
    assert interval([1.0, 2.0]).half == pytest.approx(12.7062 * math.sqrt(0.5) / math.sqrt(2), rel=1e-4)
    assert math.isnan(interval([5.0]).low)
    assert (interval([3.0, 3.0, 3.0]).low, interval([3.0, 3.0, 3.0]).high) == (3, 3)


def test_differences_are_paired() -> None:
    """Seeds that move both models alike do not widen the interval; a seed that one model lacks is skipped."""
    base = {0: 0.10, 1: 0.50, 2: 0.90, 7: 0.3}
    ours = {0: 0.12, 1: 0.53, 2: 0.925, 9: 0.1}
    found = difference(ours, base)
    assert found.count == 3
    assert found.mean == pytest.approx(0.025)
    assert verdict(found) == "better"
    assert verdict(found, larger_is_better=False) == "worse"
    assert verdict(difference(base, ours)) == "worse"
    assert verdict(difference({0: 0.1, 1: 0.6, 2: 0.4}, {0: 0.2, 1: 0.5, 2: 0.4})) == "not shown"


def test_no_verdict_without_evidence() -> None:
    """Fewer than three seeds, or equal differences, give no verdict, and the reason."""
    assert verdict(difference({0: 1.0}, {0: 0.0})) == "no verdict: 1 seed, at least 3 are needed"
    assert verdict(difference({0: 0.5, 1: 0.7}, {0: 0.1, 1: 0.2})) == "no verdict: 2 seeds, at least 3 are needed"
    base = {0: 0.1, 1: 0.2, 2: 0.3}
    same = {seed: value + 0.1 for seed, value in base.items()}  # equal but for rounding errors
    assert verdict(difference(same, base)) == "no verdict: no variance between seeds"
    assert verdict(difference(base, base)) == "no verdict: no variance between seeds"


def test_precision_by_size() -> None:
    """Perfect boxes give 1, missed ones 0, each in its own size; sizes without objects are skipped."""
    images = {"a": (200, 200), "b": (200, 200)}
    truths = [("a", 0, [10, 10, 20, 20]), ("a", 1, [50, 50, 100, 120]), ("b", 0, [5, 5, 10, 12])]
    every = average_precision(images, truths, [(*x, 0.9) for x in truths])
    assert every == {
        "small": 1.0,
        "large": 1.0,
        "small objects": 2,
        "large objects": 1,
        "small fewest": 2,
        "large fewest": 1,
    }
    large = average_precision(images, truths, [("a", 1, [50, 50, 100, 120], 0.9)])
    assert (large["small"], large["large"]) == (0.0, 1.0)
    assert average_precision(images, truths, [])["small"] == 0
    assert average_precision(images, [], []) == {}


# Plan -----------------------------------------------------------------------------------------------------------------


def planned(folder: Path, **changes: Any) -> Plan:
    """Make a plan of two models and three seeds."""
    options: dict[str, Any] = {
        "models": ("yolo11n.yaml", "yolo11n-bifpn.yaml"),
        "seeds": (0, 1, 2),
        "train": {"epochs": 2, "imgsz": 64, "data": "my.yaml"},
    }
    options |= changes
    return Plan(folder, **{"labels": label_models(options["models"], {}), **options})


def test_runs_pair_the_seeds(tmp_path: Path) -> None:
    """All models of a seed follow each other, and a plan is read as it was written."""
    plan = planned(tmp_path / "x")
    plan.start()
    assert [(x.label, x.seed) for x in plan.runs[:3]] == [("yolo11n", 0), ("yolo11n-bifpn", 0), ("yolo11n", 1)]
    assert Plan.read(tmp_path / "x") == plan
    plan.start()  # the same again


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"seeds": (0, 1)},
            "seeds= has changed: .* was started with 0,1,2, now it is 0,1. Give the first value to continue",
        ),
        ({"models": ("yolo11n.yaml",)}, "models= has changed"),
        ({"train": {"epochs": 3, "imgsz": 64, "data": "my.yaml"}}, "epochs= has changed: .* with 2, now it is 3"),
        ({"train": {"epochs": 2, "data": "my.yaml"}}, "imgsz= has changed: .* with 64, now it is no value"),
        ({"labels": ("a", "b")}, "labels= has changed: .* with yolo11n,yolo11n-bifpn, now it is a,b"),
    ],
)
def test_another_plan_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A changed argument is named, and the folder is unchanged."""
    planned(tmp_path / "x").start()
    before = (tmp_path / "x" / "plan.json").read_bytes()
    with pytest.raises(CompareError, match=message):
        planned(tmp_path / "x", **changes).start()
    assert (tmp_path / "x" / "plan.json").read_bytes() == before


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    """Seeds that are added after a model YAML or the data have changed could not be compared with the first ones."""
    model, data = tmp_path / "my.yaml", tmp_path / "data.yaml"
    model.write_text("nc: 2")
    data.write_text("nc: 2")
    changes = {"models": ("yolo11n.yaml", str(model)), "train": {"epochs": 2, "data": str(data)}}
    planned(tmp_path / "x", **changes).start()
    planned(tmp_path / "x", **changes, seeds=(0, 1, 2, 3)).start()
    for file in (model, data):
        file.write_text("nc: 3")
        with pytest.raises(
            CompareError, match=f"{re.escape(str(file))} has changed since .* was started.* Restore it to continue"
        ):
            planned(tmp_path / "x", **changes, seeds=(0, 1, 2, 3, 4)).start()
        file.write_text("nc: 2")
    planned(tmp_path / "x", **changes, seeds=(0, 1, 2, 3, 4)).start()


def test_a_plan_grows(tmp_path: Path) -> None:
    """More seeds and models, in another order too, change the stored plan; names of models stay as they are."""
    first = planned(tmp_path / "x")
    first.start()
    models = ("new/yolo11n.yaml", *first.models)
    labels = label_models(models, dict(zip(first.models, first.labels)))
    grown = planned(tmp_path / "x", models=models, labels=labels, seeds=(5, 0, 1, 2))
    grown.start()
    assert Plan.read(tmp_path / "x") == grown
    assert grown.labels == ("new-yolo11n", "yolo11n", "yolo11n-bifpn")
    with pytest.raises(CompareError, match="models= has changed"):
        first.start()


@pytest.mark.parametrize(
    ("models", "labels"),
    [
        (("yolo11n.yaml", "runs/detect/train3/weights/best.pt"), ("yolo11n", "train3")),
        (("/A/train/weights/best.pt", "/B/train/weights/best.pt", "m.yaml"), ("A-train", "B-train", "m")),
        (("/r/a/x/t/weights/best.pt", "/r/b/x/t/weights/last.pt"), ("a-x-t", "b-x-t")),
        (("r/t/weights/best.pt", "r/t/weights/last.pt"), ("best.pt", "last.pt")),
        (("a/Best.yaml", "b/best.yaml"), ("a-Best", "b-best")),  # one folder on Windows and macOS
        (("yolo11n.yaml", "/weights/best.pt"), ("yolo11n", "best")),  # a mount of a container
        (("yolo11n.yaml", "yolo11n.pt", "weights/yolo11n.pt"), ("yolo11n.yaml", "yolo11n.pt", "yolo11n")),
    ],
)
def test_models_get_names_of_their_own(models: tuple[str, ...], labels: tuple[str, ...]) -> None:
    """A checkpoint is named after its run, and equal names get as many parent folders as needed."""
    assert label_models(models, {}) == labels


@pytest.mark.parametrize(("device", "seen"), [("cuda:1", ["cuda:1"] * 4), ("mps", []), ("cpu", [])])
def test_the_clock_waits_for_the_device_that_is_timed(
    device: str, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after each measurement; a GPU is named, since the current one may be another."""
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda x: calls.append(str(x)))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: None)
    in_turn({"model": lambda: None}, torch.device(device), 2)
    assert calls == seen


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (("a.yaml", "a.yaml"), "models= names a.yaml twice; give each model once"),
        (("a-b.yaml", "a/b.yaml", "c/b.yaml"), "models= has the name a-b twice; give each model a name with labels="),
    ],
)
def test_models_of_one_name_are_refused(models: tuple[str, ...], message: str) -> None:
    """What the paths cannot tell apart is an error that says what to do."""
    with pytest.raises(CompareError, match=message):
        label_models(models, {})


@pytest.mark.parametrize(
    ("text", "engine", "devices"),
    [
        ("cpu,cpu", "local", ["cpu", "cpu"]),
        ("gpu", "ray", ["gpu"]),
        ("0,1,7", "ray", ["gpu"]),
        ("cpu", "ray", ["cpu"]),
        ("gpu", "local", None),
        ("cpu,0", "ray", None),
        ("cpu", "slurm", None),
    ],
)
def test_devices(text: str, engine: str, devices: list[str] | None) -> None:
    """A cluster may have GPUs that this machine has not; locally only devices of this machine are accepted."""
    if devices is None:
        with pytest.raises(CompareError, match=r"engine= must be|devices= takes"):
            read_devices(text, engine)
    else:
        assert read_devices(text, engine) == devices


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    """A folder that contains no comparison is unchanged: nothing is written or deleted."""
    for name in ("thesis.txt", "draft.part"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(CompareError, match="contains no comparison; give another name="):
        compare(planned(tmp_path), ["cpu"], "local")
    assert {x.name for x in tmp_path.iterdir()} == {"thesis.txt", "draft.part"}
    for folder in (tmp_path / "thesis.txt", tmp_path / "thesis.txt" / "x"):
        with pytest.raises(
            CompareError, match=r"contains no comparison|thesis.txt is not a folder that can be written"
        ):
            planned(folder).check()


# Runs ----------------------------------------------------------------------------------------------------------------


def test_the_last_epoch_is_saved_when_the_training_has_ended(tmp_path: Path) -> None:
    """What follows the last epoch, such as the threshold of a grid, is not lost by an interrupt in between."""
    (tmp_path / "weights").mkdir()
    file, best = tmp_path / "resume.pt", tmp_path / "weights" / "best.pt"
    parts = SimpleNamespace(state_dict=dict, ema=SimpleNamespace(state_dict=dict), updates=1)
    trainer = SimpleNamespace(
        stop=False, epoch=0, epochs=2, device="cpu", save_dir=tmp_path, batch_size=8, model=parts, ema=parts,
        optimizer=parts, scaler=parts, stopper=SimpleNamespace(best_epoch=0), best_fitness=0.5,
    )  # fmt: skip
    state = ResumeState(file, 0)
    for epoch, text in enumerate((b"first", b"second")):
        best.write_bytes(text)
        trainer.epoch, state._epoch_start = epoch, 0.0
        state.on_fit_epoch_end(trainer)
    assert ResumeState(file, 0).state["files"]["weights/best.pt"] == b"first"
    assert not ResumeState(file, 0).finished
    best.write_bytes(b"with its threshold")
    state.finish(tmp_path)
    ended = ResumeState(file, 0)
    assert (ended.finished, ended.batch, len(ended.seconds)) == (True, 8, 2)
    best.unlink()
    ended.restore_files(tmp_path)
    assert best.read_bytes() == b"with its threshold"


@pytest.mark.parametrize(("names", "found"), [(("a/1.jpg", "b/2.jpg"), True), (("a/1.jpg", "b/01.png"), False)])
def test_images_with_one_name(names: Sequence[str], found: bool, tmp_path: Path) -> None:
    """AP by size is left out if the host's results do not tell which of two images they are of."""
    labels = []
    for name in names:
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (64, 64)).save(tmp_path / name)
        labels.append({"im_file": str(tmp_path / name), "cls": np.zeros((1, 1)), "bboxes": np.full((1, 4), 0.5)})
    box = {"image_id": 1, "category_id": 1, "bbox": [16, 16, 32, 32], "score": 0.9}
    dataset = SimpleNamespace(dataset=SimpleNamespace(labels=labels))
    validator = SimpleNamespace(dataloader=dataset, class_map=[1], jdict=[box])
    assert bool(_sizes(validator)) == found


def test_classes_have_the_metric_of_the_task() -> None:
    """The mAP by class of a segmentation is that of masks, as the mAP over all classes."""
    parts = {x: SimpleNamespace(ap_class_index=[0], maps=[k]) for k, x in enumerate(("box", "seg", "pose"))}
    metrics = SimpleNamespace(names={0: "cell"}, **parts)
    assert [_classes(metrics, x)["cell"] for x in ("detect", "obb", "segment", "pose")] == [0, 0, 1, 2]


def test_the_machine_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on the processor of a machine with a GPU does not name the GPU."""
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"GPU {device.index}")
    assert machine(torch_device("1")) == "GPU 1"
    assert "threads" in machine(torch_device("cpu"))


# Report ---------------------------------------------------------------------------------------------------------------


def finished(plan: Plan, values: dict[str, Sequence[float | None]]) -> None:
    """Write results as if all runs had finished."""
    plan.start()
    for run in plan.runs:
        value = values[run.label][plan.seeds.index(run.seed)]
        if value is not None:
            finish(run, value)
    latency = {x: {"low": 4.0 + k, "median": 4.1 + k, "high": 4.3 + k} for k, x in enumerate(plan.labels)}
    timed = {"device": "CPU", "imgsz": 64, "rounds": 60, "models": latency}
    write(plan.folder / "latency.json", json.dumps(timed))


def finish(run: Run, value: float) -> None:
    """Write the result of a run as if it had finished."""
    run.folder.mkdir(parents=True)
    result = {
        "model": run.label, "seed": run.seed, "ultralytics": "8.4.190", "torch": "2.15", "python": "3.11",
        "yolo_coordbifpn": "0.1.0", "commit": "abc", "machine": "CPU <two & cores>", "epochs": 2, "batch_size": 16,
        "train_seconds": 10.0, "peak_memory_mib": 500.0, "items": "499/499", "task": "detect",
        "metrics": {"metrics/mAP50(B)": value + 0.2, "metrics/mAP50-95(B)": value},
        "classes": {"cell_a": value, "cell_b": value}, "sizes": {"small": value, "small objects": 12},
        "parameters": 2_600_000, "gflops": 6.6, "best": "x/best.pt",
    }  # fmt: skip
    write(run.folder / "result.json", json.dumps(result))
    (run.folder / "train").mkdir()
    rows = "\n".join(f"{k},{value * k / 4}" for k in range(1, 5))
    (run.folder / "train" / "results.csv").write_text(f"epoch,  metrics/mAP50-95(B)\n{rows}\n")


@pytest.mark.slow
def test_the_report_says_what_the_intervals_say(tmp_path: Path) -> None:
    """Better, worse and not shown, with the numbers, in every format; the page needs no outside resources."""
    labels = ("yolo11n", "yolo11n-bifpn", "yolo11n-se", "yolo11n-coordatt")
    plan = planned(tmp_path / "x", models=tuple(f"{x}.yaml" for x in labels))
    values = {
        labels[0]: (0.5, 0.55, 0.6),
        labels[1]: (0.52, 0.572, 0.618),
        labels[2]: (0.4, 0.45, 0.51),
        labels[3]: (0.502, 0.548, 0.601),
    }
    finished(plan, values)
    plan.write_rows()
    write_report(plan)
    text = (plan.folder / "report.md").read_text(encoding="utf-8")
    assert "yolo11n-bifpn against yolo11n: better; mAP50-95 differs by +0.0200 (+0.0112 ... +0.0288)" in text
    assert "yolo11n-se against yolo11n: worse; mAP50-95 differs by -0.0967" in text
    assert "yolo11n-coordatt against yolo11n: not shown" in text
    assert "INCOMPLETE" not in text
    assert "add yolo11s.yaml to models=" in text
    assert "Better or worse if the interval excludes 0, otherwise not shown" in text
    half = f"{4.30265 * statistics.stdev(values[labels[1]]) / math.sqrt(3):.4f}"
    assert f"| yolo11n-bifpn | 0.7700 ± {half} | 0.5700 ± {half} | 2.600 | 6.60 | 5.10 (5.00-5.30) |" in text
    page = (plan.folder / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    assert "CPU &lt;two &amp; cores&gt;" in page
    assert page.count("<img") == 2
    tex = (plan.folder / "report.tex").read_text(encoding="utf-8")
    assert "cell\\_a & $" not in tex
    assert "cell\\_a & 0.5500 $\\pm$ 0.1242" in tex
    assert tex.count("\\toprule") == tex.count("\\bottomrule") == 5
    with (plan.folder / "summary.csv").open(encoding="utf-8") as file:
        rows = {(r["model"], r["metric"]): r for r in csv.DictReader(file)}
    assert rows["yolo11n-bifpn", "mAP50-95"]["verdict"] == "better"
    assert float(rows["yolo11n-bifpn", "mAP50-95"]["difference"]) == pytest.approx(0.02)
    assert rows["yolo11n", "mAP50-95"]["verdict"] == ""
    for name in ("curves.png", "pareto.png"):
        assert Image.open(plan.folder / name).size[0] > 1000
    with (plan.folder / "runs.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 12


@pytest.mark.slow
def test_an_incomplete_report_says_so(tmp_path: Path) -> None:
    """Missing seeds are named first, and a model without any result has a row that says missing."""
    plan = planned(tmp_path / "x", models=("yolo11n.yaml", "yolo11n-bifpn.yaml", "yolo11s.yaml"))
    nothing = (None, None, None)
    finished(plan, {"yolo11n": (0.5, 0.6, None), "yolo11n-bifpn": (0.5, None, None), "yolo11s": nothing})
    write_report(plan)
    text = (plan.folder / "report.md").read_text(encoding="utf-8")
    assert "- INCOMPLETE: 3 of 9 runs are finished. Missing: yolo11s seed 0, yolo11n-bifpn seed 1" in text
    assert "| yolo11s | missing |" in text
    assert "no verdict: 1 seed, at least 3 are needed" in text
    assert "yolo11s is the next larger stock model" in text


@pytest.mark.slow
def test_unequal_runs_are_named(tmp_path: Path) -> None:
    """A batch that the host had to halve, and another version in the middle of a comparison, are findings."""
    plan = planned(tmp_path / "x")
    finished(plan, {"yolo11n": (0.5, 0.6, 0.7), "yolo11n-bifpn": (0.6, 0.7, 0.8)})
    for name, change in (("yolo11n-bifpn-seed1", {"batch_size": 8}), ("yolo11n-seed2", {"torch": "2.16"})):
        file = plan.folder / "runs" / name / "result.json"
        write(file, json.dumps({**json.loads(file.read_text()), **change}))
    write_report(plan)
    text = (plan.folder / "report.md").read_text(encoding="utf-8")
    assert "Not comparable: for lack of memory the host trained yolo11n-bifpn seed 1 with batches of 8 images" in text
    assert "The runs have different versions, which may explain a difference: Ultralytics 8.4.190, torch 2.15" in text
    assert text.count("torch 2.16") == 2  # there and in the notes


@pytest.mark.parametrize(
    ("name", "bigger"),
    [
        ("yolo11n", "yolo11s"),
        ("yolo11n-bifpn", "yolo11s"),
        ("yolov8m-pose", "yolov8l-pose"),
        ("yolov9m", ""),
        ("x", ""),
    ],
)
def test_the_next_larger_stock_model(name: str, bigger: str) -> None:
    """It is the stock model of the next scale if the host has that."""
    assert _next_bigger(name) == bigger


def test_unequal_starts_come_first(tmp_path: Path) -> None:
    """The first lines of a report name checkpoints beside YAMLs, and models with far fewer pretrained items."""
    plan = planned(tmp_path / "x", models=("yolo11n.yaml", "/runs/train3/weights/best.pt"))
    finished(plan, {"yolo11n": (0.5, 0.6, 0.7), "train3": (0.6, 0.7, 0.8)})
    for file in plan.folder.glob("runs/yolo11n-*/result.json"):
        write(file, json.dumps({**json.loads(file.read_text()), "items": ""}))
    write_report(plan)
    lines = (plan.folder / "report.md").read_text(encoding="utf-8").splitlines()
    assert lines[2].startswith("- UNEQUAL STARTS: train3 from a checkpoint, yolo11n not.")
    assert lines[3].startswith("- UNEQUAL STARTS: the pretrained items are 499/499 in train3, but none in yolo11n.")
    models = {"a": "yolo11n.yaml", "b": "yolo11n.pt"}
    assert unequal_starts(models, {"a": "493/499", "b": "448/499"}, "yolo11n.pt") == []


@pytest.mark.parametrize(
    "name", ["\\textbf{x}", "a|b", "<script>", "R&D", "~a~ ^b^", "_a_ a_b", "*a* `b` [c](d)", "[a] b", "100 %"]
)
def test_names_are_escaped(name: str) -> None:
    """Names of models and classes are read as they are, by a Markdown renderer and by LaTeX."""
    report = Report(name, [f"{name} is better."], [f"Of {name}."], [Table(name, ["class", name], [[name, "1"]], name)])
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown(report, []))
    parts = [x.children or [] for x in tokens if x.type == "inline"]
    assert {child.type for children in parts for child in children} == {"text"}
    texts = ["".join(x.content for x in children) for children in parts]
    expected = [name, f"{name} is better.", name, "class", name, name, "1", name, "How it was run", f"Of {name}."]
    assert texts == expected
    tex = latex(report).partition("\\begin{table}")[2]
    commands = {"textbackslash{}": "\\", "textasciitilde{}": "~", "textasciicircum{}": "^", "textless{}": "<",
                "textgreater{}": ">", "textbar{}": "|"}  # fmt: skip
    head = tex.partition("\\toprule\n")[2].partition(" \\\\\n")[0].removeprefix("class & ")
    assert re.sub(r"\\(text\w+\{\}|.)", lambda x: commands.get(x[1], x[1]), head) == name
    assert not re.search(r"(?<!\\)[&%$#_]|[~^<>|]", head)
    assert not re.search(r"(\\\\|midrule)\s*[\[*]", tex)  # which would be an option of the command before


# The command ----------------------------------------------------------------------------------------------------------

SMALL = ["epochs=3", "imgsz=64", "batch=4", "nbs=4", "workers=0", "devices=cpu,cpu"]
SMALL_MODEL: dict[str, Any] = {  # a training of YOLO11n spends most of its time on checkpoints of many layers
    "nc": 4,
    "backbone": [*([-1, 1, "Conv", [8 * 2**i, 3, 2]] for i in range(5)), [-1, 1, "SPPF", [128, 5]]],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 3], 1, "Concat", [1]],
        [-1, 1, "Conv", [64, 1, 1]],
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 2], 1, "Concat", [1]],
        [-1, 1, "Conv", [32, 1, 1]],  # 11, N3
        [-1, 1, "Conv", [32, 3, 2]],
        [[-1, 8], 1, "Concat", [1]],
        [-1, 1, "Conv", [64, 1, 1]],  # 14, N4
        [-1, 1, "Conv", [64, 3, 2]],
        [[-1, 5], 1, "Concat", [1]],
        [-1, 1, "Conv", [128, 1, 1]],  # 17, N5
        [[11, 14, 17], 1, "Detect", ["nc"]],
    ],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw a data set of a few images."""
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", train=12, val=6, size=64, seed=0)


@pytest.fixture
def small_models(tmp_path: Path) -> str:
    """Write a small detector and its variant with our blocks, and return `models=` of both."""
    grafted = graft(SMALL_MODEL, bifpn="concat")
    for name, cfg in (("small", SMALL_MODEL), ("small-coordatt-bifpn", grafted)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(cfg, sort_keys=False), encoding="utf-8")
    return "models=small.yaml,small-coordatt-bifpn.yaml"


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        ([], "data= must be given", 2),
        (["data=x.yaml"], "epochs= must be given: the length of each training. See yolo-coordbifpn compare --help", 2),
        (["model=yolo11n"], "model= is set by the comparison. Did you mean models=?", 2),
        (["models=yolo11n-coordatt", "data=coco8.yaml", "epochs=1"], "models= takes yolo11n-coordatt.yaml, or", 2),
        (["data=coco8.yaml", "epochs=1"], "models= must name models", 2),
        (
            ["models=yolo11n.yaml", "data=coco8.yaml", "epochs=1", "seeds=0,0"],
            "seeds= must be different whole numbers",
            2,
        ),
        (
            ["models=yolo11n.yaml", "data=coco8.yaml", "epochs=1", "seeds=a"],
            "seeds= must be different whole numbers",
            2,
        ),
        (["models=yolo11n.yaml", "data=coco8.yaml", "epochs=1", "devices=7"], "devices= takes cpu", 1),
        (
            ["models=yolo11n.yaml", "variants=bifpn", "data=coco8.yaml", "epochs=1"],
            "variants= needs a name without .yaml",
            2,
        ),
        (
            ["models=yolo11n.yaml", "data=coco8.yaml", "epochs=1", "seeds=3-1"],
            "seeds= must be different whole numbers",
            2,
        ),
        (
            ["models=yolo11n.yaml", "data=coco8.yaml", "epochs=1", "seeds=0-2,2"],
            "seeds= must be different whole numbers",
            2,
        ),
        (["models=yolo11n", "data=coco8.yaml", "epochs=1", "labels=a,b"], "labels= must be 4 different names", 2),
        (["models=yolo11n.yaml", "data=coco8.yaml", "epochs=1", "labels=a/b"], "must not contain /", 2),
        (["models=yolo11n.yaml", "data=coco8.yaml", "epochs=1", "labels=a?"], "must not contain /", 2),
        (["models=yolo11n.yaml", "data=coco8.yaml", "epochs=1", "dry=yes"], "dry= must be True or False", 2),
        (["models=yolo11n.yaml", "data=coco8.yaml", "epochs=1", "seed=3"], "seed= is set by the comparison", 2),
        (["models=yolo31n", "data=coco8.yaml", "epochs=1"], "yolo31n.yaml: there is no such model YAML", 1),
        (["models=nowhere.pt", "data=coco8.yaml", "epochs=1"], "there is no checkpoint nowhere.pt", 1),
        (
            ["models=yolo11n.yaml", "data=coco8.yaml", "epochs=1", "pretrained=no.pt"],
            "pretrained=no.pt: there is no such",
            1,
        ),
        (
            ["models=yolo11n.yaml", "data=coco8.yaml", "epochs=1", "lr=1"],
            "the host's train does not accept lr=1: 'lr' is not a valid",
            1,
        ),
        (["models=yolo11n.yaml", "data=coco8.yaml", "epochs=1", "batch=-1"], "batch= must be a whole number of at", 1),
        (["models=yolo11n.yaml", "data=coco8.yaml", "epochs=1", "time=1"], "time= ends each run by the clock", 1),
        (["models=yolo11n.yaml", "data=coco8.yaml", "epochs=1", "cfg=time.yaml"], "time= ends each run by the cl", 1),
        (
            ["models=yolo11n.yaml", "data=coco8.yaml", "epochs=1", "cfg=typo.yaml"],
            "typo.yaml: the host's train does not",
            1,
        ),
        (
            ["models=yolo11n.yaml", "data=coco8.yaml", "epochs=1", "distill_model=no.pt"],
            "distill_model=no.pt: there is no such file",
            1,
        ),
        (["models=yolo11n", "data=coco8.yaml", "epochs=1", "seeds=4294967296"], "whole numbers below 2**32", 2),
        (["models=yolo11n.yaml,yolo11n.yaml", "labels=x,y", "data=coco8.yaml", "epochs=1"], "yolo11n.yaml twice", 1),
        (["models=yolo11n", "variants=bifpn", "labels=x,X", "data=coco8.yaml", "epochs=1"], "2 different names", 2),
        (["models=yolo11n.yaml", "data=coco8.yaml", "epochs=one"], "the host's train does not accept epochs=one", 1),
        (["models=yolo11n.yaml", "data=mine.yaml", "epochs=1"], "data=mine.yaml: there is no such file", 1),
        (["models=yolo11n.yaml", "data=coco8.yaml", "epochs=1", "engine=slurm"], "engine= must be local or ray", 1),
    ],
)
def test_bad_input(
    words: list[str],
    message: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What cannot be run is refused before anything is run."""
    monkeypatch.chdir(tmp_path)
    Path("time.yaml").write_text("time: 0.1")
    Path("typo.yaml").write_text("epochz: 3")
    assert main(["compare", *words]) == status
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/compare/compare/plan.json"))


def test_a_file_of_arguments(tmp_path: Path) -> None:
    """Arguments in cfg= count like those on the command line; it may be empty, but nothing else than arguments."""
    file = tmp_path / "my.yaml"
    for text, size in (("", 640), ("imgsz: 300", 320)):
        file.write_text(text)
        train, problems = train_arguments({"data": "coco8.yaml", "epochs": "1", "cfg": str(file)})
        assert not problems
        assert image_size(all_arguments(train)) == size
    for text, message in (("batch: -1", "batch= must be a whole number of at least 1, got -1"), ("- 1", "a list")):
        file.write_text(text)
        assert message in "".join(train_arguments({"epochs": "1", "cfg": str(file)})[1])


def test_downloaded_weights_are_no_change(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The preview downloads weights into the working folder; the plan has their path from the start."""
    monkeypatch.chdir(tmp_path)

    def preview(plan: Plan, *args: Any) -> str:
        (tmp_path / "yolo11n.pt").write_bytes(b"weights")
        return ""

    plans: list[Plan] = []
    monkeypatch.setattr("yolo_coordbifpn.compare.preview.preview", preview)
    monkeypatch.setattr("yolo_coordbifpn.compare.session.compare", lambda plan, *_: plans.append(plan) or 0)
    words = ["models=yolo11n.pt,yolo11n-bifpn.yaml", "pretrained=yolo11n.pt", f"data={data}", "epochs=1"]
    assert [main(["compare", *words]) for _ in range(2)] == [0, 0]
    assert plans[0] == plans[1]
    assert plans[0].train["pretrained"] == plans[0].models[0] == str(tmp_path / "yolo11n.pt")


def test_all_problems_at_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Models, checkpoints, tasks, data, arguments and devices are checked together, a line for each problem."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("nc: 3\nbackbone: [[-1, 1, Conf, [8]]]\nhead: [[[0], 1, Detect, [nc]]]\n")
    (tmp_path / "junk.pt").write_text("junk")
    models = "models=yolo11n.yaml,bad.yaml,junk.pt,yolo11n-pose.yaml,no/x.yaml,/no/y.pt"
    words = [f"data={data.parent / 'images'}", "epochs=-1", "imgsz=abc", "lr=3", "pretrained=/no/z.pt", "devices=7"]
    before = sorted(tmp_path.rglob("*"))
    assert main(["compare", models, *words]) == 1
    lines = capsys.readouterr().err.splitlines()
    starts = [
        "the host's train does not accept epochs=-1: ", "the host's train does not accept imgsz=abc: ",
        "the host's train does not accept lr=3: ", "pretrained=/no/z.pt: ", "devices= takes ",
        f"models=: {tmp_path / 'bad.yaml'}: ", f"models=: {tmp_path / 'junk.pt'}: ", "models=: no/x.yaml: ",
        "models=: there is no checkpoint /no/y.pt",
        "models= must have one task, got yolo11n detect, yolo11n-pose pose", f"data={data.parent / 'images'}: ",
    ]  # fmt: skip
    assert len(lines) == len(starts), lines
    for line, first in zip(lines, starts):
        assert line.startswith(f"yolo-coordbifpn compare: {first}")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("yolo11n-pose.yaml", "it has no kpt_shape, which models of the task pose need"),
        ("yolo11n-seg.yaml", "its labels have 5 columns, models of the task segment need at least 7"),
        ("yolo11n-obb.yaml", "its labels have 5 columns, models of the task obb need 9"),
        ("yolo11n-cls.yaml", "classification needs a folder with train/CLASS/IMAGE in it"),
    ],
)
def test_data_of_another_task(model: str, message: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model whose task needs other labels is refused before it is trained."""
    assert main(["compare", f"models={model}", f"data={data}", "epochs=1", "dry=True"]) == 1
    assert message in capsys.readouterr().err


def test_a_dry_run(tmp_path: Path) -> None:
    """It prints models, costs, pretrained items and time, and writes nothing, not even the label cache."""
    data = write_scenes(tmp_path / "scenes", train=8, val=4, size=64, seed=0)
    before = sorted([*tmp_path.rglob("*"), *data.parent.rglob("*")])
    words = ["models=yolo11n.yaml,yolo11n-bifpn.yaml", f"data={data}", *SMALL, "seeds=0-2,7", "labels=stock,ours"]
    out = compared(tmp_path, *words, "dry=True")
    assert re.search(r"(?m)^stock +detect +2\.\d+ +6\.\d+ +none +\d\S*$", out), out
    assert re.search(r"8 runs to train \(2 models x 4 seeds\): about \d+ min on cpu,cpu", out)
    assert sorted([*tmp_path.rglob("*"), *data.parent.rglob("*")]) == before


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "1 min"), (1500, "25 min"), (11_940, "3 h 20 min"), (7150, "2 h"), (180_500, "50 h")],
)
def test_durations_are_rounded(seconds: float, text: str) -> None:
    """Minutes below an hour, then tens of minutes, then hours."""
    assert duration(seconds) == text


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the extra the command says what to install, and the package itself does not need it."""
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert main(["compare", "models=yolo11n", "data=coco8.yaml", "epochs=1"]) == 2
    assert 'compare needs faster_coco_eval: pip install "yolo_coordbifpn[compare]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "status", "message"),
    [("--help", 0, "yolo-coordbifpn compare models="), ("epochs=1", 2, "data= must be given")],
)
def test_the_script_is_the_command(
    word: str, status: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`scripts/compare.py` takes the same arguments."""
    monkeypatch.setattr(sys, "argv", ["compare.py", word])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / "compare.py"), run_name="__main__")
    assert ended.value.code == status
    assert message in "".join(capsys.readouterr())


def start(folder: Path, *words: str) -> Program:
    """Start the command in a folder; the processes that it starts are forks, which need no time to import torch."""
    return Program("-c", COMPARE, *words, folder=folder)


def compared(folder: Path, *words: str) -> str:
    """Run the command to its end in a folder, on Linux as `start` does; return what it printed."""
    if sys.platform == "linux":
        done = start(folder, *words).ended()
    else:
        done = run_fresh("-m", "yolo_coordbifpn", "compare", *words, folder=folder)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def figures(folder: Path) -> list[dict[str, str]]:
    """Read the results of the runs, without what depends on the clock and the memory."""
    with (folder / "runs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("train_seconds", "peak_memory_mib")} for row in rows]


def losses(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Read the host's rows by epoch of every run, without the time."""
    found = {}
    for file in sorted(folder.glob("runs/*/train/results.csv")):
        with file.open(encoding="utf-8") as stream:
            found[file.parent.parent.name] = [
                {k.strip(): v for k, v in row.items() if k.strip() != "time"} for row in csv.DictReader(stream)
            ]
    return found


def kill_after(changes: int, folder: Path, process: Program) -> bool:
    """Kill a program when it has changed files in a folder some times; return whether it had not ended before."""
    before = None
    while changes:
        if not process.runs():
            process.ended()
            return False
        with contextlib.suppress(FileNotFoundError):
            now = {(x, x.stat().st_mtime_ns) for x in folder.rglob("*")}
            changes -= now != before
            before = now
        time.sleep(0.02)
    descendants = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    assert process.ended().returncode == -signal.SIGKILL
    assert all_end(descendants, 30)
    return True


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="kills forks")
def test_nothing_is_lost_when_it_is_killed_and_grows(data: Path, small_models: str, tmp_path: Path) -> None:
    """Grown by a model and a seed, and killed many times meanwhile, it gives the same numbers; no process is left."""
    common = [f"data={data}", *SMALL]
    words = [small_models, "seeds=0,1", *common]
    compared(tmp_path, *words, "name=calm")
    compared(tmp_path, small_models.partition(",")[0], "seeds=0", *common, "name=killed")
    calm_folder, killed = tmp_path / "runs" / "compare" / "calm", tmp_path / "runs" / "compare" / "killed"
    assert (len(figures(calm_folder)), len(figures(killed))) == (4, 1)

    # the later ones kill it when all runs are finished, while it reads the results and reports
    for moment in [*random.Random(0).sample(range(2, 41), 6), *range(2, 8, 2)]:
        kill_after(moment, killed, start(tmp_path, *words, "name=killed"))
    compared(tmp_path, *words, "name=killed")
    assert losses(killed) == losses(calm_folder)
    assert figures(killed) == figures(calm_folder)
    assert not list(killed.rglob("*.part"))
    assert not list(killed.rglob("resume.pt"))

    # the same command again does nothing; a changed argument is refused
    measured = [*killed.glob("runs/*/result.json"), killed / "latency.json"]
    before = [x.stat().st_mtime_ns for x in measured], (killed / "plan.json").read_bytes()
    compared(tmp_path, *words, "name=killed")
    assert [x.stat().st_mtime_ns for x in measured] == before[0]
    changed = start(tmp_path, *[x.replace("epochs=3", "epochs=4") for x in words], "name=killed").ended()
    assert "epochs= has changed" in changed.stderr
    assert (killed / "plan.json").read_bytes() == before[1]


@pytest.mark.slow
def test_on_a_local_ray(data: Path, small_models: str, tmp_path: Path) -> None:
    """A Ray that is started on this machine carries out a run."""
    pytest.importorskip("ray")
    words = [small_models.partition(",")[0], "seeds=0", f"data={data}", *SMALL, "engine=ray"]
    done = run_python("-m", "yolo_coordbifpn", "compare", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(figures(tmp_path / "runs" / "compare" / "compare")) == 1


@pytest.mark.slow
def test_a_failing_run_is_reported(data: Path, small_models: str, tmp_path: Path) -> None:
    """A model that fails in its run, here since its plan is not checked again, fails alone; the others are kept."""
    words = [f"data={data}", "epochs=1", *SMALL[1:-1]]
    folder = tmp_path / "runs" / "compare" / "compare"
    train, _ = train_arguments(dict(x.split("=") for x in words))
    models = (str(tmp_path / "small.yaml"), "yolo11n-pose.yaml")
    Plan(folder, models, label_models(models, {}), (0,), train).start()
    words += [f"models={','.join(models)}", "seeds=0", "devices=cpu,cpu"]
    done = run_python("-c", COMPARE, *words, folder=tmp_path)
    assert done.returncode == 1
    assert "yolo11n-pose seed 0 has no result:" in done.stderr
    assert len(figures(folder)) == 1
    assert "INCOMPLETE: 1 of 2 runs" in (folder / "report.md").read_text(encoding="utf-8")


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    """While another process holds the folder's lock, a comparison is refused and writes nothing."""
    plan = planned(tmp_path)
    plan.start()
    with FileLock(tmp_path / "compare.lock"), pytest.raises(CompareError, match="another process is working on"):
        compare(plan, ["cpu"], "local")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"), [([], "no validation images"), (["split=test"], "split=test, but it has")]
)
def test_data_without_images_to_validate_on(
    words: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are missed before anything is trained."""
    content = yaml.safe_load(data.read_text())
    (tmp_path / "empty").mkdir()
    root = Path(content.get("path") or data.parent)
    places = {"train": str(root / content["train"]), "val": str(root / content["val"] if words else tmp_path / "empty")}
    file = tmp_path / "data.yaml"
    file.write_text(yaml.safe_dump({**content, "path": str(tmp_path), **places}))
    command = ["compare", "models=yolo11n.yaml", f"data={file}", "epochs=1", "dry=True", *words]
    assert main(command) == 1
    assert message in capsys.readouterr().err


def test_metrics_of_other_tasks(tmp_path: Path) -> None:
    """Tables show mIoU and the measures of depth, of which errors are better the smaller they are."""
    depth = {"metrics/delta1": 0.9, "metrics/abs_rel": 0.1, "metrics/rmse": 0.5, "val/loss": 1.0, "fitness": 0.9}
    for metrics, main_one, shown in (
        ({"metrics/mIoU": 0.5, "metrics/pixel_acc": 0.8, "fitness": 0.5}, "mIoU", ["mIoU", "pixel_acc"]),
        (depth, "delta1", ["delta1", "abs_rel", "rmse"]),
    ):
        plan: Any = SimpleNamespace(results=[{"metrics": metrics}])
        assert main_metric(plan) == f"metrics/{main_one}"
        assert table_metrics(plan) == [f"metrics/{x}" for x in shown]
    assert [larger_is_better(x) for x in depth] == [True, False, False, False, True]


def test_names_that_matplotlib_reads_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with dollars or a leading underscore is drawn, and is in the legend."""
    for label in ("_base", "x$_$y"):
        (tmp_path / label / "train").mkdir(parents=True)
        (tmp_path / label / "train" / "results.csv").write_text("epoch,m\n1,0.1\n2,0.2\n")
    runs = [SimpleNamespace(label=x, folder=tmp_path / x, result={"seed": 0}) for x in ("_base", "x$_$y")]
    plan: Any = SimpleNamespace(labels=["_base", "x$_$y"], runs=runs, seed_counts="1", folder=tmp_path)
    figures: list[Any] = []
    monkeypatch.setattr(plots, "write_figure", lambda figure, *_, **__: figures.append(figure))
    plots.curves(plan, "m")
    monkeypatch.undo()
    (legend,) = figures[0].legends
    assert [x.get_text() for x in legend.texts] == ["_base", r"x\$_\$y"]
    assert write_figure(figures[0], tmp_path / "curves.png").is_file()
