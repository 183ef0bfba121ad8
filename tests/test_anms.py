"""Adaptive NMS: the density head, its loss, and the NMS of the host with the threshold of each box."""

from __future__ import annotations

import copy
import csv
import importlib.util
import inspect
import io
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from conftest import gap, inserted, yolo
from new_process import run_python
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.utils import DEFAULT_CFG
from ultralytics.utils.metrics import batch_probiou, box_iou

from yolo_coordbifpn import CoordAtt, GraftError, graft, install, register, uninstall
from yolo_coordbifpn.blocks.density import DensityHead, crowding
from yolo_coordbifpn.blocks.overlap import overlap
from yolo_coordbifpn.commands import main
from yolo_coordbifpn.commands.scenes import write_scenes
from yolo_coordbifpn.grafting.graft import graft_rows
from yolo_coordbifpn.grafting.names import split
from yolo_coordbifpn.grafting.variant import Variant
from yolo_coordbifpn.graph.layers import facts
from yolo_coordbifpn.patches import adaptive_nms, block_losses
from yolo_coordbifpn.registry import TABLE
from yolo_coordbifpn.suppression import fast_nms, hard_nms, soft_nms

TASKS = {"detect": "", "segment": "-seg", "pose": "-pose", "obb": "-obb"}


def scatter(count: int, seed: int, objects: int = 8, size: float = 100) -> tuple[Tensor, Tensor, Tensor]:
    """Draw boxes in clusters, (count, 4), their scores, and thresholds of which most are 0.5."""
    g = torch.Generator().manual_seed(seed)
    centres, sides = torch.rand(objects, 2, generator=g) * size, torch.rand(objects, 2, generator=g) * 30 + 10
    k = torch.randint(objects, (count,), generator=g)
    centre = centres[k] + torch.randn(count, 2, generator=g) * 0.15 * sides[k]
    side = sides[k] * (1 + 0.15 * torch.randn(count, 2, generator=g)).clamp(0.4, 2)
    thresholds = (torch.rand(count, generator=g) * 1.2 - 0.2).clamp(0.5)
    return torch.cat((centre - side / 2, centre + side / 2), 1), torch.rand(count, generator=g), thresholds


def obvious(boxes: Tensor, scores: Tensor, thresholds: Tensor, greedy: bool = True, iou: Any = box_iou) -> list[int]:
    """Suppress box by box, as the paper says it; not greedy: a removed box removes others too."""
    order, removed, kept = sorted(range(len(boxes)), key=lambda k: -scores[k]), set(), []
    exceeds = (iou(boxes, boxes) > thresholds[:, None]).tolist()
    for place, m in enumerate(order):
        if m not in removed:
            kept.append(m)
        if m not in removed or not greedy:
            removed |= {j for j in order[place + 1 :] if exceeds[m][j]}
    return kept


# Suppression of given boxes


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("count", [0, 1, 7, 60, 400])
def test_hard_nms_is_the_obvious_one(count: int, seed: int) -> None:
    """The boxes kept are those of a loop over all pairs, and with a limit the best of them."""
    boxes, scores, thresholds = scatter(count, seed)
    kept = hard_nms(boxes, scores, thresholds).tolist()
    assert kept == obvious(boxes, scores, thresholds)
    assert hard_nms(boxes, scores, thresholds, 5).tolist() == kept[:5]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_one_threshold_is_torchvision(threshold: float, seed: int) -> None:
    """With the same threshold for all boxes, the boxes kept are those of torchvision."""
    import torchvision

    boxes, scores, _ = scatter(3000, seed, 60, 400)
    kept = hard_nms(boxes, scores, torch.full((3000,), threshold))
    assert torch.equal(kept, torchvision.ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("seed", range(6))
def test_rotated_boxes(seed: int) -> None:
    """Rotated boxes are suppressed as the host does it, where removed boxes remove others, by its own measure."""
    boxes, scores, thresholds = scatter(300, seed)
    rotated = torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores[:, None] * 3), 1)
    torch.testing.assert_close(overlap(rotated, rotated), batch_probiou(rotated, rotated))
    assert fast_nms(rotated, scores, thresholds).tolist() == obvious(
        rotated, scores, thresholds, greedy=False, iou=batch_probiou
    )


