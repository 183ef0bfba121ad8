"""Adaptive NMS: the density head, its loss, and the NMS of the host with the threshold of each box."""

from __future__ import annotations

import copy
import csv
import inspect
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import SHARED, gap
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.utils import DEFAULT_CFG
from ultralytics.utils.metrics import batch_probiou, box_iou

from yolo_coordbifpn import GraftError, graft, register, uninstall
from yolo_coordbifpn.blocks.density import DensityHead, crowding
from yolo_coordbifpn.blocks.overlap import overlap
from yolo_coordbifpn.patches import adaptive_nms
from yolo_coordbifpn.patches.install import install
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
    overlaps = iou(boxes, boxes)
    for place, m in enumerate(order):
        if m not in removed:
            kept.append(m)
        if m not in removed or not greedy:
            removed |= {j for j in order[place + 1 :] if overlaps[m, j] > thresholds[m]}
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
    return adaptive_nms.nms_home().non_max_suppression(x, **options)


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
    if "return_idxs" in inspect.signature(adaptive_nms.nms_home().non_max_suppression).parameters:
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
    for options in ({"hidden": 0}, {"loss_gain": 1}, {"loss_gain": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            DensityHead([8, 8], **options)
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
        out = adaptive_nms._first(ours.eval()(x))
    assert out.densities.shape == (2, out.shape[2])
    assert float((out.densities - 0.1).abs().max()) < 1e-6


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
    """The loss has the density's as last item, scaled like the host's, and teaches the densities of the objects."""
    torch.manual_seed(0)
    model = copy.deepcopy(models[task].model).train()
    model.args = SimpleNamespace(**vars(DEFAULT_CFG))
    batch = batch_of(task)
    total, items = model.loss(batch)
    assert list(items)[-1] == "density_loss"
    assert float(items["density_loss"]) > 0
    torch.testing.assert_close(total[-1].detach(), items["density_loss"] * 2)
    optimizer = torch.optim.Adam(model.model[-2].parameters(), 0.03)
    for _ in range(30):
        optimizer.zero_grad()
        total, items = model.loss(batch)
        total[-1].backward()
        optimizer.step()
    assert float(items["density_loss"]) < 0.02
    objects = ("cls", "bboxes", "batch_idx", "keypoints")
    total, items = model.loss({**batch, **{name: batch[name][:0] for name in objects}})
    assert items["density_loss"] == 0
    total.sum().backward()
    assert all(p.grad is not None for p in model.model[-2].parameters())  # as DDP wants
