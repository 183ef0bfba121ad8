"""What scripts/check_modes.py does with one model in one mode of Ultralytics, in a process of its own.

The docstring of a check is the name of its row in the table. The checks that train are in training_checks.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import training_checks
from side_by_side import MODELS, SIZE, checkpoint, host_log, opened, small, yolo


def track(name: str, data: Path) -> str:
    """`yolo track` (BoT-SORT, ReID by the model's own features): the same tracks in each frame of a still film."""
    import cv2
    import ultralytics
    import yaml

    settings = yaml.safe_load((Path(ultralytics.__file__).parent / "cfg/trackers/botsort.yaml").read_text("utf-8"))
    settings |= {"with_reid": True, "model": "auto", "fuse_score": False}
    settings |= dict.fromkeys(
        ("track_high_thresh", "track_low_thresh", "new_track_thresh"), 1e-9
    )  # an untrained model has low scores
    Path("tracker.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    image: Any = cv2.imread(str(data.parent / "images/val/0000.png"))
    film = cv2.VideoWriter("film.avi", cv2.VideoWriter.fourcc(*"MJPG"), 5, (SIZE, SIZE))
    for _ in range(3):
        film.write(image)
    film.release()
    results = opened(name).track("film.avi", tracker="tracker.yaml", conf=1e-9, max_det=5, imgsz=SIZE, device="cpu")
    seen = [set(r.boxes.id.int().tolist()) if r.boxes.id is not None else set() for r in results]
    assert len(seen) == 3, f"{len(seen)} frames of 3"
    assert seen[0], "no tracks"
    assert seen[0] == seen[1] == seen[2], f"the tracks of the frames are {seen}"
    return f"{len(seen[0])} tracks"


def benchmark(name: str, data: Path) -> None:
    """`yolo benchmark` of the ONNX export."""
    file = checkpoint(name, nc=5)
    yolo("benchmark", model=file, data=data, imgsz=SIZE, device="cpu", format="onnx", verbose=True)
    assert file.with_suffix(".onnx").is_file(), "nothing was exported"


def compile_predict(name: str, data: Path) -> str:
    """`predict compile=True`: the boxes of the model that is not compiled."""
    file, image = checkpoint(name), data.parent / "images/val/0000.png"
    boxes = []
    for compiled in (False, True):
        model = opened(file)
        (result,) = model.predict(image, conf=1e-6, imgsz=SIZE, device="cpu", compile=compiled)
        boxes.append(result.boxes.data)
    assert hasattr(model.predictor.model, "_orig_mod"), "it was not compiled"
    torch.testing.assert_close(boxes[1], boxes[0], rtol=1e-3, atol=1e-3)
    return f"{len(boxes[0])} boxes"


def info(name: str, data: Path) -> str:
    """`model.info(detailed=True)`."""
    with host_log() as lines:
        model = opened(name)
        _, parameters, _, gflops = model.info(detailed=True)
    if name == MODELS["ours"]:
        assert any("BiFPN_Concat" in x for x in lines), "BiFPN_Concat is not listed"
    assert parameters > 1e6, f"{parameters} parameters"
    assert gflops > 1, f"{gflops} GFLOPs"
    return f"{gflops:.1f} GFLOPs"


def profile(name: str, data: Path) -> None:
    """`profile=True` of a forward pass: each layer is timed."""
    model = opened(name).model.eval()
    with host_log() as lines, torch.no_grad():
        model.predict(torch.rand(1, 3, SIZE, SIZE), profile=True)
    missing = {m.type for m in model.model if not any(m.type in x for x in lines)}
    assert not missing, f"not timed: {missing}"


def look(name: str, data: Path) -> str:
    """`predict augment=True`, `visualize=True`, `model.embed()`."""
    image = data.parent / "images/val/0000.png"
    file = checkpoint(name)
    opened(file).predict(image, augment=True, **small("augmented"))
    opened(file).predict(image, visualize=True, **small("seen"))
    assert list(Path("seen").glob("*_cam.jpg")), "no heat map"
    (vector,) = opened(file).embed(image, imgsz=SIZE, device="cpu")
    return f"embedding of {len(vector)}"


def supervision(name: str, data: Path) -> str:
    """Results read by supervision: `Detections.from_ultralytics`."""
    import supervision as sv

    image = data.parent / "images/val/0000.png"
    (result,) = opened(checkpoint(name)).predict(image, conf=1e-6, imgsz=SIZE, device="cpu")
    detections = sv.Detections.from_ultralytics(result)
    assert len(detections) == len(result.boxes) > 0, f"{len(detections)} detections of {len(result.boxes)}"
    return f"{len(detections)} detections"


CHECKS: dict[str, Callable[[str, Path], str | None]] = {
    x.__name__: x
    for x in (
        track,
        benchmark,
        training_checks.tune,
        training_checks.compile_train,
        compile_predict,
        training_checks.distill,
        training_checks.distill_ours,
        training_checks.distill_levels,
        training_checks.freeze,
        training_checks.ema,
        training_checks.multi_scale,
        training_checks.rect,
        training_checks.bf16,
        training_checks.quantize,
        info,
        profile,
        training_checks.profile_train,
        training_checks.classes,
        training_checks.end2end,
        look,
        supervision,
        training_checks.tensorboard,
    )
}
