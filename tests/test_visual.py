"""What the blocks learned: names of inputs, log of the weights, gates over images, graph, and the two commands."""

from __future__ import annotations

import copy
import csv
import io
import random
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import ultralytics
import yaml
from conftest import inserted, scrambled
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from PIL import Image
from torch import nn
from ultralytics import RTDETR, YOLO
from ultralytics.data.augment import classify_transforms

import yolo_coordbifpn
from yolo_coordbifpn import BiFPN_Concat, CoordAtt, InspectError, fusion_weights, inspect
from yolo_coordbifpn.blocks.gain import BlockWithGain
from yolo_coordbifpn.commands import main
from yolo_coordbifpn.compare import plots
from yolo_coordbifpn.graph.layers import reads
from yolo_coordbifpn.graph.paths import fusions
from yolo_coordbifpn.graph.starts import wrap
from yolo_coordbifpn.host.models import build, load, open_model
from yolo_coordbifpn.inspection import gate_plot
from yolo_coordbifpn.inspection.attention_plot import plot_effects
from yolo_coordbifpn.inspection.diagram import diagram, neck
from yolo_coordbifpn.inspection.effects import effects
from yolo_coordbifpn.inspection.epoch_log import FusionLog
from yolo_coordbifpn.inspection.findings import notes, shares
from yolo_coordbifpn.inspection.fusion_plot import plot_fusion_weights
from yolo_coordbifpn.inspection.gates import Gates, InspectedImage, SpatialMap
from yolo_coordbifpn.inspection.graph_plot import draw
from yolo_coordbifpn.inspection.page import figures, page
from yolo_coordbifpn.inspection.palette import path_styles
from yolo_coordbifpn.inspection.sources import distinct_names, split_sources
from yolo_coordbifpn.patches.trainer_callbacks import patch_trainer_callbacks
from yolo_coordbifpn.patches.training_log import SETTING

NODES = {  # nodes and their inputs in some models
    "yolo11n-coordatt-bifpn": [
        ("P4 top-down (layer 13)", ("P5 top-down", "P4 backbone")),
        ("P3 top-down (layer 16)", ("P4 top-down", "P3 backbone")),
        ("P4 bottom-up (layer 19)", ("P3 bottom-up", "P4 top-down", "P4 backbone")),
        ("P5 bottom-up (layer 22)", ("P4 bottom-up", "P5 backbone")),
    ],
    "yolov8n-p2-bifpn": [
        ("P4 top-down (layer 11)", ("P5 top-down", "P4 backbone")),
        ("P3 top-down (layer 14)", ("P4 top-down", "P3 backbone")),
        ("P2 top-down (layer 17)", ("P3 top-down", "P2 backbone")),
        ("P3 bottom-up (layer 20)", ("P2 bottom-up", "P3 top-down", "P3 backbone")),
        ("P4 bottom-up (layer 23)", ("P3 bottom-up", "P4 top-down", "P4 backbone")),
        ("P5 bottom-up (layer 26)", ("P4 bottom-up", "P5 backbone")),
    ],
    "rtdetr-l-bifpn": [  # its neck begins with layers of the backbone's own level
        ("P4 top-down (layer 15)", ("P5 top-down", "P4 backbone")),
        ("P3 top-down (layer 20)", ("P4 top-down", "P3 backbone")),
        ("P4 bottom-up (layer 23)", ("P3 bottom-up", "P4 top-down", "P4 backbone")),
        ("P5 bottom-up (layer 26)", ("P4 bottom-up", "P5 backbone")),
    ],
}


@pytest.fixture(scope="module")
def model() -> Any:
    """Build a model with both blocks and random weights, as after training."""
    built = scrambled(build(load("yolo11n-coordatt-bifpn.yaml")))
    generator = torch.Generator().manual_seed(0)
    for m in built.modules():
        if isinstance(m, BiFPN_Concat):
            m.weight.data = torch.rand(m.weight.shape, generator=generator)
    return built


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", NODES)
def test_inputs_have_the_names_of_their_paths(name: str) -> None:
    """The inputs of a fusion are named by the level and path that they come from."""
    assert [(str(x), x.inputs) for x in fusion_weights(f"{name}.yaml")] == NODES[name]


def test_a_repeated_neck() -> None:
    """In the second layer of the paper's neck the same-level input is the node of the first layer."""
    nodes = fusion_weights("yolo11n-bifpn-add.yaml")
    assert len(nodes) == 12
    assert nodes[2].inputs == ("P4 backbone", "P4 top-down", "P3 bottom-up")
    assert nodes[6].inputs == ("P4 bottom-up", "P4 top-down", "P3 bottom-up")


def test_weights_are_those_of_the_block(model: Any) -> None:
    """The shares follow the formula of the paper."""
    node = fusion_weights(model)[2]
    raw = node.block.weight.detach().clamp_min(0).numpy()
    np.testing.assert_allclose(node.weights, raw / (raw.sum() + 1e-4), rtol=1e-5)
    assert node.shares == list(zip(node.inputs, node.weights.tolist()))


def test_a_fusion_inside_a_layer() -> None:
    """A fusion inside a user's own block is found, and its inputs are numbered."""
    built = build(load("yolo11n-bifpn.yaml"))
    built.model[8].own = BiFPN_Concat([4, 4])
    assert next((x.layer, x.inputs) for x in fusions(built)) == (8, ("input 0", "input 1"))


def test_a_stock_model_has_none() -> None:
    """A stock model has no fusion weights."""
    assert fusion_weights("yolo11n.yaml") == []


# Log of a training ----------------------------------------------------------------------------------------------------


