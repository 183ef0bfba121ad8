"""Grid activation: its loss, and images that drop out in inference."""

from __future__ import annotations

import copy
import csv
import io
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import gap, inserted, tensors, yolo
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.utils import DEFAULT_CFG, LOGGER

from yolo_coordbifpn import GraftError, graft, install, uninstall
from yolo_coordbifpn.blocks.grid import GridActivation, grid_of
from yolo_coordbifpn.commands import main
from yolo_coordbifpn.commands.scenes import write_scenes
from yolo_coordbifpn.errors import InspectError
from yolo_coordbifpn.grafting.names import split
from yolo_coordbifpn.graph.layers import reads
from yolo_coordbifpn.grids.curve import Curve
from yolo_coordbifpn.grids.measure import measure, store
from yolo_coordbifpn.host.models import build
from yolo_coordbifpn.patches import grid_skipping, grid_threshold

NAMES = {
    "detect": "yolo11n",
    "segment": "yolo11n-seg",
    "pose": "yolov8n-pose",
    "obb": "yolo11n-obb",
    "end2end": "yolo26n",
}


@pytest.fixture(scope="module")
def models() -> dict[str, YOLO]:
    """Build a small model of each task with a grid whose scores differ between images."""
    torch.manual_seed(0)
    found = {task: YOLO(f"{name}-grid.yaml") for task, name in NAMES.items()}
    for x in found.values():
        choosy(x.model)
    return found


