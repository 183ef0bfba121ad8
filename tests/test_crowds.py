"""`yolo-coordbifpn nms`: fixed, soft and adaptive NMS on the same predictions."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED
from ultralytics import YOLO

from yolo_coordbifpn.commands import main
from yolo_coordbifpn.commands.scenes import write_scenes
from yolo_coordbifpn.crowds import sweep as sweeping
from yolo_coordbifpn.crowds.report import best, table, verdict, write_report
from yolo_coordbifpn.crowds.scores import Score, Tally, _matches
from yolo_coordbifpn.errors import InspectError
from yolo_coordbifpn.host.models import open_model

WEIGHTS = SHARED / "weights" / "yolo11n-coco-int8dq.pt"
COCO8 = SHARED / "data" / "coco8" / "data.yaml"
OPTIONS = {"imgsz": 160, "workers": 0, "device": "cpu", "verbose": False}


def test_matches() -> None:
    """The better detection takes the nearer object, and the next one what is left, at each level of IoU by itself."""
    overlaps = np.array([[0.9, 0.8, 0.0], [0.6, 0.7, 0.0]])
    found, right = _matches(overlaps, np.array([0.5, 0.75]))
    assert found.tolist() == [[True, True], [True, False]]
    assert right.tolist() == [[True, True], [True, False], [False, False]]
    found, right = _matches(np.zeros((0, 2)), np.array([0.5]))
    assert right.tolist() == [[False], [False]]


@pytest.mark.parametrize("rotated", [False, True])
def test_tally(rotated: bool) -> None:
    """Recall is that of all objects and of the crowded ones, and only sure detections count; mAP has them all."""
    boxes = torch.tensor([[0.0, 0, 40, 40], [100, 100, 140, 140]])
    if rotated:
        boxes = torch.tensor([[20.0, 20, 40, 30, 0.3], [120, 120, 40, 30, 0.3]])
    score, where = torch.tensor([0.9, 0.8, 0.6, 0.1]), torch.tensor([0, 0, 0, 1])
    rows = torch.cat((boxes[where, :4], score[:, None], torch.tensor([0.0, 0, 1, 0])[:, None], boxes[where, 4:]), 1)
    tally = Tally("fixed", 0.7, 0.25)
    tally.add(rows, boxes, torch.zeros(2), torch.tensor([0.4, 0.6]))
    tally.add(rows[:0], boxes[:1], torch.zeros(1), torch.tensor([0.0]))
    found = tally.score()
    assert found.recall == pytest.approx(1 / 3)  # of three objects, the second has only a detection of score 0.1
    assert found.crowded == pytest.approx((1 / 2, 0.0))
    assert found.false_positives == pytest.approx(2 / 2)  # the duplicate and the other class, over two images
    assert 0.4 < found.map50 < 0.7  # right, wrong, right: of three objects two
    empty = Tally("fixed", 0.7, 0.25)
    empty.add(rows[:0], boxes, torch.zeros(2), torch.zeros(2))
    assert empty.score().map == 0
    assert np.isnan(empty.score().crowded[0])


def scores(*values: tuple[str, float, float]) -> list[Score]:
    """Make scores of a kind, threshold and mAP."""
    return [Score(kind, x, m, m, 0.5, (0.4, 0.3), 2.0) for kind, x, m in values]


def test_report(tmp_path: Path) -> None:
    """A star marks the best of each kind, and the sentence says which of the two is better."""
    found = scores(("fixed", 0.5, 0.3), ("fixed", 0.6, 0.4), ("adaptive", 0.5, 0.45))
    lines = table(found).splitlines()
    assert [line.endswith("*") for line in lines] == [False, False, True, True]
    assert best(found)["fixed"].threshold == 0.6
    assert "Adaptive NMS at its best N_t, 0.50, is better than the best fixed threshold, 0.60" in verdict(found)
    assert "is worse than" in verdict(scores(("fixed", 0.5, 0.3), ("adaptive", 0.5, 0.2)))
    assert "is as good as" in verdict(scores(("fixed", 0.5, 0.3), ("adaptive", 0.5, 0.3)))
    assert "no DensityHead" in verdict(found[:2])
    nothing = [Score("fixed", 0.5, 0.0, 0.0, math.nan, (math.nan, math.nan), 0.0)]
    assert verdict(nothing) == "The data have no objects, so no NMS is better than another."
    files = write_report(found, tmp_path / "new")
    assert all(file.stat().st_size > 100 for file in files)
    with files[0].open() as stream:
        assert [row["mAP50-95"] for row in csv.DictReader(stream)] == ["0.3000", "0.4000", "0.4500"]


@pytest.mark.slow
@pytest.mark.skipif(not (WEIGHTS.is_file() and COCO8.is_file()), reason="YOLO_COORDBIFPN_SHARED has no such data")
def test_sweep_with_a_single_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With single_cls=True the fixed threshold gives the host's own mAP too."""
    monkeypatch.setattr(sweeping, "THRESHOLDS", (0.7,))
    options = {"project": str(tmp_path), "single_cls": True, **OPTIONS}
    found = sweeping.sweep(WEIGHTS, str(COCO8), 0.01, **options)
    host = YOLO(str(WEIGHTS)).val(data=str(COCO8), plots=False, **options)
    assert found[0].map == pytest.approx(host.box.map, abs=1e-6)
    assert found[0].map > 0.1