class BaseTrainer:
    """The part of the host's trainer that its callbacks use."""

    def __init__(self, folder: Path, model: nn.Module, start_epoch: int = 0) -> None:
        self.save_dir, self.start_epoch, self.epoch = folder, start_epoch, start_epoch
        self.ema = SimpleNamespace(ema=model)
        self.args = SimpleNamespace(plots=False)
        self.metrics: dict[str, float] = {"mAP": 0.5}
        self.callbacks: dict[str, list[Any]] = defaultdict(list)

    def run_callbacks(self, event: str) -> None:
        for callback in list(self.callbacks[event]):
            callback(self)

    def train(self, epochs: int) -> None:
        self.run_callbacks("on_train_start")
        for epoch in range(self.start_epoch, epochs):
            self.epoch = epoch
            self.run_callbacks("on_train_epoch_end")
            self.run_callbacks("on_fit_epoch_end")
        self.epoch += 1
        self.run_callbacks("on_fit_epoch_end")  # the host's final validation
        self.run_callbacks("on_train_end")


@pytest.fixture
def start() -> Any:
    """Make trainers with the log, and a logger of the host that notes the metrics it gets."""
    seen: list[dict[str, float]] = []
    add = lambda trainer: trainer.callbacks["on_fit_epoch_end"].append(lambda x: seen.append(dict(x.metrics)))  # noqa: E731
    registry = SimpleNamespace(__name__="callbacks", add_integration_callbacks=add)
    undo = patch_trainer_callbacks(registry)  # type: ignore[arg-type]

    def make(*args: Any) -> tuple[BaseTrainer, list[dict[str, float]]]:
        trainer = BaseTrainer(*args)
        registry.add_integration_callbacks(trainer)
        return trainer, seen

    yield make
    undo()
    assert registry.add_integration_callbacks is add


def epochs(folder: Path) -> list[str]:
    """Read the first column of the log in a folder."""
    return [x.split(",")[0] for x in (folder / "fusion_weights.csv").read_text().splitlines()[1:]]


@pytest.mark.slow
def test_the_hosts_loggers_see_the_weights(start: Any, model: Any, tmp_path: Path) -> None:
    """Only the host's loggers see the weights among the metrics, once for each epoch; logs and plots are written."""
    trainer, seen = start(tmp_path, model)
    trainer.args.plots = True
    trainer.train(2)
    assert trainer.metrics == {"mAP": 0.5}
    names = [x for x in seen[0] if x.startswith("fusion/")]
    assert names[:2] == ["fusion/layer13_P4_top-down/P5_top-down", "fusion/layer13_P4_top-down/P4_backbone"]
    assert [len(x) for x in seen] == [14, 14, 1]
    assert epochs(tmp_path) == ["1"] * 9 + ["2"] * 9
    with Image.open(tmp_path / "fusion_weights.png") as picture:
        assert min(picture.size) > 400


def test_the_effects_of_attention_are_logged(start: Any, tmp_path: Path, log: Any) -> None:
    """Each attention block has a row for each epoch and a plot; those that stayed the identity are named at the end."""
    built = build(load("yolo11n-coordatt.yaml"))
    for moved in (False, True):
        log.clear()
        built.model[9].neutral_()
        if moved:
            nn.init.normal_(built.model[9].conv_h.weight, std=2.0)
        trainer, seen = start(tmp_path, built)
        trainer.args.plots = moved
        trainer.train(2)
        with (tmp_path / "attention.csv").open() as stream:
            rows = [{k: v if k == "block" else float(v) for k, v in x.items()} for x in csv.DictReader(stream)]
        assert [(x["epoch"], x["layer"], x["block"]) for x in rows] == [(1, 9, "CoordAtt"), (2, 9, "CoordAtt")]
        assert all(x["channel_low"] <= x["channel_high"] for x in rows)
        assert (rows[0]["change"] > 0.01) == (rows[0]["within_map"] > 0.0) == moved
        assert seen[-3]["attention/layer9_CoordAtt/change"] == pytest.approx(rows[0]["change"], rel=1e-4, abs=1e-9)
        message = "CoordAtt (layer 9) has stayed the identity: the output differs by at most 0.0% from the input"
        assert (message in log.text) != moved
    with Image.open(tmp_path / "attention.png") as picture:
        assert min(picture.size) > 300


def test_effects_are_measured(tmp_path: Path) -> None:
    """The change is that of the block in the pass, the factors are output over input, and hooks are removed."""
    built = build(load("yolo11n-coordatt.yaml"))
    block, kept = built.model[9], {}
    nn.init.normal_(block.conv_w.weight, std=2.0)
    image = torch.rand(1, 3, 96, 64)
    handle = block.register_forward_hook(lambda m, args, out: kept.update(x=args[0], y=out))
    (found,) = effects(built, image)
    handle.remove()
    x, y = kept["x"], kept["y"]
    assert found.change == pytest.approx(float((y - x).norm() / x.norm()), rel=1e-5)
    factors = (y / x.where(x != 0, torch.nan)).nanmean((0, 2, 3))
    assert found.low == pytest.approx(float(factors.nanquantile(0.05)), rel=0.02)
    assert found.high == pytest.approx(float(factors.nanquantile(0.95)), rel=0.02)
    assert not block._forward_hooks
    assert str(found) == "CoordAtt (layer 9)"


def test_the_image_of_the_effects(start: Any, tmp_path: Path) -> None:
    """The image is the first of the validation data, in 0...1, or random pixels; random numbers stay as they were."""
    built = build(load("yolo11n-coordatt.yaml"))
    seen: list[torch.Tensor] = []
    built.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    trainer, _ = start(tmp_path, built)

    class Data:
        """Validation data whose transforms draw random numbers, as the host's do."""

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            random.random(), np.random.rand(), torch.rand(1)
            return {"img": torch.full((3, 64, 96), 51, dtype=torch.uint8)}

    trainer.test_loader = SimpleNamespace(dataset=Data())
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()
    trainer.train(1)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist())
    assert seen[-1].shape == (1, 3, 64, 96)
    torch.testing.assert_close(seen[-1].unique(), torch.tensor([0.2]))
    trainer.test_loader = SimpleNamespace(dataset=[("not", "a dict")])
    trainer.train(1)
    assert seen[-1].shape[-1] == 64