@pytest.mark.parametrize("seed", range(6))
def test_soft_nms(seed: int) -> None:
    """Scores fall by the Gaussian of each overlap above the threshold of the better box, and order the result."""
    boxes, scores, thresholds = scatter(80, seed)
    kept, values = soft_nms(boxes, scores, thresholds, 0.05)
    left, now, expected = set(range(80)), scores.tolist(), []
    while left:
        m = max(left, key=lambda k: now[k])
        left.remove(m)
        if now[m] > 0.05:
            expected.append((m, now[m]))
        for j in left:
            over = float(box_iou(boxes[m][None], boxes[j][None]))
            now[j] *= float(torch.exp(torch.tensor(-(over**2) / 0.5))) if over > thresholds[m] else 1
    assert kept.tolist() == [m for m, _ in expected]
    torch.testing.assert_close(values, torch.tensor([x for _, x in expected]))
    assert soft_nms(boxes, scores, thresholds, 0.05, 3)[0].tolist() == kept[:3].tolist()


# The host's NMS


def predictions(kind: str, seed: int = 0, batch: int = 2, classes: int = 3, count: int = 400) -> tuple[Tensor, Tensor]:
    """Draw predictions of the host, (batch, 4 + classes + extra, count), and densities, (batch, count)."""
    g = torch.Generator().manual_seed(seed)
    extra = {"detect": 0, "segment": 32, "pose": 51, "obb": 1}[kind]
    x = torch.rand(batch, 4 + classes + extra, count, generator=g)
    for image in x:
        boxes, _, _ = scatter(count, seed + 7, 10, 200)
        image[:2], image[2:4] = (boxes[:, :2] + boxes[:, 2:]).T / 2, (boxes[:, 2:] - boxes[:, :2]).T
    return x, torch.rand(batch, count, generator=g)


def run_host(x: Tensor, densities: Tensor | None, **options: Any) -> Any:
    """Run the host's function on predictions that have densities or not."""
    x = x.clone()
    if densities is not None:
        x.densities = densities
    return adaptive_nms.host_nms()(x, **options)


OPTIONS = [
    {},
    {"multi_label": True, "conf_thres": 0.6},
    {"agnostic": True},
    {"classes": [0, 2]},
    {"max_det": 7},
    {"conf_thres": 0.99},
    {"conf_thres": 1.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", TASKS)
def test_low_densities_are_the_hosts_nms(kind: str, options: dict[str, Any]) -> None:
    """Where no density is above the threshold, the result is the host's, number for number."""
    x, densities = predictions(kind)
    options = {"iou_thres": 0.5, "nc": 3, "rotated": kind == "obb", "conf_thres": 0.3, **options}
    for given in (densities * 0.5, torch.where(x[:, 4:7].amax(1) > options["conf_thres"], densities * 0.5, 1.0)):
        for a, b in zip(run_host(x, given, **options), run_host(x, None, **options)):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", TASKS)
def test_adaptive_in_the_host(kind: str, options: dict[str, Any]) -> None:
    """Each box with a density keeps its class, score, mask, keypoints and angle, and the kept are the obvious ones."""
    x, densities = predictions(kind)
    options = {"iou_thres": 0.5, "nc": 3, "rotated": kind == "obb", "conf_thres": 0.3, **options}
    candidates = run_host(x, None, **{**options, "iou_thres": 1.0, "max_det": 10**6})  # all that NMS is given
    found = run_host(x, densities, **options)
    plain = run_host(x, None, **options)
    for image, (rows, kept) in enumerate(zip(candidates, found)):
        boxes = x[image, :4].T
        if kind != "obb":
            boxes = torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)
        anchor = [int((boxes - row[:4]).abs().sum(1).argmin()) for row in rows]
        thresholds = densities[image, anchor].clamp(0.5) if anchor else torch.zeros(0)
        apart = rows[:, 5:6] * (0 if options.get("agnostic") else 7680)
        if kind == "obb":
            given = torch.cat((rows[:, :2] + apart, rows[:, 2:4], rows[:, -1:]), 1)
            expected = obvious(given, rows[:, 4], thresholds, greedy=False, iou=batch_probiou)
        else:
            expected = obvious(rows[:, :4] + apart, rows[:, 4], thresholds)
        torch.testing.assert_close(kept, rows[expected[: options.get("max_det", 300)]], rtol=0, atol=0)
    if not options.get("max_det") and len(candidates[0]) > 100:
        assert sum(map(len, found)) > sum(map(len, plain))


def test_indices_and_number_of_classes() -> None:
    """Indices of the kept are those of the given predictions, and the number of classes may be left out."""
    x, densities = predictions("detect")
    options = {"iou_thres": 0.5, "conf_thres": 0.7}
    if "return_idxs" in inspect.signature(adaptive_nms.host_nms()).parameters:
        rows, kept = run_host(x, densities, return_idxs=True, **options)
        for image, (found, places) in enumerate(zip(rows, kept)):
            torch.testing.assert_close(x[image, 4:, places].amax(0), found[:, 4])
    with_number = run_host(x, densities, nc=3, **options)
    for a, b in zip(run_host(x, densities, **options), with_number):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7])