@pytest.mark.slow
@pytest.mark.skipif(not (WEIGHTS.is_file() and COCO8.is_file()), reason="YOLO_COORDBIFPN_SHARED has no such data")
def test_sweep_is_the_hosts_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixed threshold gives the host's own mAP; low densities change nothing, high ones keep more boxes."""
    monkeypatch.setattr(sweeping, "THRESHOLDS", (0.5, 0.7))
    model = YOLO("yolo11n-anms.yaml").load(str(WEIGHTS))
    results: list[dict[str, Any]] = []
    for density in (0.2, 0.9):
        for level in model.model.model[-2].levels:
            level.out.bias.data.fill_(float(np.log(density / (1 - density))))
        model.save(tmp_path / "model.pt")
        found = sweeping.sweep(tmp_path / "model.pt", str(COCO8), 0.01, project=str(tmp_path), **OPTIONS)
        results.append({f"{x.kind} {x.threshold}": x for x in found})
    plain, crowded = results
    host = YOLO(str(WEIGHTS)).val(data=str(COCO8), plots=False, project=str(tmp_path), **OPTIONS)
    assert plain["fixed 0.7"].map50 == pytest.approx(host.box.map50, abs=1e-6)
    assert plain["fixed 0.7"].map == pytest.approx(host.box.map, abs=1e-6)
    assert plain["adaptive 0.5"].row() == {**plain["fixed 0.5"].row(), "NMS": "adaptive"}
    assert plain["fixed 0.5"].row() == crowded["fixed 0.5"].row()
    assert plain["soft 0.5"].row() == crowded["soft 0.5"].row() != crowded["adaptive soft 0.5"].row()
    assert crowded["adaptive 0.5"].false_positives > plain["adaptive 0.5"].false_positives


def test_each_nms_gets_the_same_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older hosts convert the boxes in place, which must not change what the next threshold sees."""
    monkeypatch.setattr(sweeping, "THRESHOLDS", (0.5, 0.5))
    seen: list[torch.Tensor] = []
    original = sweeping.host_nms()

    def in_place(x: torch.Tensor, **options: Any) -> Any:
        seen.append(x.clone())
        found = original(x, **options)
        x.zero_()
        return found

    monkeypatch.setattr(sweeping, "host_nms", lambda: in_place)
    data = write_scenes(tmp_path / "scenes", train=1, val=1, size=64, seed=0)
    YOLO("yolo11n.yaml").save(tmp_path / "model.pt")
    sweeping.sweep(tmp_path / "model.pt", str(data), project=str(tmp_path), **{**OPTIONS, "imgsz": 64})
    assert len(seen) == 3  # two fixed, one soft
    assert all(torch.equal(x, seen[0]) for x in seen)
    assert seen[0].any()


@pytest.mark.parametrize("classes", [1, [1, 2]])
def test_boxes_of_other_classes_do_not_count(classes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `classes=` the host keeps the labels of these alone, so the boxes of the others are not false positives."""
    monkeypatch.setattr(sweeping, "THRESHOLDS", (0.5,))
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(sweeping.Tally, "add", lambda tally, rows, *image: seen.append(rows))
    monkeypatch.setattr(sweeping.Tally, "score", lambda tally: None)
    data = write_scenes(tmp_path / "scenes", train=1, val=1, size=64, seed=0)
    yolo = YOLO("yolo11n.yaml")
    for branch in yolo.model.model[-1].cv3:
        branch[-1].bias.data.zero_()  # scores of about a half in place of almost 0
    yolo.save(tmp_path / "model.pt")
    options = {"project": str(tmp_path), **OPTIONS, "imgsz": 64}
    sweeping.sweep(tmp_path / "model.pt", str(data), **options)
    assert len(seen[0][:, 5].unique()) > 2
    sweeping.sweep(tmp_path / "model.pt", str(data), classes=classes, **options)
    assert {*seen[-1][:, 5].tolist()} <= {1.0, 2.0}
    assert len(seen[-1])