def test_blocks_in_a_rezero_and_inside_layers_have_effects() -> None:
    """A block in a `ReZero` is measured with it, once, and one inside a stock block has its place in its name."""
    built = build(yolo_coordbifpn.graft("yolo11n.yaml", coordatt="deepest,bottleneck", bifpn="none", attention="SE"))
    wrap(built.model, "9")
    wrap(built.model, "2.m.0.cv2.act.1")
    found = effects(built, torch.rand(1, 3, 64, 64))
    assert [str(x) for x in found if x.layer in (2, 9)] == ["m.0.cv2.act.1 SE (layer 2)", "SE (layer 9)"]
    assert all(x.asleep == (x.layer in (2, 9)) for x in found)
    assert all(x.low is None for x in found)


@pytest.mark.slow
def test_a_resumed_training_continues_its_log(start: Any, model: Any, tmp_path: Path) -> None:
    """Repeated epochs are not logged twice, and a line that a kill has truncated is dropped."""
    start(tmp_path, model)[0].train(3)
    with (tmp_path / "fusion_weights.csv").open("a") as stream:
        stream.write("4,13,P4 to")
    start(tmp_path, model, 2)[0].train(4)
    assert epochs(tmp_path) == [x for x in "1234" for _ in range(9)]
    start(tmp_path, model)[0].train(1)  # a new training in the same folder
    assert epochs(tmp_path) == ["1"] * 9


def test_an_epoch_that_is_trained_again(start: Any, model: Any, tmp_path: Path) -> None:
    """An epoch that is repeated after a recovery from NaN is logged once."""
    trainer, _ = start(tmp_path, model)
    trainer.run_callbacks("on_train_start")
    for trainer.epoch in (0, 1, 1):
        trainer.run_callbacks("on_train_epoch_end")
    assert epochs(tmp_path) == ["1"] * 9 + ["2"] * 9


def test_a_dead_weight_is_logged_once(start: Any, tmp_path: Path, log: Any) -> None:
    """The message names the node and the input whose weight is 0."""
    built = build(load("yolo11n-bifpn.yaml"))
    built.model[12].weight.data[1] = -0.1
    start(tmp_path, built)[0].train(3)
    (message,) = [x.getMessage() for x in log.records if "fusion weight" in x.getMessage()]
    assert "from epoch 1 on P4 top-down (layer 12) no longer reads 'P4 backbone'" in message


def test_a_failing_log_does_not_stop_the_training(start: Any, model: Any, tmp_path: Path, log: Any) -> None:
    """A failure is logged once; the training continues with its metrics unchanged."""
    trainer, seen = start(tmp_path, model)
    trainer.run_callbacks("on_train_start")
    (tmp_path / "fusion_weights.csv").unlink()
    (tmp_path / "fusion_weights.csv").mkdir()
    for trainer.epoch in (0, 1):
        trainer.run_callbacks("on_train_epoch_end")
        trainer.run_callbacks("on_fit_epoch_end")
    assert seen == [{"mAP": 0.5}] * 2
    assert len([x for x in log.records if "the training continues" in x.getMessage()]) == 1


@pytest.mark.parametrize("off", [False, True])
def test_no_file(start: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: bool) -> None:
    """A stock model has no log, and no model has one if the setting is 0."""
    if off:
        monkeypatch.setenv(SETTING, "0")
    start(tmp_path, model if off else build(load("yolo11n.yaml")))[0].train(1)
    assert not list(tmp_path.iterdir())


def test_without_plots_there_is_no_plot(start: Any, model: Any, tmp_path: Path) -> None:
    """`plots=False` is respected."""
    trainer, _ = start(tmp_path, model)
    trainer.args.plots = False
    trainer.train(1)
    assert {x.name for x in tmp_path.iterdir()} == {"fusion_weights.csv", "attention.csv"}


# Gates ----------------------------------------------------------------------------------------------------------------