def test_few_candidates(count: int) -> None:
    """Six candidates are not taken for the output of an end-to-end model, and none is no error."""
    x, densities = predictions("detect", batch=1)
    x[:, 4:] = 0.1
    x[:, 5, :count] = torch.linspace(0.5, 0.9, count)
    (found,) = run_host(x, densities * 0 + 1.0, iou_thres=0.5)  # nothing overlaps by more than 1
    assert found[:, 4].tolist() == pytest.approx(torch.linspace(0.5, 0.9, count).flip(0).tolist())


def test_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variable chooses soft or plain NMS; another word is an error, for models with densities alone."""
    x, densities = predictions("detect")
    monkeypatch.setenv(adaptive_nms.SETTING, "soft")
    soft, options = run_host(x, densities * 0, iou_thres=0.5, conf_thres=0.2), {"iou_thres": 0.5, "conf_thres": 0.2}
    plain = run_host(x, None, **options)
    assert all(len(a) > len(b) and bool((a[:-1, 4] >= a[1:, 4]).all()) for a, b in zip(soft, plain))
    assert all(float(a[:, 4].min()) > 0.2 for a in soft)
    monkeypatch.setenv(adaptive_nms.SETTING, "plain")
    torch.testing.assert_close(run_host(x, densities, **options), plain)
    monkeypatch.setenv(adaptive_nms.SETTING, "sfot")
    torch.testing.assert_close(run_host(x, None, **options), plain)
    with pytest.raises(ValueError, match="adaptive, soft or plain, got 'sfot'"):
        run_host(x, densities, **options)


@pytest.mark.parametrize("seed", range(3))
def test_boxes_without_area(seed: int) -> None:
    """Boxes that are points overlap nothing and are kept, however many there are."""
    points = torch.rand(300, 2, generator=torch.Generator().manual_seed(seed)) * 10
    kept = hard_nms(torch.cat((points, points), 1), torch.rand(300), torch.full((300,), 0.5))
    assert len(kept) == 300


def test_the_setting_is_read_as_check_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spaces and capitals do not matter."""
    monkeypatch.setenv(adaptive_nms.SETTING, " Soft ")
    assert adaptive_nms._kind() == "soft"


CHANGED_NMS = (
    ("x", "non_max_suppression has no variable x"),
    ("nc", "non_max_suppression has no variable nc"),
)


@pytest.mark.parametrize(("name", "message"), CHANGED_NMS)
def test_nms_with_other_names_is_refused(name: str, message: str, tmp_path: Path) -> None:
    """A fork's function that suppresses as usual but names its variables in another way is an error, not a crash."""
    source = """
import torch
@torch.no_grad()
def non_max_suppression(prediction, conf_thres=0.25, iou_thres=0.45, max_det=300, nc=0):
    for x in prediction:
        i = torch.ops.torchvision.nms(boxes, scores, iou_thres)
    return i
"""
    file = tmp_path / "forked.py"
    file.write_text(re.sub(rf"\b{name}\b", "other", source))
    scope: dict[str, Any] = {"__name__": "forked"}
    exec(compile(file.read_text(), str(file), "exec"), scope)  # noqa: S102
    with pytest.raises(adaptive_nms.HostError, match=message):
        adaptive_nms._adaptive(scope["non_max_suppression"])


def test_unknown_nms_is_left_alone() -> None:
    """A function that suppresses in another way is an error that says so, and stays as it is."""

    def non_max_suppression(prediction: Tensor) -> Tensor:
        return prediction

    with pytest.raises(adaptive_nms.HostError, match=r"does not suppress by `i = ...\(boxes"):
        adaptive_nms._adaptive(non_max_suppression)


# Density head


def test_crowding() -> None:
    """The density is the largest IoU with another object of the same class; padding and other classes do not count."""
    boxes = torch.tensor([[[0.0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 9], [0, 0, 10, 10]]])
    labels, valid = torch.tensor([[0.0, 0, 1, 0]]), torch.tensor([[True, True, True, False]])
    torch.testing.assert_close(crowding(boxes, labels, valid), torch.tensor([[1 / 3, 1 / 3, 0, 0]]))
    assert crowding(boxes[:, :0], labels[:, :0], valid[:, :0]).shape == (1, 0)