def test_a_model_without_its_densities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the predictions come without densities, there is an error in place of rows of the plain NMS."""
    monkeypatch.setattr(sweeping, "DENSITIES", "other")
    data = write_scenes(tmp_path / "scenes", train=1, val=1, size=64, seed=0)
    YOLO("yolo11n-anms.yaml").save(tmp_path / "model.pt")
    with pytest.raises(InspectError, match="gives no densities in this validation"):
        sweeping.sweep(tmp_path / "model.pt", str(data), project=str(tmp_path), **{**OPTIONS, "imgsz": 64})


@pytest.mark.slow
def test_models_without_nms(tmp_path: Path) -> None:
    """A classifier, and a head that needs no NMS, are errors that say so."""
    YOLO("yolo11n-cls.yaml").save(tmp_path / "cls.pt")
    with pytest.raises(InspectError, match="is a model of the task classify; NMS is for detect, segment, pose, obb"):
        sweeping.sweep(tmp_path / "cls.pt", "coco8.yaml")
    data = write_scenes(tmp_path / "scenes", train=1, val=1, size=64, seed=0)
    for name, options in {"yolo26n": {"nms": False}, "yolov10n": {"end2end": True}, "rtdetr-resnet50": {}}.items():
        open_model(f"{name}.yaml").save(tmp_path / f"{name}.pt")
        with pytest.raises(InspectError, match="needs no NMS, so there is nothing to measure"):
            sweeping.sweep(tmp_path / f"{name}.pt", str(data), project=str(tmp_path), imgsz=64, **options)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("yolo11n-seg.yaml", "its labels have 5 columns, models of the task segment need at least 7"),
        ("yolo11n-pose.yaml", "it has no kpt_shape"),
    ],
)
def test_data_of_another_task(model: str, message: str, tmp_path: Path) -> None:
    """It is an error before the host reads the labels."""
    data = write_scenes(tmp_path / "scenes", train=1, val=1, size=64, seed=0)
    with pytest.raises(InspectError, match=f"{re.escape(f'data={data}: ')}{message}"):
        sweeping.sweep(model, str(data), imgsz=64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [("path: x\nval: x\n", "train"), ("a: [1", "b.yaml"), ("hello", "b.yaml"), (None, "b.yaml")],
)
def test_data_that_cannot_be_opened(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands name the data and say why; nothing is a traceback."""
    data, model = tmp_path / "b.yaml", tmp_path / "model.pt"
    if text is not None:
        data.write_text(text)
    YOLO("yolo11n-grid.yaml").save(model)
    for command in ("nms", "grid"):
        assert main([command, f"model={model}", f"data={data}", f"project={tmp_path}"]) == 1
        printed = capsys.readouterr().err
        assert f"data={data}: " in printed
        assert message in printed
    assert main(["nms", f"model={model}", f"data={data}", "conf=None"]) == 2
    assert main(["nms", f"model={tmp_path / 'no.pt'}", f"data={data}"]) == 1
    assert "there is no checkpoint" in capsys.readouterr().err


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong arguments are refused; a run prints the table and writes the files."""
    assert main(["nms", "model=best.pt"]) == 2
    assert main(["nms", "model=best.pt", "data=x.yaml", "iou=0.5"]) == 2
    assert main(["nms", "model=best.pt", "data=x.yaml", "compile=True"]) == 2
    assert main(["nms", "model=best.pt", "data=x.yaml", "conf=2"]) == 1
    printed = capsys.readouterr().err
    assert "data= is missing; it must be a data YAML" in printed
    assert "iou= is not for nms, which runs every NMS on one pass" in printed
    assert "compile= is not for nms" in printed
    assert "the host's val does not accept these arguments" in printed
    monkeypatch.setattr(sweeping, "THRESHOLDS", (0.5,))
    data = write_scenes(tmp_path / "scenes", train=1, val=1, size=64, seed=0)
    YOLO("yolo11n.yaml").save(tmp_path / "model.pt")
    words = [f"model={tmp_path / 'model.pt'}", f"data={data}", "imgsz=64", "device=cpu", "workers=0"]
    assert main(["nms", *words, f"project={tmp_path}", "name=out"]) == 0
    printed = capsys.readouterr().out
    assert "The model has no DensityHead" in printed
    assert (tmp_path / "out" / "nms.png").is_file()
    with (tmp_path / "out" / "nms.csv").open() as stream:
        assert [row["NMS"] for row in csv.DictReader(stream)] == ["fixed", "soft"]