def ramp(file: Path, width: int, height: int) -> Path:
    """Write an image whose red grows from left to right and whose green grows from top to bottom."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack(((x + 0.5) / width, (y + 0.5) / height, np.zeros_like(x)), 2)
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(file)
    return file


@pytest.fixture
def passes() -> Any:
    """Note the input of every model and the input and output of every CoordAtt in all forward passes."""
    noted = SimpleNamespace(images=[], blocks=[])

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, CoordAtt):
            noted.blocks.append((args[0].clone(), output.clone()))
        elif hasattr(module, "yaml") and args and isinstance(args[0], torch.Tensor):
            noted.images.append(args[0].clone())

    hook = nn.modules.module.register_module_forward_hook(note)
    yield noted
    hook.remove()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "imgsz"),
    [
        ("yolo11n-coordatt", (200, 120), 160),
        ("yolo11n-coordatt", (90, 150), 160),
        ("yolo11n-cls-coordatt", (200, 120), 160),
        ("yolo11n-cls-coordatt", (200, 120), (96, 192)),  # stretched
        ("rtdetr-l-coordatt", (150, 90), 160),
    ],
)
def test_maps_lie_where_the_network_saw_them(
    name: str, size: tuple[int, int], imgsz: Any, passes: Any, tmp_path: Path
) -> None:
    """The region of the gates is that of the network's input on the image, with letterbox, stretched or cropped."""
    file = ramp(tmp_path / "ramp.png", *size)
    yolo = (RTDETR if "rtdetr" in name else YOLO)(f"{name}.yaml")
    if yolo.task == "classify":
        yolo.model.transforms = classify_transforms(imgsz)  # as a trained one has
    (image,) = inspect(yolo, file, imgsz=imgsz).images
    left, top, right, bottom = image.gates[0].region
    seen = passes.images[-1][0]
    h, w = seen.shape[1:]
    for axis, (low, high), channel in ((1, (left, right), seen[0]), (0, (top, bottom), seen[1])):
        n = (h, w)[axis]
        place = low + (torch.arange(n) + 0.5) / n * (high - low)
        value = channel[h // 2] if axis else channel[:, w // 2]
        inside = (place > 4) & (place < size[1 - axis] - 4)
        assert inside.sum() > n / 3
        assert (value[inside] * size[1 - axis] - place[inside]).abs().max() < 2  # pixels of the image
    assert image.pixels.shape == (size[1], size[0], 3) == image.annotated.shape


def test_gates_are_those_of_the_pass(model: Any, passes: Any, tmp_path: Path) -> None:
    """The output of the block is its input times the captured gates, and their product is a plain mean."""
    yolo = YOLO("yolo11n-coordatt-bifpn.yaml")
    yolo.model.load_state_dict(model.state_dict())
    found = inspect(yolo, ramp(tmp_path / "a.png", 160, 96), imgsz=96)
    (gates,) = found.images[0].gates
    assert gates.name == "P5, layer 9"
    x, y = next(pair for pair in reversed(passes.blocks) if pair[0].shape[2:] == gates.product.shape)
    expected = x[0].numpy() * gates.height[:, :, None] * gates.width[:, None] * gates.gain
    np.testing.assert_allclose(y[0].numpy(), expected, rtol=1e-4, atol=1e-6)
    mean = [[np.mean(gates.height[:, i] * gates.width[:, j]) for j in range(x.shape[3])] for i in range(x.shape[2])]
    np.testing.assert_allclose(gates.product, mean, rtol=1e-5)
    assert [str(n) for n in found.fusions] == [node for node, _ in NODES["yolo11n-coordatt-bifpn"]]
    np.testing.assert_array_equal(found.fusions[0].weights, fusion_weights(model)[0].weights)
    assert all(x.__module__.startswith("ultralytics") for x in yolo.callbacks["on_predict_postprocess_end"])


@pytest.mark.slow
def test_blocks_inside_bottlenecks(tmp_path: Path) -> None:
    """CoordAtt inside a stock block is found and named by its layer."""
    cfg = yolo_coordbifpn.graft("yolo11n.yaml", coordatt="bottleneck", bifpn="none")
    yolo = YOLO("yolo11n.yaml")
    yolo.model = build(cfg)
    found = inspect(yolo, ramp(tmp_path / "a.png", 64, 64), imgsz=64)
    assert len(found.images[0].gates) == len([m for m in yolo.model.modules() if isinstance(m, CoordAtt)]) > 4
    assert found.images[0].gates[0].name.startswith("P2, layer 2 ")


@pytest.mark.parametrize(
    ("model", "source", "message"),
    [
        ("nowhere.pt", None, "there is no checkpoint nowhere.pt"),
        ("model.onnx", None, "must be a checkpoint (.pt) or a model YAML, got 'model.onnx'"),
        ("yolo11n-coordat.yaml", None, "no such model YAML. Did you mean yolo11n-coordatt.yaml"),
        ("yolo11n-coordatt.yaml", "nowhere.jpg", "there is no image or folder nowhere.jpg"),
        ("yolo11n-coordatt.yaml", "empty", "there is no image in the folder empty"),
        ("yolo11n-coordatt.yaml", "text.txt", "text.txt is not an image; the formats are"),
        ("yolo11n-coordatt.yaml", "*.txt", "no image matches *.txt"),
        ("yolo11n-coordatt.yaml", "https://a.org/b.jpg", "https://a.org/b.jpg is a URL, which inspect does not read"),
        ("yolo11n-coordatt.yaml", "broken.jpg", "none of these can be read as an image: broken.jpg"),
    ],
)
def test_errors(model: str, source: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file, or one of another kind, is named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no image")
    (tmp_path / "broken.jpg").write_text("no image")
    with pytest.raises(InspectError, match=re.escape(message)):
        inspect(model, source)


def test_a_module_that_is_no_model() -> None:
    """A torch module without the host's layers is named by its class."""
    with pytest.raises(InspectError, match="expected a model of Ultralytics with its layers, got Conv2d"):
        fusion_weights(nn.Conv2d(1, 1, 1))


@pytest.mark.slow
def test_an_unreadable_image_is_skipped(tmp_path: Path, log: Any) -> None:
    """A broken and an empty file are skipped and named in the log and on the page; the others are inspected."""
    ramp(tmp_path / "good.png", 64, 64)
    (tmp_path / "broken.jpg").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    found = inspect("yolo11n-coordatt-bifpn.yaml", tmp_path / "*.*", imgsz=64)
    assert [x.name for x in found.images] == ["good"]
    assert [x.name for x in found.skipped] == ["broken.jpg", "empty.jpg"]
    for file in found.skipped:
        assert any(f"{file} is skipped" in x.getMessage() for x in log.records)
    assert f"Skipped, because the file cannot be read as an image: {', '.join(map(str, found.skipped))}." in page(found)


@pytest.mark.slow
def test_many_images_have_a_progress_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For four images the host's progress bar is shown, while they are inspected and drawn; for one it is not."""
    bars = []

    def bar(files: Any, desc: str, disable: bool) -> Any:
        bars.append((desc, not disable))
        return files

    monkeypatch.setattr("ultralytics.utils.TQDM", bar)
    for k in range(4):
        ramp(tmp_path / f"{k}.png", 32, 32)
    inspect("yolo11n-coordatt.yaml", tmp_path / "0.png", imgsz=32)
    page(inspect("yolo11n-coordatt.yaml", tmp_path, imgsz=32))
    name = "Inspecting yolo11n-coordatt.yaml"
    assert bars == [(name, False), (name, True), ("Drawing", True)]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["x/a.jpg", "x/b.png"], ["a", "b"]),
        (["x/a.jpg", "y/a.jpg", "y/b.jpg"], ["x/a", "y/a", "b"]),
        (["x/a.jpg", "x/a.png"], ["a.jpg", "a.png"]),
        (["p/x/a.jpg", "q/x/a.jpg", "q/y/a.jpg"], ["p/x/a", "q/x/a", "y/a"]),
        (["/a.jpg", "/x/a.jpg"], ["a", "x/a"]),
    ],
)
def test_names_tell_images_apart(files: list[str], names: list[str]) -> None:
    """Images of the same name have those of their folders too, as far as needed."""
    assert distinct_names([Path(x) for x in files]) == names