def test_density_head_reads_a_list() -> None:
    """One layer in place of a list, and wrong arguments, are errors with the row to write."""
    with pytest.raises(ValueError, match=r"\[\[16, 19, 22\], 1, DensityHead, \[\]\]; got one layer with 64"):
        DensityHead(64)
    for options in ({"hidden": 0}, {"loss_gain": "1"}, {"loss_gain": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            DensityHead([8, 8], **options)
    assert DensityHead([8, 8], 32, 2).loss_gain == 2
    with pytest.raises(ValueError, match="needs a forward pass before"):
        DensityHead([8, 8]).loss({})


@pytest.fixture(scope="module")
def models() -> dict[str, YOLO]:
    """Build a small model of each task with a density head."""
    return {task: YOLO(f"yolo11n{word}-anms.yaml") for task, word in TASKS.items()}


@pytest.mark.parametrize("task", TASKS)
def test_start_is_the_stock_model(models: dict[str, YOLO], task: str) -> None:
    """With pretrained weights boxes and scores are the stock model's, and all densities are below any threshold."""
    stock = YOLO(f"yolo11n{TASKS[task]}.yaml").model
    ours = copy.deepcopy(models[task].model)
    ours.load(stock)
    assert gap(ours, stock) < 1e-6
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        out = adaptive_nms.predictions_of(ours.eval()(x))
    assert out.densities.shape == (2, out.shape[2])
    assert float((out.densities - 0.2).abs().max()) < 1e-6


def test_pictures_of_activations_say_that_they_switch_it_off(models: dict[str, YOLO], log: Any) -> None:
    """With `visualize=True` the host follows gradients of the image through a frozen model, and copies the output."""
    model = copy.deepcopy(models["detect"].model).eval().requires_grad_(False)
    model(torch.rand(1, 3, 64, 64))
    assert "visualize=True" not in log.text
    model(torch.rand(1, 3, 64, 64, requires_grad=True))
    assert log.text.count("visualize=True takes the densities away from the predictions, so NMS is the plain one") == 1


def test_copies_hold_no_activations(models: dict[str, YOLO]) -> None:
    """A model that has just run can be copied and saved, without its last densities."""
    model = models["detect"].model.train()
    model(torch.rand(1, 3, 64, 64))
    head = model.model[-2]
    assert head.densities.requires_grad
    assert copy.deepcopy(model).model[-2].densities is None
    file = io.BytesIO()
    torch.save(model, file)
    assert len(file.getvalue()) < 16e6


def batch_of(task: str) -> dict[str, Any]:
    """Make a batch of two images; the first has no object, the second two of one class, at an IoU of 0.6."""
    boxes = torch.tensor([[0.4, 0.5, 0.4, 0.4, 0.1], [0.5, 0.5, 0.4, 0.4, 0.1]])
    return {
        "img": torch.rand(2, 3, 96, 96),
        "cls": torch.zeros(2, 1),
        "bboxes": boxes[:, : 5 if task == "obb" else 4],
        "batch_idx": torch.ones(2),
        "masks": torch.ones(2, 24, 24),
        "sem_masks": torch.zeros(2, 24, 24),
        "keypoints": torch.rand(2, 17, 3),
    }


@pytest.mark.parametrize("task", TASKS)
def test_loss_of_each_task(models: dict[str, YOLO], task: str) -> None:
    """The loss is the last item, scaled like the host's, and smooth L1 between 0.2 and the overlap of the objects."""
    model, batch = copy.deepcopy(models[task].model).train(), batch_of(task)
    model.args = SimpleNamespace(**vars(DEFAULT_CFG))
    total, items = model.loss(batch)
    boxes = batch["bboxes"] * torch.tensor([96.0, 96, 96, 96, 1][: batch["bboxes"].shape[1]])
    iou = float(batch_probiou(boxes[:1], boxes[1:])) if task == "obb" else 0.6
    assert list(items)[-1] == "density_loss"
    assert float(items["density_loss"]) == pytest.approx(iou - 0.2 - 0.05, abs=1e-5)
    torch.testing.assert_close(total[-1].detach(), items["density_loss"] * 2)
    total[-1].backward()
    assert float(model.model[-2].levels[0].out.bias.grad) < 0  # the densities are to rise
    objects = ("cls", "bboxes", "batch_idx", "keypoints")
    model.zero_grad()
    total, items = model.loss({**batch, **{name: batch[name][:0] for name in objects}})
    assert items["density_loss"] == 0
    total.sum().backward()
    assert all(p.grad is not None for p in model.model[-2].parameters())  # as DDP wants


def test_density_head_learns() -> None:
    """It tells objects from others by what is around them."""
    torch.manual_seed(0)
    head, positive = DensityHead([4]), torch.zeros(1, 64, dtype=torch.bool)
    positive[0, [9, 54]] = True
    boxes = torch.tensor([[[0.0, 0, 8, 8], [0, 2, 8, 10], [40, 40, 48, 48]]])
    index = torch.zeros(1, 64, dtype=torch.long)
    index[0, 54] = 2
    labels, valid = torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)
    assigned = {"positive": positive, "index": index, "boxes": boxes, "labels": labels, "valid": valid}
    features = torch.rand(1, 4, 8, 8)
    features[..., 6, 6] = features[..., 1, 1]  # the same at both objects
    optimizer = torch.optim.Adam(head.parameters(), 0.02)
    for _ in range(200):
        optimizer.zero_grad()
        head([features])
        head.loss({"assigned": assigned})["density_loss"].backward()
        optimizer.step()
    found = head.eval()([features])[0, [9, 54]]
    torch.testing.assert_close(found, torch.tensor([0.6, 0.0]), rtol=0, atol=0.05)


# Losses of blocks


class Pull(nn.Module):
    """A user's block with a loss: it pulls the mean of its features to zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.answer: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.mean = (x * self.scale).mean()
        return x * self.scale

    def loss(self, batch: dict[str, Any]) -> Any:
        self.seen = batch
        return {"pull_loss": self.mean**2} if self.answer is None else self.answer

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("mean", "seen")}


@pytest.fixture
def puller(own_blocks: None) -> Any:
    """Build a model with two of the user's blocks."""
    register(Pull)
    cfg = inserted(graft("yolo11n.yaml", coordatt="none", bifpn="none", nms="adaptive"), 2, 4, module="Pull")
    model = tasks.DetectionModel(cfg, verbose=False).train()
    model.args = SimpleNamespace(**vars(DEFAULT_CFG))
    return model


def test_a_users_loss(puller: Any) -> None:
    """It is added to the host's, summed over the blocks, and gets what the host's assigner has found."""
    batch = batch_of("detect")
    total, items = puller.loss(batch)
    assert list(items)[-2:] == ["pull_loss", "density_loss"]
    pulls = [m for m in puller.modules() if type(m) is Pull]
    torch.testing.assert_close(items["pull_loss"], sum(m.mean.detach() ** 2 for m in pulls))
    total.sum().backward()
    assert all(m.scale.grad is not None for m in pulls)
    found = pulls[0].seen["assigned"]
    assert "assigned" not in batch
    torch.testing.assert_close(found["boxes"][1] / 96, torch.tensor([[0.2, 0.3, 0.6, 0.7], [0.3, 0.3, 0.7, 0.7]]))
    assert found["valid"].tolist() == [[False, False], [True, True]]
    assert found["labels"].shape == (2, 2)
    assert found["positive"].shape == found["index"].shape == (2, 12 * 12 + 6 * 6 + 3 * 3)
    assert not found["positive"][0].any()
    assert found["positive"][1].any()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (torch.ones(()), r"Pull.loss\(\) must return a dict of scalar tensors"),
        ({"pull_loss": torch.ones(2)}, "scalar tensors"),
        ({}, "scalar tensors"),
        ({"box_loss": torch.ones(())}, "the host has a loss box_loss itself; give another name"),
    ],
    ids=["tensor", "vector", "empty", "name"],
)
def test_a_users_wrong_loss(puller: Any, answer: Any, error: str) -> None:
    """What is no loss is an error that names the block; the next call works again."""
    pull = next(m for m in puller.modules() if type(m) is Pull)
    pull.answer = answer
    with pytest.raises((TypeError, ValueError), match=error):
        puller.loss(batch_of("detect"))
    pull.answer = None
    assert "pull_loss" in puller.loss(batch_of("detect"))[1]