def choosy(model: Any) -> Any:
    """Give a model features, and its grid scores, that differ between images: statistics of a batch of them."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 1.0
    with torch.no_grad():
        model.train()(images())
    nn.init.normal_(grid_of(model).out.weight, std=0.3)
    return model.eval()


@pytest.fixture
def model(models: dict[str, YOLO]) -> Any:
    """Copy the detection model."""
    return copy.deepcopy(models["detect"].model)


def images(count: int = 4, width: int = 96) -> Tensor:
    """Draw images of different brightness."""
    g = torch.Generator().manual_seed(3)
    return torch.rand(count, 3, 64, width, generator=g) * torch.linspace(0.1, 1, count)[:, None, None, None]


def run(model: Any, x: Tensor, threshold: float = 0.0) -> Any:
    """Run a model with a threshold."""
    grid_of(model).threshold = threshold
    with torch.no_grad():
        return model(x)


def between(model: Any, x: Tensor, kept: int) -> float:
    """Return a threshold that keeps a number of images."""
    run(model, x)
    scores = grid_of(model).scores().sort(descending=True).values.tolist()
    assert scores[kept - 1] > scores[kept] * 1.0001
    return (scores[kept - 1] + scores[kept]) / 2


def layers_run(model: Any, x: Tensor, threshold: float) -> list[int]:
    """Return the layers that run, by index."""
    seen: list[int] = []
    layers = [m for m in model.model if not isinstance(m, GridActivation)]
    for m in layers:
        m.forward = lambda *args, _m=m: (seen.append(_m.i), type(_m).forward(_m, *args))[1]
    try:
        run(model, x, threshold)
    finally:
        for m in layers:
            del m.forward
    return seen


# Skipping


@pytest.mark.parametrize("task", NAMES)
def test_nothing_is_skipped(models: dict[str, YOLO], task: str) -> None:
    """Where every score reaches the threshold, and where there is none, all outputs are the same bit for bit."""
    model, x = models[task].model, images()
    plain = [*tensors(run(model, x))]
    for a, b in zip([*tensors(run(model, x, 1e-9))], plain, strict=True):
        assert torch.equal(a, b)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid_skipping, "grid_of", lambda model: None)
        for a, b in zip([*tensors(run(model, x))], plain, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("task", NAMES)
def test_some_are_skipped(models: dict[str, YOLO], task: str) -> None:
    """The images that remain have what they have without skipping, the others zeros, in every output."""
    model, x = models[task].model, images()
    threshold = between(model, x, 2)
    kept = grid_of(model).scores() >= threshold
    expected = [*tensors(run(model, x))]
    found = [*tensors(run(model, x, threshold))]
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert not a[~kept].any()
        torch.testing.assert_close(a[kept], b[kept], rtol=1e-4, atol=1e-3)
    assert found[0][kept].any()


@pytest.mark.parametrize("task", NAMES)
def test_all_are_skipped(models: dict[str, YOLO], task: str) -> None:
    """All outputs are zeros of the same shapes, whether the size was seen before or not, for one image too."""
    model = models[task].model
    for x in (images(3), images(1), images(2, width=64)):
        expected = [*tensors(run(model, x))]
        for _ in range(2):
            for a, b in zip([*tensors(run(model, x, 0.9999))], expected, strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype)
                assert not a.any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rtdetr-l", "yolov8s-worldv2", "yoloe-11s-seg", "yolov10n"])
def test_other_heads(name: str) -> None:
    """The heads of other families skip too: nothing, some, and all."""
    x = images(width=64)
    torch.manual_seed(0)
    model = choosy(build(graft(f"{name}.yaml", coordatt="none", bifpn="none", grid="P3")))
    threshold = between(model, x, 2)
    kept = grid_of(model).scores() >= threshold
    expected, same = first(run(model, x)), first(run(model, x, 1e-9))
    assert torch.equal(expected, same)
    found = first(run(model, x, threshold))
    assert not found[~kept].any()
    found, wanted = found[kept], expected[kept]
    if name == "rtdetr-l":  # equal queries may change places
        found, wanted = (t[..., 4].sort().values for t in (found, wanted))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
    for _ in range(2):
        assert not first(run(model, x, 1.0)).any()
        assert first(run(model, x, 1.0)).shape == expected.shape


def test_hooks_inside_layers(model: Any) -> None:
    """A hook on a part of a layer behind the grid sees every image, so none is skipped."""
    seen: list[int] = []
    part = model.model[-2].cv1
    hook = part.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    assert first(run(model, images(), 1.0)).any()
    assert seen == [4]
    hook.remove()
    assert not first(run(model, images(), 1.0)).any()


@pytest.mark.slow
def test_prompts() -> None:
    """Visual prompts of YOLOE read the whole batch, so nothing is skipped."""
    torch.manual_seed(0)
    model = choosy(build(graft("yoloe-11s-seg.yaml", coordatt="none", bifpn="none", grid="P3")))
    x, prompt = images(2, width=64), torch.zeros(2, 1, 8, 8)
    prompt[..., 2:6, 2:6] = 1
    grid_of(model).threshold = 0.0
    with torch.no_grad():
        expected = model.predict(x, vpe=prompt, return_vpe=True)
        grid_of(model).threshold = 1.0
        assert torch.equal(model.predict(x, vpe=prompt, return_vpe=True), expected)
    assert expected.any()
    assert not first(run(model, x, 1.0)).any()


def first(out: Any) -> Tensor:
    """Return the first tensor of an output, the predictions."""
    return next(iter(tensors(out)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half(model: Any, dtype: torch.dtype) -> None:
    """In half precision the outputs keep their type, and images drop out."""
    model, x = model.to(dtype), images().to(dtype)
    assert first(run(model, x)).any()
    out = first(run(model, x, 1.0))
    assert out.dtype == dtype
    assert not out.any()


def test_one_image_leaves_early(model: Any) -> None:
    """Once the shapes of the output are known, no layer behind the grid runs for images that drop out."""
    grid, x = grid_of(model), images(1)
    everything = [m.i for m in model.model if m is not grid]
    assert layers_run(model, x, 0.9999) == everything
    assert layers_run(model, x, 0.9999) == layers_run(model, images(3), 0.9999) == [*range(grid.i)]
    assert layers_run(model, x, 0.0) == everything
    model.model[-1].max_det = 7  # the output may have another shape now
    assert layers_run(model, x, 0.9999) == everything


def test_features_across_the_cut() -> None:
    """Layers behind the grid that read from before it get the same images."""
    model = choosy(YOLO("yolo11n-dualpath-grid.yaml").model)
    cut = grid_of(model).i
    assert any(k < cut for m in model.model[cut + 1 :] for k in reads(m))
    x = images()
    threshold = between(model, x, 3)
    expected, found = run(model, x)[0], run(model, x, threshold)[0]
    kept = grid_of(model).scores() >= threshold
    torch.testing.assert_close(found[kept], expected[kept], rtol=1e-4, atol=1e-3)
    assert not found[~kept].any()


def test_with_densities() -> None:
    """With a density head too, each image keeps its densities, and those that drop out have none."""
    model = choosy(YOLO("yolo11n-anms-grid.yaml").model)
    x = images()
    threshold = between(model, x, 2)
    expected, found = run(model, x)[0].densities, run(model, x, threshold)[0].densities
    kept = grid_of(model).scores() >= threshold
    torch.testing.assert_close(found[kept], expected[kept])
    assert found.shape == expected.shape
    assert not found[~kept].any()
    assert not run(model, x, 0.9999)[0].any()


class First(nn.Module):
    """The first output of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[0]