@pytest.mark.slow
def test_the_repr_is_one_line(model: Any, tmp_path: Path) -> None:
    """An inspection and its parts have short reprs; a notebook gets the page in a frame of its own."""
    found = inspect("yolo11n-coordatt-bifpn.yaml", ramp(tmp_path / "a.png", 64, 32), imgsz=64)
    assert repr(found) == "Inspection(yolo11n-coordatt-bifpn, 1 CoordAtt, 4 fusions, 1 images)"
    assert repr(found.images) == "[InspectedImage(a, 64 x 32 pixels, 1 CoordAtt)]"
    assert repr(found.images[0].gates) == "(Gates(P5, layer 9, 256 channels, 1 x 2),)"
    assert len(repr(found.fusions[0])) < 160
    frame = found._repr_html_()
    assert frame.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert "href=" not in frame


def opened(model: Any, **changes: float) -> Any:
    """Open a model whose blocks are the identity, as beside pretrained weights; change the height gate of CoordAtt."""
    yolo = YOLO("yolo11n-coordatt-bifpn.yaml")
    yolo.model.load_state_dict(model.state_dict())
    for m in yolo.model.modules():
        if hasattr(m, "neutral_"):
            m.neutral_()
        if isinstance(m, BiFPN_Concat):
            m.weight.data.fill_(1)
    generator = torch.Generator().manual_seed(0)
    for name, size in changes.items():
        tensor = getattr(yolo.model.model[9].conv_h, name).data
        tensor += size * (torch.randn(tensor.shape, generator=generator) if name == "weight" else 1)
    return yolo


@pytest.mark.slow
def test_blocks_that_have_not_moved(model: Any, tmp_path: Path) -> None:
    """A sentence names the blocks at their start, and maps are drawn only of blocks whose gates differ."""
    file = ramp(tmp_path / "a.png", 96, 64)
    text = " ".join(notes(inspect(opened(model), file, imgsz=96)))
    assert "CoordAtt at P5, layer 9 has stayed at its start: it scales every channel by 1.00 at every place." in text
    assert "P3 top-down (layer 16)" in text
    yolo = opened(model, bias=1.0)
    yolo.model.model[13].weight.data[0] += 0.5
    found = inspect(yolo, file, imgsz=96)
    text = " ".join(notes(found))
    assert "CoordAtt at P5, layer 9 does not depend on the place" in text
    assert "It scales the channels by 1.46 to 1.46." in text  # 4 * sigmoid(1) / 2
    assert "layer 13" not in text
    flat = Image.open(io.BytesIO(figures(found)[-1].content)).width
    found = inspect(opened(model, weight=100.0), file, imgsz=96)
    assert not any("CoordAtt at" in x for x in notes(found))
    assert Image.open(io.BytesIO(figures(found)[-1].content)).width > 3 * flat


@pytest.mark.slow
def test_two_models(model: Any, tmp_path: Path) -> None:
    """With against=, each image has the maps of both models on one scale, and shares are matched by node and input."""
    yolo = YOLO("yolo11n-coordatt-bifpn.yaml")
    yolo.model.load_state_dict(model.state_dict())
    found = inspect(yolo, ramp(tmp_path / "a.png", 64, 64), against="yolo11n-bifpn.yaml", imgsz=64)
    assert found.against is not None
    assert [len(x.gates) for x in (found.images[0], found.against.images[0])] == [1, 0]
    table = shares(found)
    assert [(x.node, x.input) for x in table] == [(str(n), i) for n in found.fusions for i in n.inputs]
    assert table[0].before == pytest.approx(0.5, abs=1e-3)
    assert table[0].difference == pytest.approx(float(found.fusions[0].weights[0]) - 0.5, abs=1e-3)
    assert [x.title for x in figures(found)] == ["The neck", "a"]
    text = page(found)
    assert all(x in text for x in ("yolo11n-bifpn.yaml", f"{table[0].difference:+.4f}", "<th>difference</th>"))


def test_maps_of_one_place_have_one_scale() -> None:
    """Maps of the same block in two models have the same colours and show the same channel."""
    generator = np.random.default_rng(0)
    region = (0.0, 0.0, 64.0, 64.0)
    gates = [
        Gates("P5, layer 9", *(generator.uniform(0.2, high, (8, n)).astype("f4") for n in (3, 4)), 1.0, region)
        for high in (0.4, 0.9)
    ]
    rows = [row for g in gates for row in gate_plot._rows(g, gates[1].strongest)]
    assert list(rows[0].maps) == list(rows[2].maps)
    assert "P5, layer 9\nproduct, mean of 8 channels" in rows[0].maps
    title = f"P5, layer 9\nproduct, channel {gates[1].strongest}"
    (low, high) = gate_plot._scales(rows)[title]
    values = np.concatenate([row.maps[title].ravel() for row in (rows[1], rows[3])])
    assert (low, high) == pytest.approx((values.min(), values.max()))