@pytest.mark.skipif(not hasattr(tasks, "YOLOEModel"), reason="no YOLOE in this host")
def test_visual_prompts_have_the_hosts_criterion(quick_builds: None) -> None:
    """The host makes another criterion for the first batch with visual prompts; its assigner is asked from then on."""
    torch.manual_seed(0)
    cfg = graft("yoloe-11s.yaml", coordatt="none", bifpn="none", nms="adaptive")
    models = [tasks.YOLOEModel(x, nc=2, verbose=False).train() for x in ("yoloe-11s.yaml", cfg)]
    for model in models:
        model.args = SimpleNamespace(**vars(DEFAULT_CFG))
        batch = {**batch_of("detect"), "visuals": (torch.rand(2, 2, 12, 12) > 0.5).float()}
        for _ in range(2):
            _, items = model.loss(batch)
    assert type(models[1].criterion) is type(models[0].criterion)
    assert float(items["density_loss"]) > 0


def test_without_a_loss_nothing_is_done(models: dict[str, YOLO]) -> None:
    """Models without such a block have the host's loss, and after uninstall() all have; the NMS is the host's again."""
    batch = batch_of("detect")
    stock, ours = YOLO("yolo11n.yaml").model, copy.deepcopy(models["detect"].model)
    for model in (stock, ours):
        model.args = SimpleNamespace(**vars(DEFAULT_CFG))
    assert len(stock.train().loss(batch)[1]) == 3
    x, densities = predictions("detect")
    uninstall()
    try:
        assert not hasattr(adaptive_nms.host_nms(), "__wrapped__")
        assert len(ours.train().loss(batch)[1]) == 3
        with torch.no_grad():
            assert not hasattr(ours.eval()(batch["img"])[0], "densities")
        plain = run_host(x, densities, iou_thres=0.5)
    finally:
        install()
    assert len(ours.train().loss(batch)[1]) == 4
    assert sum(map(len, run_host(x, densities, iou_thres=0.5))) > sum(map(len, plain))


