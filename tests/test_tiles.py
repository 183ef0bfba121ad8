"""Large images tile by tile: the command, plain SAHI, and what is skipped."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ultralytics import YOLO

from yolo_coordbifpn.blocks.grid import GridActivation, grid_of
from yolo_coordbifpn.commands import main

pytest.importorskip("sahi", reason="needs the extra `tiles`")

from sahi.models.ultralytics import UltralyticsDetectionModel
from sahi.predict import get_sliced_prediction

from yolo_coordbifpn.errors import InspectError
from yolo_coordbifpn.grids import tiles
from yolo_coordbifpn.grids.tiles import TileModel, Tiling

TILING = Tiling(size=64, overlap=0.25, batch=4, whole=False, conf=0.2, imgsz=64, device="cpu")
WIDTH, HEIGHT = 208, 160  # 4 x 3 tiles, 48 px apart


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model that detects something in every tile, and whose grid scores a tile by its brightness."""
    torch.manual_seed(0)
    yolo: Any = YOLO("yolo11n-grid.yaml")
    head, grid = yolo.model.model[-1], grid_of(yolo.model)
    for branch in head.cv3:
        torch.nn.init.constant_(branch[-1].bias, 1.0)
    for conv in (grid.reduce, grid.spatial, grid.out):
        torch.nn.init.constant_(conv.weight, 0.0)
    yolo.model.args = {"imgsz": 64, "task": "detect"}
    file = tmp_path_factory.mktemp("tiles") / "best.pt"
    torch.save({"model": yolo.model, "ema": None, "train_args": {}}, file)
    return file


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Draw an image, dark but for its left edge."""
    pixels = np.random.default_rng(0).integers(0, 30, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[:, :40] += 200
    file = tmp_path / "images" / "scene.png"
    file.parent.mkdir()
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture
def choosy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a grid see something where the middle row of a tile is bright: where the backbone's first layer saw light."""
    seen: list[torch.Tensor] = []
    original = GridActivation.scores

    def scores(self: GridActivation) -> torch.Tensor:
        assert self.logits is not None
        return seen[-1].to(self.logits) if seen and len(seen[-1]) == len(self.logits) else original(self)

    def note(module: torch.nn.Module, args: Any) -> None:
        if getattr(module, "i", None) == 0:
            seen.append((args[0].flatten(1).amax(1) > 0.5).float() * 0.8 + 0.1)

    monkeypatch.setattr(GridActivation, "scores", scores)
    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    yield
    hook.remove()


def opened(checkpoint: Path, threshold: float, **changes: Any) -> TileModel:
    """Open the checkpoint with a threshold."""
    yolo = YOLO(checkpoint)
    grid_of(yolo.model).threshold = threshold
    return TileModel(yolo, Tiling(**{**vars(TILING), **changes}), "best.pt")


def boxes(result: Any) -> list[list[float]]:
    """Return class, score and box of all objects."""
    return [[x.category.id, x.score.value, *x.bbox.to_xyxy()] for x in result.object_prediction_list]


def test_tiles_of_an_image() -> None:
    """The tiles cover the image, each of the same size, in the order in which SAHI predicts them."""
    found = TILING.boxes(WIDTH, HEIGHT)
    assert len(found) == 12
    covered = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for left, top, right, bottom in found:
        assert (right - left, bottom - top) == (64, 64)
        covered[top:bottom, left:right] = True
    assert covered.all()


@pytest.mark.slow
def test_plain_sahi(checkpoint: Path, scene: Path, choosy: None) -> None:
    """Plain SAHI skips too, in batches and tile by tile, and finds what the command finds."""
    pixels = tiles.read_image(scene)
    options = {"slice_height": 64, "slice_width": 64, "overlap_height_ratio": 0.25, "overlap_width_ratio": 0.25}
    options |= {"perform_standard_pred": False, "verbose": 0}
    for threshold, batch in ((0.0, 4), (0.5, 4), (0.5, 1)):
        ours = opened(checkpoint, threshold).predict(pixels)
        yolo = YOLO(checkpoint)
        grid_of(yolo.model).threshold = threshold
        sahi = UltralyticsDetectionModel(model=yolo, confidence_threshold=0.2, image_size=64, device="cpu")
        plain = get_sliced_prediction(pixels, sahi, batch_size=batch, **options)
        assert np.allclose(boxes(plain), boxes(ours.result), atol=1e-3)
    assert len(boxes(plain)) < len(boxes(opened(checkpoint, 0.0).predict(pixels).result))