@pytest.mark.slow
def test_the_page_stays_small(model: Any, tmp_path: Path) -> None:
    """An image adds less than 70 kB to the page, so that 40 images stay under 3 MB."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    coarse.resize((640, 480), Image.Resampling.BICUBIC).save(tmp_path / "photo.png")  # blurred noise: a busy photo
    found = inspect(opened(model, weight=100.0), tmp_path / "photo.png", imgsz=640)
    assert found.images[0].gates[0].spread[1] > 0.01
    assert len(page(found)) - len(page(replace(found, images=[]))) < 70_000


# Graph ----------------------------------------------------------------------------------------------------------------


def test_the_cells_are_the_figure_of_the_paper(model: Any) -> None:
    """The backbone goes up in column 0, the top-down path down in column 1, the bottom-up path up in column 2."""
    cells = [(c.part, c.level, c.direction, c.column, len(c.lines)) for c in diagram(model, "").cells]
    backbone = [("backbone", f"P{k}", 1, 0, n) for k, n in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 5))]
    necks = [("neck", "P4", -1, 1, 3), ("neck", "P3", -1, 1, 3), ("neck", "P4", 1, 2, 3), ("neck", "P5", 1, 2, 3)]
    assert cells == [*backbone, *necks, ("head", "P3", 0, 3, 1)]


@pytest.mark.parametrize("name", ["yolo11n-bifpn-add", "yolov9t-bifpn", "yolov8n-p6-bifpn", "yolo11n-cls-coordatt"])
def test_everything_is_drawn(name: str) -> None:
    """Each layer is in one cell, each input is an arrow or the line before, and no two cells share a place."""
    built = build(load(f"{name}.yaml"))
    drawing = diagram(built, name)
    lines = [line.index for cell in drawing.cells for line in cell.lines]
    assert lines == list(range(len(built.model)))
    arrows = {(a.source, a.target) for a in drawing.arrows}
    for layer in built.model:
        for source in (k for k in reads(layer) if k >= 0):
            stepped = source == layer.i - 1 and drawing.cell(source) is drawing.cell(layer.i)
            assert stepped != ((source, layer.i) in arrows)
    assert len({(c.column, c.row) for c in drawing.cells}) == len(drawing.cells)
    marked = [line.index for cell in drawing.cells for line in cell.lines if line.mark]
    assert marked == [
        x.i for x in built.model if any(isinstance(m, BlockWithGain) for m in x.modules()) or "Separable" in x.type
    ]
    texts = [x.text for x in ElementTree.fromstring(draw([drawing])).iter("{http://www.w3.org/2000/svg}text")]
    assert {str(k) for k in lines} <= set(texts)


def test_arrows_carry_the_weights(model: Any) -> None:
    """The arrows into the cell of a fusion have its shares; a stock model has none."""
    drawing = neck(diagram(model, "", weights=True))
    assert {c.level for c in drawing.cells} == {"P3", "P4", "P5"}
    for node in fusion_weights(model):
        lines = {line.index for line in drawing.cell(node.layer).lines}
        shares = [a.weight for a in drawing.arrows if a.target in lines and a.weight is not None]
        assert sorted(shares) == pytest.approx(sorted(node.weights.tolist()))
    assert not any(a.weight for a in diagram(build(load("yolo11n.yaml")), "", weights=True).arrows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolo11n-coordatt-bifpn", "yolo11n-bifpn-add", "yolov8n-p6-bifpn", "rtdetr-l-bifpn"])
def test_shares_touch_neither_arrows_nor_each_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every share of a neck drawing is clear of all arrows, also of those that pass, and of all other texts."""
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    draw([neck(diagram(build(load(f"{name}.yaml")), name, weights=True))], "png")
    (axes,) = drawn[0].axes
    FigureCanvasAgg(drawn[0]).draw()
    boxes = {x: x.get_window_extent() for x in axes.texts}
    shown = [x for x in axes.texts if re.fullmatch(r"[01]\.\d\d", x.get_text())]
    assert len(shown) == sum(len(x.inputs) for x in fusion_weights(f"{name}.yaml"))
    for share in shown:
        assert not [x.get_text() for x, box in boxes.items() if x is not share and box.overlaps(boxes[share])]
        for arrow in (x for x in axes.patches if isinstance(x, FancyArrowPatch)):
            for part in arrow.get_transform().transform_path(arrow.get_path()).to_polygons(closed_only=False):
                points = np.linspace(part[:-1], part[1:], 20).reshape(-1, 2)
                assert not any(boxes[share].contains(*point) for point in points), share.get_text()


def test_a_layer_that_reads_across_levels() -> None:
    """A user's YAML with any connections is drawn, here with CoordAtt after two layers, repeated."""
    built = build(inserted(load("yolov8n.yaml"), 6, 12, repeats=6))  # at scale n a third of them
    texts = [line.text for cell in diagram(built, "").cells for line in cell.lines]
    assert texts.count("2 x CoordAtt") == 2
    assert draw([diagram(built, "")], "png").startswith(b"\x89PNG")


# Commands -------------------------------------------------------------------------------------------------------------