def test_older_hosts_have_no_columns(models: dict[str, YOLO], log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the items are a tensor, the loss is in the total, a sum or a vector, and the log says so once."""
    model = copy.deepcopy(models["detect"].model).train()
    model.criterion, batch = SimpleNamespace(), batch_of("detect")
    monkeypatch.setattr(block_losses, "_told", set())
    model(batch["img"])
    model.model[-2].loss = lambda batch: {"density_loss": torch.tensor(0.5)}
    totals = [torch.tensor(2.0), torch.ones(3)]
    wrapped = block_losses._with_blocks(tasks, TABLE, lambda self, batch: (totals.pop(0), torch.zeros(3)))
    for expected in (torch.tensor(3.0), torch.tensor([1.0, 1, 1, 1])):
        torch.testing.assert_close(wrapped(model, batch)[0], expected)
    assert log.text.count("density_loss: in the total loss; this Ultralytics has no columns") == 1


def test_losses_that_are_not_times_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host does not multiply the losses of classifiers by the batch size, nor are those of their blocks."""
    model = tasks.ClassificationModel("yolo11n-cls-coordatt.yaml", verbose=False)
    batch = {"img": torch.rand(4, 3, 64, 64), "cls": torch.tensor([0, 1, 2, 3])}
    with torch.random.fork_rng():
        alone, _ = model.loss(batch)
    monkeypatch.setattr(CoordAtt, "loss", lambda self, batch: {"own_loss": torch.tensor(1.0)}, raising=False)
    with torch.random.fork_rng():
        together, _ = model.loss(batch)
    assert float(together) == pytest.approx(float(alone) + 1, abs=1e-4)


# The stock command


def crowded(model: Any, density: float = 0.9) -> Any:
    """Give a model one density everywhere."""
    for level in model.model[-2].levels:
        level.out.bias.data.fill_(math.log(density / (1 - density)))
        level.out.weight.data.zero_()
    return model


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw a small data set."""
    return write_scenes(tmp_path_factory.mktemp("scenes"), train=8, val=4, size=64, seed=0)


@pytest.mark.slow
def test_train_val_predict_resume(scenes: Path, tmp_path: Path) -> None:
    """With the stock command alone: a column of the loss, also after a resume; val and predict work."""
    options = [f"data={scenes}", "imgsz=64", "workers=0", "device=cpu", "plots=False", f"project={tmp_path}"]
    code = f"""
import os
from ultralytics import YOLO
model = YOLO("yolo11n-anms.yaml")
model.add_callback("on_model_save", lambda trainer: os._exit(9))
model.train(data={str(scenes)!r}, epochs=2, imgsz=64, batch=4, workers=0, plots=False, device="cpu",
            project={str(tmp_path)!r}, name="run")
"""
    killed = run_python("-c", code, folder=tmp_path)
    assert killed.returncode == 9, killed.stderr
    yolo(tmp_path, "train", "resume", f"model={tmp_path / 'run' / 'weights' / 'last.pt'}")
    with (tmp_path / "run" / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    losses = [float(row[f"{part}/density_loss"]) for row in rows for part in ("train", "val")]
    assert len(losses) == 4
    assert all(x > 0 for x in losses)
    best = tmp_path / "run" / "weights" / "best.pt"
    assert "mAP50-95" in yolo(tmp_path, "val", f"model={best}", *options)
    source = next((scenes.parent / "images" / "val").iterdir())
    assert "1/1" in yolo(tmp_path, "predict", f"model={best}", f"source={source}", "imgsz=64", "conf=0.001")


@pytest.mark.parametrize("task", TASKS)
def test_predict_of_each_task(models: dict[str, YOLO], task: str, tmp_path: Path) -> None:
    """Where all is crowded, predict keeps what the stock model suppresses; where nothing is, the same boxes."""
    model = copy.deepcopy(models[task])
    image = (torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    options = {"imgsz": 64, "conf": 0.0, "iou": 0.3, "verbose": False, "max_det": 1000, "project": str(tmp_path)}
    counts = []
    for density in (0.9, 0.1):
        crowded(model.model, density)
        model.predictor = None
        found = model.predict(image, **options)[0]
        counts.append(len(found.obb if task == "obb" else found.boxes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(adaptive_nms.SETTING, "plain")
        found = model.predict(image, **options)[0]
    assert counts[0] > counts[1] == len(found.obb if task == "obb" else found.boxes)


def test_end_to_end_has_nothing_to_adapt(log: Any) -> None:
    """A head without NMS says so once; with NMS its predictions have densities."""
    model = YOLO("yolo26n-anms.yaml").model.eval()
    image = torch.rand(1, 3, 64, 64)
    for end2end in (True, True, False):
        model.end2end = end2end
        with torch.no_grad():
            out = adaptive_nms.predictions_of(model(image))
        assert hasattr(out, "densities") is not end2end
    assert log.text.count("this head needs no NMS (end2end), so the densities adapt nothing") == 1


@pytest.mark.slow
def test_embedding_is_the_stock_models(models: dict[str, YOLO], tmp_path: Path) -> None:
    """The layer before the head, which the host embeds by default, stands for the one that it is in the stock model."""
    stock, ours = YOLO("yolo11n.yaml"), copy.deepcopy(models["detect"])
    ours.model.load(stock.model)
    image = (torch.rand(64, 64, 3) * 255).byte().numpy()
    a, b = (x.embed(image, imgsz=64, verbose=False, project=str(tmp_path))[0] for x in (stock, ours))
    torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("nms", [False, True])
def test_export_has_no_densities(models: dict[str, YOLO], nms: bool, tmp_path: Path, log: Any) -> None:
    """The exported graph is the stock model's, and the log says that its NMS is the plain one."""
    ours, stock = copy.deepcopy(models["detect"]), YOLO("yolo11n.yaml")
    stock.model.load(ours.model)
    files = []
    for name, model in (("ours", ours), ("stock", stock)):
        model.ckpt_path = model.model.pt_path = str(tmp_path / f"{name}.pt")
        files.append(
            model.export(format="onnx", imgsz=64, nms=nms or None, conf=0.001 if nms else None, simplify=False)
        )
    assert log.text.count("the exported model has no densities: its NMS, the host's or built in") == 1
    x = torch.rand(1, 3, 64, 64).numpy()
    outs = [onnxruntime.InferenceSession(file).run(None, {"images": x}) for file in files]
    assert [y.shape for y in outs[0]] == [y.shape for y in outs[1]]
    assert not any("densit" in node.name.lower() for node in onnx.load(files[0]).graph.node)
    assert len(onnx.load(files[0]).graph.node) == len(onnx.load(files[1]).graph.node)


@pytest.mark.parametrize(
    "options",
    [{"levels": "P2"}, {"levels": "P2-P4"}, {"neck": "fpn"}, {"bifpn": "add"}, {"coordatt": "N3", "bifpn": "concat"}],
    ids=str,
)
def test_densities_follow_the_head(options: dict[str, Any], models: dict[str, YOLO]) -> None:
    """With another neck or other levels the density head reads what the head reads, as if it had been put in last."""
    stock, ours = YOLO("yolo11n.yaml").model, models["detect"].model
    chosen = {"coordatt": "none", "bifpn": "none", **options}
    cfg = graft_rows(ours.yaml, facts(ours), Variant(**chosen)).cfg()
    both = graft_rows(stock.yaml, facts(stock), Variant(**chosen, nms="adaptive")).cfg()
    assert cfg["backbone"] + cfg["head"] == both["backbone"] + both["head"]
    assert cfg["head"][-2] == [cfg["head"][-1][0], 1, "DensityHead", []]


@pytest.mark.parametrize(("levels", "places"), [("p2", [0, 1, 2, None]), ("p2-p4", [0, 1, None])])
def test_densities_of_a_level_stay(levels: str, places: list[int | None], models: dict[str, YOLO], log: Any) -> None:
    """Weights with a density head for a model with other levels: each level keeps its sub-network."""
    old = copy.deepcopy(models["detect"].model)
    for level in old.model[-2].levels:
        nn.init.normal_(level.out.weight)
    new = YOLO(f"yolo11n-anms-{levels}.yaml").model
    new.load(old)
    assert "541 of 541 pretrained items kept" in log.text or levels == "p2-p4"
    for level, place in zip(new.model[-2].levels, places):
        expected = old.model[-2].levels[place].state_dict() if place is not None else None
        if expected:
            torch.testing.assert_close(level.state_dict(), expected)
        else:
            assert not level.out.weight.any()


@pytest.mark.slow
def test_names_and_places() -> None:
    """The word of the variant combines with others; heads without NMS refuse it, and so does a second one."""
    assert split("yolo11n-seg-anms.yaml") == ("yolo11n-seg.yaml", Variant("none", "none", nms="adaptive"))
    both = split("yolov8s-coordatt-bifpn-anms.yaml")
    assert both == ("yolov8s.yaml", Variant("deepest", "concat", nms="adaptive"))
    assert both[1].name == "coordatt-bifpn-anms"
    cfg = graft("yolov8n-p2.yaml", coordatt="none", bifpn="none", nms="adaptive")
    assert cfg["head"][-2] == [cfg["head"][-1][0], 1, "DensityHead", []]
    with pytest.raises(GraftError, match="there is a DensityHead already"):
        graft(cfg, coordatt="none", bifpn="none", nms="adaptive")
    for name in ("yolo11n-cls.yaml", "rtdetr-l.yaml"):
        with pytest.raises(GraftError, match="heads of Ultralytics whose boxes go through NMS"):
            graft(name, coordatt="none", bifpn="none", nms="adaptive")
    with pytest.raises(GraftError, match="nms= must be plain or adaptive, got 'soft'"):
        graft("yolo11n.yaml", nms="soft")


@pytest.mark.slow
def test_upgrade(tmp_path: Path) -> None:
    """A trained checkpoint gets a density head, with the same boxes and scores."""
    stock = YOLO("yolo11n.yaml")
    stock.save(tmp_path / "best.pt")
    assert main(["upgrade", f"model={tmp_path / 'best.pt'}", "coordatt=none", "bifpn=none", "nms=adaptive"]) == 0
    ours = YOLO(tmp_path / "best-anms.pt").model
    assert type(ours.model[-2]) is DensityHead
    assert gap(ours.float(), copy.deepcopy(stock.model).half().float()) < 1e-3


def test_one_to_many_branch() -> None:
    """Of a head with two branches, the positives are those of the one-to-many branch, several for an object."""
    model = YOLO("yolo26n-anms.yaml").model.train()
    model.args = SimpleNamespace(**vars(DEFAULT_CFG))
    seen: list[dict[str, Any]] = []
    loss = model.model[-2].loss
    model.model[-2].loss = lambda batch: seen.append(batch["assigned"]) or loss(batch)
    total, items = model.loss(batch_of("detect"))
    assert float(items["density_loss"]) > 0
    assert total.isfinite().all()
    assert int(seen[0]["positive"].sum()) > 2


@pytest.mark.skipif(not importlib.util.find_spec("ultralytics.nn.distill_model"), reason="no distillation in this host")
def test_distillation(models: dict[str, YOLO]) -> None:
    """A student with a density head has its loss beside that of the distillation, in training and in validation."""
    from ultralytics.nn.distill_model import DistillationModel

    student, teacher = copy.deepcopy(models["detect"].model), YOLO("yolo11n.yaml").model
    for model in (student, teacher):
        model.args = SimpleNamespace(**{**vars(DEFAULT_CFG), "imgsz": 64})
    model, batch = DistillationModel(teacher, student).train(), batch_of("detect")
    total, items = model.loss(batch)
    assert list(items)[-2:] == ["density_loss", "dis_loss"]
    assert len(total) == len(items)
    model.eval()
    with torch.no_grad():
        out = model(batch["img"])
        assert hasattr(adaptive_nms.predictions_of(out), "densities")
        assert "density_loss" in model.loss(batch, out)[1]