@pytest.mark.slow
def test_when_everything_runs(model: Any, log: Any) -> None:
    """Training, losses, other people's hooks, embeddings, traces and exports get every image."""
    x = images()
    expected = run(model, x)[0]
    with torch.no_grad():
        embedded, augmented = model.predict(x, embed=[10]), model.predict(x, augment=True)[0]
    grid_of(model).threshold = 0.9999
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(First(model), x, check_trace=False)(x), expected)
        for a, b in zip(model.predict(x, embed=[10]), embedded):
            torch.testing.assert_close(a, b)
        assert torch.equal(model.predict(x, augment=True)[0], augmented)
        hook = model.model[12].register_forward_hook(lambda *args: None)
        assert torch.equal(model(x)[0], expected)
        hook.remove()
        model.args = SimpleNamespace(**vars(DEFAULT_CFG))
        assert float(model.loss(batch_of(x))[1]["box_loss"]) > 0
        assert not model(x)[0].any()
        model.model[-1].export = True
        assert torch.equal(model(x), expected)
        model(x)
        assert log.text.count("the exported model runs without its grid") == 1
        model.model[-1].export = False
        model.train()
        assert all(y.any() for y in tensors(model(x)))


def test_uninstall(model: Any) -> None:
    """Without the patch every image runs."""
    x = images()
    expected = run(model, x)[0]
    uninstall()
    try:
        assert torch.equal(run(model, x, 0.9999)[0], expected)
    finally:
        install()
    assert not run(model, x, 0.9999)[0].any()


# The block


def batch_of(x: Tensor) -> dict[str, Any]:
    """Make a batch with two objects in image 1 and one in image 2, at an edge."""
    return {
        "img": x,
        "cls": torch.zeros(3, 1),
        "bboxes": torch.tensor([[0.4, 0.5, 0.3, 0.4], [0.45, 0.55, 0.5, 0.4], [1.0, 0.2, 0.1, 0.1]]),
        "batch_idx": torch.tensor([1.0, 1, 2]),
    }