def test_inspect_writes_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """All plots are on one page without outside resources; the same name= again gives another folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        ramp(tmp_path / name / "same.png", 80, 64)
    ramp(tmp_path / "a" / "same_3.png", 80, 64)
    words = ["inspect", "model=yolo11n-coordatt-bifpn.yaml", "source=a,b", "project=out", "name=x", "imgsz=64"]
    assert main(words) == 0
    assert {x.suffix for x in (tmp_path / "out" / "x").iterdir()} == {".png", ".svg", ".html"}
    images = {"a_same.png", "b_same.png", "same_3.png"}  # those of the same name have that of their folder too
    assert {x.name for x in (tmp_path / "out" / "x").glob("*.png")} == {*images, "neck.png"}
    page = (tmp_path / "out" / "x" / "index.html").read_text(encoding="utf-8")
    assert page.count("<img") == 4
    assert set(re.findall(r'src="(.{5})', page)) == {"data:"}
    assert set(re.findall(r'href="(.*?)"', page)) == {*images, "neck.png"}
    assert all(x in page for x in ("<h1>What the blocks of yolo11n-coordatt-bifpn.yaml learned", "a/same", "b/same"))
    assert all(x in page for x in ("imgsz=64 conf=0.25", f"Ultralytics {ultralytics.__version__}", f"{date.today()}"))
    assert "P4 bottom-up (layer 19)" in page
    assert "P4 bottom-up (layer 19)" in capsys.readouterr().out
    assert main(words) == 0
    assert len(list((tmp_path / "out").glob("x*/index.html"))) == 2


@pytest.mark.slow
def test_the_page_of_a_trained_checkpoint_shows_its_training(model: Any, tmp_path: Path, capsys: Any) -> None:
    """The fusion weights that the training logged beside the checkpoint are a figure of the page."""
    (tmp_path / "run" / "weights").mkdir(parents=True)
    file = tmp_path / "run" / "weights" / "best.pt"
    torch.save({"model": model, "train_args": {"model": "yolo11n-coordatt-bifpn.yaml"}}, file)
    shares = [(x.layer, x.name, name, w) for x in fusion_weights(file) for name, w in x.shares]
    rows = [",".join(map(str, (epoch, *x))) for epoch in (1, 2) for x in shares]
    (tmp_path / "run" / "fusion_weights.csv").write_text("\n".join(["epoch,layer,node,input,weight", *rows]))
    words = ["inspect", f"model={file}", f"project={tmp_path}", "name=page", "imgsz=64"]
    ramp(tmp_path / "image.png", 64, 64)
    assert main([*words, f"source={tmp_path / 'image.png'}"]) == 0
    assert (tmp_path / "page" / "fusion_weights.png").is_file()
    assert "The training" in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")


def test_inspect_of_a_stock_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """For a stock model there is nothing to show, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "model=yolo11n.yaml"]) == 0
    assert "there is nothing to show" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["inspect"], 2, "model= must be a checkpoint"),
        (["inspect", "model=yolo11n-coordatt.yaml"], 2, "source= must be an image"),
        (["inspect", "model=yolo11n-coordatt.yaml", "imgsize=64"], 1, "imgsize"),
        (["inspect", "model=yolo11n-coordatt.yaml", "augment=True"], 2, "augment= is not for inspect"),
        (["inspect", "model=nowhere.pt"], 1, "there is no checkpoint nowhere.pt"),
        (["graph"], 2, "model= must be a model YAML"),
        (["graph", "model=yolo11n.yaml", "save=a.txt"], 2, "save= must end in .svg"),
        (["graph", "model=yolo11n.yaml", "save=no/a.svg"], 2, "there is no folder no"),
        (["graph", "model=nowhere.yaml"], 1, "nowhere.yaml"),
    ],
)
def test_command_errors(
    words: list[str], status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A wrong command line says what was expected."""
    monkeypatch.chdir(tmp_path)
    assert main(words) == status
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_graph_of_a_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A variant is drawn after its stock model, always the same; a file is not overwritten."""
    monkeypatch.chdir(tmp_path)
    words = ["graph", "model=yolov8n-coordatt.yaml"]
    assert main(words) == 0
    file = tmp_path / "yolov8n-coordatt.svg"
    texts = [x.text for x in ElementTree.parse(file).iter("{http://www.w3.org/2000/svg}text")]
    assert {"yolov8n", "yolov8n-coordatt", "✚ CoordAtt"} <= set(texts)
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*words, "save=again.svg"]) == 0
    assert (tmp_path / "again.svg").read_bytes() == file.read_bytes()


def test_plot_of_an_empty_file(tmp_path: Path) -> None:
    """A log without rows is an error that names the file."""
    (tmp_path / "empty.csv").write_text("epoch,layer,node,input,weight\n")
    with pytest.raises(ValueError, match="empty.csv has no fusion weights"):
        plot_fusion_weights(tmp_path / "empty.csv", tmp_path / "x.png")


def test_a_log_of_a_killed_training(tmp_path: Path) -> None:
    """A last row that was cut is left out."""
    whole = "epoch,layer,node,input,weight\n1,13,P4,a,0.4\n1,13,P4,b,0.6\n"
    for text in (whole, whole + "2,13,P4,a", whole + "2,13,P4,a,"):
        (tmp_path / "fusion_weights.csv").write_text(text)
        plot_fusion_weights(tmp_path / "fusion_weights.csv", tmp_path / f"{len(text)}.png")
    assert len({x.read_bytes() for x in tmp_path.glob("*.png")}) == 1
    head = "epoch,layer,block,change,channel_low,channel_high,within_map\n1,9,SE,0.1,,,\n"
    (tmp_path / "attention.csv").write_text(head + "2,9,SE,0.")
    plot_effects(tmp_path / "attention.csv", tmp_path / "attention.png")


def test_the_log_follows_a_new_model(model: Any, tmp_path: Path) -> None:
    """When the host goes back to a checkpoint after a NaN, it makes a new averaged model, whose weights are logged."""
    log = FusionLog(tmp_path, 0)
    log.record(1, model)
    new = copy.deepcopy(model)
    (first, *_) = (m for m in new.modules() if isinstance(m, BiFPN_Concat))
    first.weight.data[0] = 5.0
    log.record(2, new)
    with (tmp_path / "fusion_weights.csv").open() as stream:
        rows = [float(x["weight"]) for x in csv.DictReader(stream) if x["layer"] == str(first.i)]
    assert rows[0] != rows[2] == pytest.approx(float(first.normalized_weights()[0]), abs=1e-5)