def test_tiles_are_quick_to_resize(checkpoint: Path, scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host gets the tiles as contiguous BGR pixels, which OpenCV resizes without copying them one by one."""
    model, pixels, given = opened(checkpoint, 0.0, batch=12), tiles.read_image(scene), []
    original = type(model.yolo).__call__

    def call(self: Any, source: Any, **kwargs: Any) -> Any:
        given.extend(source)
        return original(self, source, **kwargs)

    monkeypatch.setattr(type(model.yolo), "__call__", call)
    found = model.predict(pixels)
    assert len(given) == 12
    for image, (left, top, right, bottom) in zip(given, found.tiles):
        assert image.flags.c_contiguous
        assert np.array_equal(image, pixels[top:bottom, left:right, ::-1])


def test_some_tiles_are_skipped(checkpoint: Path, scene: Path, choosy: None) -> None:
    """Only bright tiles run to the end: their objects are those of a run without skipping, and no other is there."""
    pixels = tiles.read_image(scene)
    found = opened(checkpoint, 0.5).predict(pixels)
    bright = [k for k, (left, *_) in enumerate(found.tiles) if left < 40]
    assert [k for k in range(12) if k not in found.skipped] == bright
    assert [x > 0.5 for x in found.scores] == [k in bright for k in range(12)]
    assert all(x[2] < 64 for x in boxes(found.result))
    assert boxes(found.result)


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_all_tiles_are_skipped(checkpoint: Path, scene: Path, batch: int, tmp_path: Path) -> None:
    """There are no objects, in batches of any size, with the whole image too; the image is drawn all dark."""
    model = opened(checkpoint, 1.0, batch=batch, whole=True)
    done: list[int] = []
    found = model.predict(tiles.read_image(scene), done.append)
    assert found.skipped == list(range(12))
    assert boxes(found.result) == []
    assert done[-1] == 12
    assert done == sorted(done)
    with Image.open(tiles.draw(found, tmp_path, "dark")) as image:
        drawn = np.asarray(image.convert("RGB"))
    assert np.array_equal(drawn, (found.pixels * 0.45).astype(np.uint8))


def test_command(
    checkpoint: Path, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], choosy: None
) -> None:
    """The command writes a COCO data set and an image for each, names what it cannot read, and goes on."""
    (scene.parent / "broken.png").write_bytes(b"no image")
    small = scene.parent / "small.jpg"
    Image.new("RGB", (50, 30), (255, 255, 255)).save(small)
    yolo: Any = YOLO(checkpoint)
    grid_of(yolo.model).threshold = 0.5
    model = tmp_path / "grid.pt"
    torch.save({"model": yolo.model, "ema": None, "train_args": {}}, model)
    words = [f"model={model}", f"source={scene.parent}", "size=64", "overlap=0.25", f"project={tmp_path}"]
    assert main(["tiles", *words, "device=cpu", "conf=0.2"]) == 1
    text = capsys.readouterr()
    assert "skips tiles in which its grid scores below 0.5000" in text.out
    assert "broken.png: this is not an image" in text.err
    assert "2 images, 13 tiles, 9 skipped (69%)" in text.out
    data = json.loads((tmp_path / "tiles" / "predictions.json").read_text())
    images = {x["id"]: x for x in data["images"]}
    assert [(Path(x["file_name"]).name, x["tiles"], x["skipped"]) for x in images.values()] == [
        ("scene.png", 12, 9),
        ("small.jpg", 1, 0),
    ]
    assert (images[1]["width"], images[1]["height"]) == (WIDTH, HEIGHT)
    assert len({x["id"] for x in data["annotations"]}) == len(data["annotations"]) > 0
    for x in data["annotations"]:
        left, top, width, height = x["bbox"]
        assert 0 <= left <= left + width <= images[x["image_id"]]["width"] + 1e-3
        assert 0 <= top <= top + height <= images[x["image_id"]]["height"] + 1e-3
        assert x["category_id"] in {c["id"] for c in data["categories"]}
        assert 0.2 <= x["score"] <= 1
    assert {x.name for x in (tmp_path / "tiles").glob("*.png")} == {"scene.png", "small.png"}


@pytest.mark.parametrize("kind", ["without", "zero"])
def test_every_tile_runs(kind: str, checkpoint: Path, scene: Path, tmp_path: Path, capsys: Any) -> None:
    """Models without a grid, and grids without a threshold, run every tile and say so."""
    model = checkpoint
    if kind == "without":
        model = tmp_path / "plain.pt"
        torch.save({"model": YOLO("yolo11n.yaml").model, "ema": None, "train_args": {}}, model)
    words = [f"model={model}", f"source={scene}", "size=64", f"project={tmp_path}", "device=cpu", "draw=False"]
    assert main(["tiles", *words]) == 0
    text = capsys.readouterr().out
    assert ("has no grid: every layer runs" if kind == "without" else "threshold 0, which skips nothing") in text
    assert " 0 skipped (0%)" in text
    assert [x.name for x in (tmp_path / "tiles").iterdir()] == ["predictions.json"]


def test_interrupt(checkpoint: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt keeps the images that are done."""
    Image.new("RGB", (70, 70)).save(scene.parent / "z.png")
    original = TileModel.predict

    def predict(self: TileModel, pixels: Any, *args: Any) -> Any:
        if pixels.shape[0] == 70:
            raise KeyboardInterrupt
        return original(self, pixels, *args)

    monkeypatch.setattr(TileModel, "predict", predict)
    words = [f"model={checkpoint}", f"source={scene.parent}", "size=64", f"project={tmp_path}", "device=cpu"]
    assert main(["tiles", *words]) == 130
    data = json.loads((tmp_path / "tiles" / "predictions.json").read_text())
    assert [Path(x["file_name"]).name for x in data["images"]] == ["scene.png"]


def test_images_of_other_channels() -> None:
    """A model for images of four channels is refused before any image is read."""
    yolo: Any = YOLO("yolo11n.yaml")
    yolo.model.yaml["channels"] = 4
    with pytest.raises(InspectError, match="four.pt takes images of 4 channels; tiles are cut from images of 3 or 1"):
        TileModel(yolo, TILING, "four.pt")


def test_too_large(checkpoint: Path, scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image for which the memory does not suffice is refused before it is decoded."""
    free = type("Memory", (), {"available": 5 * 3 * WIDTH * HEIGHT - 1})
    monkeypatch.setattr(tiles.psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(tiles, "read_image_as_pil", None)
    with pytest.raises(InspectError, match=r"208 x 160 pixels need 0\.0 GiB of memory, of which .* cut the image"):
        tiles.read_image(scene)


def test_sixteen_bits(tmp_path: Path) -> None:
    """A grey image of 16 bits is read as `yolo predict` reads it, by its upper 8 bits."""
    deep = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    found = tiles.read_image(tmp_path / "deep.tif")
    assert found.shape == (64, 64, 3)
    assert np.abs(found[..., 0].astype(int) - (deep >> 8)).max() <= 1


def test_outlines_of_masks(tmp_path: Path) -> None:
    """Masks are drawn as outlines, on a copy of the image, and the device is the host's choice if none is given."""
    torch.manual_seed(0)
    yolo: Any = YOLO("yolo11n-seg.yaml")
    for branch in yolo.model.model[-1].cv3:
        torch.nn.init.constant_(branch[-1].bias, 1.0)
    yolo.model.args = {"imgsz": 64, "task": "segment"}
    torch.save({"model": yolo.model, "ema": None, "train_args": {}}, tmp_path / "seg.pt")
    model = TileModel(YOLO(tmp_path / "seg.pt"), Tiling(**{**vars(TILING), "device": None}), "seg.pt")
    pixels = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    found = model.predict(pixels.copy())
    assert any(x.mask is not None and len(x.mask.segmentation) for x in found.result.object_prediction_list)
    with Image.open(tiles.draw(found, tmp_path, "drawn")) as image:
        assert not np.array_equal(np.asarray(image.convert("RGB")), pixels)
    assert np.array_equal(found.pixels, pixels)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["source=x.png"], "model= must be a checkpoint such as best.pt"),
        (["model=x.pt"], "source= an image or a folder"),
        (["model=x.pt", "source=x.png", "overlap=1"], "overlap= must be a number from 0 to below 0.95, got '1'"),
        (["model=x.pt", "source=x.png", "size=8"], "size= must be a whole number of at least 32"),
        (["model=x.pt", "source=x.png", "conf=2"], "conf= must be a number from 0 to below 1, got '2'"),
        (["model=x.pt", "source=x.png", "batch=0"], "batch= must be a whole number of at least 1"),
        (["model=x.pt", "source=x.png", "overlpa=0.1"], "Did you mean overlap?"),
        (["model=x.pt", "source=x.png"], "there is no image or folder x.png"),
        (["model=x.pt", "source=https://a.org/b.png"], "b.png is a URL, which tiles does not read"),
        (["model=x.pt", "source=,"], "source= names no image, got ','"),
    ],
)
def test_wrong_words(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong options are named before a model is opened."""
    assert main(["tiles", *words]) in (1, 2)
    assert message in capsys.readouterr().err


def test_other_tasks(tmp_path: Path, scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A task whose results SAHI does not merge is refused."""
    file = tmp_path / "pose.pt"
    torch.save({"model": YOLO("yolo11n-pose.yaml").model, "ema": None, "train_args": {}}, file)
    assert main(["tiles", f"model={file}", f"source={scene}"]) == 1
    assert "is a model for pose; SAHI merges the results of tiles for detect, segment, obb" in capsys.readouterr().err


def test_without_sahi(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "sahi", None)
    assert main(["tiles", "model=x.pt", "source=x.png"]) == 2
    assert 'tiles needs sahi: pip install "yolo_coordbifpn[tiles]"' in capsys.readouterr().err