@pytest.mark.parametrize("size", [(8, 12), (7, 9), (1, 1), (20, 17)])
@pytest.mark.parametrize("cell", [1, 3, 8])
def test_loss_is_the_focal_loss(cell: int, size: tuple[int, int]) -> None:
    """The loss is the sum over cells of the focal loss of RetinaNet, for each cell with the centre of an object."""
    torch.manual_seed(0)
    block, batch = GridActivation(4, cell, 2.0).eval(), batch_of(torch.rand(3, 3, 64, 64))
    nn.init.normal_(block.out.weight, std=3)
    x = torch.randn(3, 4, *size)
    assert block(x) is x
    p = block.logits[:, 0].sigmoid().tolist()
    rows, columns = (math.ceil(n / cell) for n in size)
    assert (len(p[0]), len(p[0][0])) == (rows, columns)
    objects = {
        (int(n), min(int(cy * size[0]) // cell, rows - 1), min(int(cx * size[1]) // cell, columns - 1))
        for n, (cx, cy, *_) in zip(batch["batch_idx"].tolist(), batch["bboxes"].tolist())
    }
    total = 0.0
    for n in range(3):
        for row in range(rows):
            for column in range(columns):
                q = p[n][row][column]
                there = (n, row, column) in objects
                total -= 0.25 * (1 - q) ** 2 * math.log(q) if there else 0.75 * q**2 * math.log(1 - q)
    assert float(block.loss(batch)["grid_loss"].detach()) == pytest.approx(2 * total / len(objects), rel=1e-4)
    with pytest.raises(ValueError, match="needs a forward pass before"):
        block.loss(batch)


def test_loss_without_objects(model: Any) -> None:
    """A batch without objects has a loss, and every parameter of the grid a gradient, as DDP wants."""
    model.args, x = SimpleNamespace(**vars(DEFAULT_CFG)), images()
    batch = {k: v if k == "img" else v[:0] for k, v in batch_of(x).items()}
    total, items = model.train().loss(batch)
    assert [*items][-1] == "grid_loss"
    assert float(items["grid_loss"]) > 0
    total.sum().backward()
    assert all(p.grad is not None for p in grid_of(model).parameters())


@pytest.mark.slow
def test_it_learns() -> None:
    """At a usual learning rate 200 steps are enough to score the cell of an object higher than any other."""
    torch.manual_seed(0)
    block, losses = GridActivation(4, 4), []
    optimizer = torch.optim.Adam(block.parameters(), 0.001)
    batch = {"bboxes": torch.tensor([[0.3, 0.6, 0.1, 0.1]]), "batch_idx": torch.zeros(1)}
    for _ in range(200):
        x = torch.randn(4, 4, 16, 16)
        x[0, :, 9, 4] += 4
        block(x)
        optimizer.zero_grad()
        loss = block.loss(batch)["grid_loss"]
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    block.eval()(x)
    assert block.scores()[0] > 0.5 > 0.2 > block.scores()[1:].max()
    assert block.logits[0].flatten().argmax() == 2 * 4 + 1
    assert np.mean(losses[-20:]) < 0.03  # 0.06 from the convolutions' usual initial weights


def test_state(model: Any) -> None:
    """Copies and checkpoints keep the threshold and no activations; a state dict, and so a new training, neither."""
    x = images()
    expected = run(model, x, 0.25)
    file = io.BytesIO()
    torch.save(model, file)
    assert len(file.getvalue()) < 16e6
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert grid_of(other).threshold == 0.25
        assert grid_of(other).logits is None
        with torch.no_grad():
            assert torch.equal(other(x)[0], expected[0])
    new = YOLO("yolo11n-grid.yaml").model
    new.load(model)
    assert grid_of(new).threshold == 0
    grid_of(model).threshold = 0.0
    assert gap(new, model) < 1e-6


# Names and grafts


def test_names() -> None:
    """The word is part of a name in any order, and combines with the other variants."""
    assert split("yolo11n-grid.yaml")[1].name == "grid"
    assert split("yolo11n-grid-bifpn-coordatt.yaml")[1].name == "coordatt-bifpn-grid"
    row = graft("yolo11n.yaml", coordatt="none", bifpn="none", grid="P4")["backbone"][7]
    assert row == [-1, 1, "GridActivation", [4]]


@pytest.mark.parametrize(
    ("model", "grid", "message"),
    [
        ("yolo11n.yaml", "P5", "grid= must be P3, P4 or none, got 'P5'"),
        ("yolo11n-cls.yaml", "P3", "a grid is for heads of Ultralytics that find objects .* not for Classify"),
        ("yolo11n-grid.yaml", "P4", "there is a GridActivation already: "),
    ],
)
def test_wrong_grafts(model: str, grid: str, message: str) -> None:
    """A wrong level, a head without objects, or a second grid is an error."""
    with pytest.raises(GraftError, match=message):
        graft(model, coordatt="none", bifpn="none", grid=grid)


def test_a_backbone_without_the_stage() -> None:
    """The error names the stages that there are."""
    cfg = {
        "nc": 2,
        "backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [8, 3, 4]]],
        "head": [[[1], 1, "Detect", ["nc"]]],
    }
    with pytest.raises(GraftError, match="the backbone has no stage P3; there are P2, P4"):
        graft(cfg, coordatt="none", bifpn="none", grid="P3")


@pytest.mark.parametrize(("args", "message"), [([0], "cell must be"), ([8, 0.0], "loss_gain must be")])
def test_wrong_arguments(args: list[Any], message: str) -> None:
    """The error names the argument."""
    cfg = inserted(tasks.yaml_model_load("yolo11n.yaml"), 4, module="GridActivation", args=args)
    with pytest.raises(ValueError, match=message):
        tasks.DetectionModel(cfg, verbose=False)


# The threshold


@pytest.mark.parametrize("seed", range(5))
def test_best_threshold(seed: int) -> None:
    """It is the largest multiple of 0.0001 that keeps the share of the objects, by trying them all."""
    g = np.random.default_rng(seed)
    curve = Curve([*g.random(30).round(2)], [*map(int, g.integers(0, 20, 30))])
    for keep in (0.5, 0.9, 0.995, 1.0):
        total = sum(curve.objects)
        fits = [
            k / 10000
            for k in range(10001)
            if sum(n for s, n in zip(curve.scores, curve.objects) if s >= k / 10000) >= keep * total
        ]
        assert curve.best(keep) == max(fits)
        assert curve.recall(max(fits)) >= keep
    assert curve.skipped(0.5) == np.mean(np.array(curve.scores) < 0.5)


def test_no_objects() -> None:
    """Without objects or images, nothing is skipped."""
    assert Curve().best() == Curve([0.4, 0.2], [0, 0]).best() == 0
    assert math.isnan(Curve().skipped(0.1))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw a small data set."""
    return write_scenes(tmp_path_factory.mktemp("scenes"), train=8, val=4, size=64, seed=0)


@pytest.fixture
def checkpoint(models: dict[str, YOLO], tmp_path: Path) -> Path:
    """Save a model as a checkpoint."""
    file = tmp_path / "best.pt"
    yolo = copy.deepcopy(models["detect"])
    yolo.model.args = dict(vars(DEFAULT_CFG))
    grid_of(yolo.model).threshold = 0.0
    torch.save({"model": yolo.model.half(), "ema": None, "train_args": {}}, file)
    return file


def test_measure_runs_up_to_the_grid(model: Any) -> None:
    """Each image has its score and its number of objects, in batches too."""
    x = images(3)
    run(model, x)
    scores = grid_of(model).scores().tolist()
    batches = [batch_of(x), {**batch_of(x[:2]), "batch_idx": torch.zeros(1)}]
    model.model[7].forward = None  # it does not run
    curve = measure(model, batches)
    assert curve.objects == [0, 2, 1, 1, 0]
    assert curve.scores == pytest.approx([*scores, *scores[:2]], abs=1e-4)


@pytest.mark.slow
def test_command(checkpoint: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints table and files, and changes the checkpoint only on request."""
    before = checkpoint.read_bytes()
    words = ["grid", f"model={checkpoint}", f"data={scenes}", "imgsz=64", "workers=0", f"project={tmp_path}", "batch=2"]
    assert main(words) == 0
    assert checkpoint.read_bytes() == before
    with (tmp_path / "grid" / "grid.csv").open() as stream:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]
    assert rows[0] == {"threshold": 0, "recall": 1, "skipped": 0}
    assert [row["skipped"] for row in rows] == sorted(row["skipped"] for row in rows)
    assert (tmp_path / "grid" / "grid.png").stat().st_size > 5000
    assert "in use: threshold 0.0000 keeps 100.00% of the objects and skips 0.0%" in capsys.readouterr().out
    for value in ("0.25", "best"):
        assert main([*words, f"threshold={value}"]) == 0
        stored = grid_of(YOLO(checkpoint).model).threshold
        assert stored == (0.25 if value == "0.25" else max(r["threshold"] for r in rows if r["recall"] >= 0.995))
        assert f"changed to {stored:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("threshold=1.5", "from 0, which skips nothing, to 1, got '1.5'"),
        ("threshold=some", "threshold= must be best, or a number"),
        ("model=missing.pt", "model=: there is no file missing.pt"),
        ("model=yolo11n.yaml", "model= must be a checkpoint file such as best.pt, got 'yolo11n.yaml'"),
        ("augment=True", "augment= is not for grid"),
    ],
)
def test_wrong_words(word: str, message: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong option is an error that says what was expected."""
    words = {"model": str(checkpoint), "data": "coco8.yaml", **dict([word.split("=")])}
    assert main(["grid", *(f"{k}={v}" for k, v in words.items())]) == 2
    assert message in capsys.readouterr().err


def test_models_without_a_grid(tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error says which models have one; a threshold out of range is refused before anything is written."""
    file = tmp_path / "plain.pt"
    torch.save({"model": YOLO("yolo11n.yaml").model, "ema": None}, file)
    assert main(["grid", f"model={file}", f"data={scenes}", "imgsz=64"]) == 1
    assert "has no GridActivation: train a model whose name has -grid" in capsys.readouterr().err
    with pytest.raises(InspectError, match="has no GridActivation"):
        store(file, 0.5)
    with pytest.raises(InspectError, match="from 0, which skips nothing, to 1, got -1"):
        store(file, -1)


# The stock command


def test_predict_a_list(models: dict[str, YOLO]) -> None:
    """The host's predict returns the boxes of the images that remain, and none for the others."""
    model = copy.deepcopy(models["detect"])
    arrays = [(x.permute(1, 2, 0) * 255).byte().numpy() for x in images(width=64)]
    options = {"imgsz": 64, "conf": 0.0, "verbose": False, "batch": 4}
    grid_of(model.model).threshold = 0.0
    expected = [len(x.boxes) for x in model.predict(arrays, **options)]
    scores = grid_of(model.predictor.model.model).scores().numpy()
    assert min(expected) > 0
    grid_of(model.predictor.model.model).threshold = threshold = float(np.median(scores))
    found = [len(x.boxes) for x in model.predict(arrays, **options)]
    assert found == [n if s >= threshold else 0 for n, s in zip(expected, scores)]
    assert 0 in found


def test_no_threshold(
    checkpoint: Path, models: dict[str, YOLO], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the threshold cannot be chosen, the log says why and what to do, and the checkpoint stays as it is."""
    before = checkpoint.read_bytes()
    trainer = SimpleNamespace(
        ema=SimpleNamespace(ema=models["detect"].model),
        last=checkpoint.with_name("last.pt"),
        best=checkpoint,
        device="cpu",
        validator=SimpleNamespace(preprocess=lambda batch: batch),
        test_loader=[{"img": torch.zeros(1, 5, 64, 64), "batch_idx": torch.zeros(0)}],
    )
    monkeypatch.setattr(LOGGER, "propagate", True)
    grid_threshold.choose(trainer)
    assert checkpoint.read_bytes() == before
    (line,) = {x.getMessage() for x in caplog.records if "no threshold" in x.getMessage()}
    assert "best.pt has no threshold for its grid, so it skips nothing: RuntimeError" in line
    assert f"yolo-coordbifpn grid model={checkpoint} data=... chooses one" in line


def test_whole_validation_set() -> None:
    """The threshold is chosen on all of it, of which each process of several GPUs has a part."""
    asked: list[Any] = []
    loader = SimpleNamespace(dataset=range(8), sampler=range(4), batch_size=2)
    trainer = SimpleNamespace(
        test_loader=loader,
        data={"val": "images/val"},
        args=SimpleNamespace(split="val"),
        get_dataloader=lambda *args, **options: asked.append((args, options)) or "whole",
    )
    assert grid_threshold._whole(trainer) == "whole"
    assert asked == [(("images/val",), {"batch_size": 2, "rank": -1, "mode": "val"})]
    loader.sampler = range(8)
    assert grid_threshold._whole(trainer) is loader


@pytest.mark.slow
def test_train_val_predict(scenes: Path, tmp_path: Path) -> None:
    """With the stock command alone: a column of the loss, and checkpoints that val and predict read."""
    options = [f"data={scenes}", "imgsz=64", "workers=0", "device=cpu", "plots=False", f"project={tmp_path}"]
    text = yolo(tmp_path, "train", "model=yolo11n-grid.yaml", "epochs=2", "batch=4", "name=run", *options)
    with (tmp_path / "run" / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    losses = [float(row[f"{part}/grid_loss"]) for row in rows for part in ("train", "val")]
    assert len(losses) == 4
    assert all(x > 0 for x in losses)
    weights = tmp_path / "run" / "weights"
    for name in ("best.pt", "last.pt"):
        threshold = grid_of(YOLO(weights / name).model).threshold
        assert 0 < threshold < 1
        assert f"{name}: threshold {threshold:.4f} keeps" in text
    best = weights / "best.pt"
    assert "mAP50-95" in yolo(tmp_path, "val", f"model={best}", *options)
    folder = scenes.parent / "images" / "val"
    assert "4/4" in yolo(tmp_path, "predict", f"model={best}", f"source={folder}", "imgsz=64", "batch=4")


@pytest.mark.slow
def test_upgrade(tmp_path: Path) -> None:
    """A trained checkpoint gets a grid that skips nothing yet, with the same output."""
    stock = YOLO("yolo11n.yaml")
    stock.save(tmp_path / "best.pt")
    assert main(["upgrade", f"model={tmp_path / 'best.pt'}", "coordatt=none", "bifpn=none", "grid=P3"]) == 0
    ours = YOLO(tmp_path / "best-grid.pt").model
    assert grid_of(ours).threshold == 0
    assert gap(ours.float(), copy.deepcopy(stock.model).half().float()) < 1e-3