@pytest.mark.slow
def test_the_curve_is_that_of_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative name finds the log beside its folder of checkpoints; a model YAML has no training."""
    weights = tmp_path / "run" / "weights"
    weights.mkdir(parents=True)
    YOLO("yolo11n-bifpn.yaml").save(weights / "best.pt")
    (tmp_path / "run" / "fusion_weights.csv").write_text("epoch,layer,node,input,weight\n1,13,P4,a,0.4\n")
    monkeypatch.chdir(weights)
    assert [x.name for x in figures(inspect("best.pt"))] == ["neck", "fusion_weights"]
    assert [x.name for x in figures(inspect("yolo11n-bifpn.yaml"))] == ["neck"]
    (tmp_path / "run" / "fusion_weights.csv").write_text("epoch,layer,node,input,weight\n")
    assert [x.name for x in figures(inspect("best.pt"))] == ["neck"]


def test_names_with_dollars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dollars in the names of images and models are drawn as they are, not read as formulas."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    image = InspectedImage("price_$5_$10", pixels, pixels, ())
    assert gate_plot.draw({"a$_b$": image, "c": image}).startswith(b"\x89PNG")
    monkeypatch.chdir(tmp_path)
    shutil.copy(yolo_coordbifpn.model_yaml("yolo11-coordatt"), "a$b_$c.yaml")
    assert main(["graph", "model=a$b_$c.yaml", "save=a.svg"]) == 0
    assert "a$b_$c" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_maps_that_are_flat_on_one_image(tmp_path: Path) -> None:
    """Only a block whose maps are flat on all images is said not to be drawn."""
    found = inspect("yolo11n-dualpath.yaml")
    pixels = np.zeros((8, 8, 3), np.uint8)
    flat, other = np.zeros((4, 4), np.float32), np.eye(4, dtype=np.float32)
    for maps, said in (((flat, other), False), ((flat, flat), True)):
        images = [
            InspectedImage("x", pixels, pixels, (), (SpatialMap("P4, layer 18", x, 1.0, (0, 0, 8, 8)),)) for x in maps
        ]
        assert ("not drawn" in " ".join(notes(replace(found, images=images)))) is said


# Curves ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("P5 top-down", "P4 top-down", "P3 top-down", "P4 backbone"),
        tuple(f"input {k}" for k in range(12)),
        ("input 0", "P5 backbone", "P4 backbone", "P4 bottom-up", "P3 bottom-up"),
    ],
)
def test_no_two_inputs_look_the_same(names: tuple[str, ...]) -> None:
    """Each input of a fusion has its own style; up to 8 inputs share no colour, line or marker."""
    found = path_styles(names)
    assert len({tuple(x.values()) for x in found}) == len(names)
    if len(names) < 8:
        assert all(len({x[key] for x in found}) == len(names) for key in ("color", "linestyle", "marker"))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_epochs_have_whole_ticks(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The epochs of a short training are whole numbers, in the plot of the shares and in that of a comparison."""
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    lines = [f"{e},13,P4 top-down,{x},0.5" for e in range(1, count + 1) for x in ("P5 top-down", "P4 backbone")]
    (tmp_path / "a.csv").write_text("\n".join(["epoch,layer,node,input,weight", *lines]))
    plot_fusion_weights(tmp_path / "a.csv", tmp_path / "a.png")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "results.csv").write_text(
        "\n".join(["epoch,m", *(f"{e},0.{e}" for e in range(1, count + 1))])
    )
    run = SimpleNamespace(label="a", folder=tmp_path, result={"seed": 0})
    plots.curves(SimpleNamespace(labels=["a"], runs=[run], seed_counts="1", folder=tmp_path), "m")  # type: ignore[arg-type]
    assert len(drawn) == 2
    for figure in drawn:
        FigureCanvasAgg(figure).draw()
        axes = figure.axes[0]
        low, high = axes.get_xlim()
        assert [x for x in axes.get_xticks() if low <= x <= high] == [*range(1, count + 1)]


def test_no_impossible_metric_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interval of two seeds that reaches below 0 does not extend the axis there, and no name covers a point."""
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    values = {"a": {0: 0.02, 1: 0.06}, "b": {0: 0.9, 1: 0.99}, "a-long-name-of-a-model-with-every-variant": {0: 0.5}}
    plan = SimpleNamespace(labels=list(values), folder=tmp_path, scores=lambda metric: values)
    times = {label: {"low": 1.0, "median": 2.0, "high": 3.0} for label in values}
    plots.pareto(plan, "mAP50-95", {"models": times, "imgsz": 64, "device": "CPU"})  # type: ignore[arg-type]
    (figure,) = drawn
    FigureCanvasAgg(figure).draw()
    low, high = figure.axes[0].get_ylim()
    assert (low, high) == (0, 1)
    (legend,) = figure.legends
    assert not legend.get_window_extent().overlaps(figure.axes[0].get_tightbbox())
    assert figure.bbox.fully_containsx(legend.get_window_extent().x1)


def test_rtdetr_is_recognised_by_its_head(tmp_path: Path) -> None:
    """Its YAML or checkpoint may have any name."""
    model = RTDETR("rtdetr-resnet50.yaml")
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({k: v for k, v in model.model.yaml.items() if k != "yaml_file"}))
    assert type(open_model(file)) is RTDETR
    model.save(tmp_path / "best.pt")
    assert type(open_model(tmp_path / "best.pt")) is RTDETR
    assert type(open_model("yolo11n.yaml")) is YOLO


def test_sources_may_be_separated_by_a_comma_and_a_space() -> None:
    """As in a sentence."""
    assert split_sources("a.jpg, b.jpg,") == ["a.jpg", "b.jpg"]
