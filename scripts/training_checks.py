"""What scripts/check_modes.py does with one model in one mode of training, in a process of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side_by_side import MODELS, SIZE, checkpoint, cut_off_and_resume, host_log, opened, small


def tune(name: str, data: Path) -> None:
    """`model.tune()`, one iteration."""
    opened(name).tune(data=str(data), epochs=1, iterations=1, plots=False, **small("tuned"))
    assert list(Path().rglob("best_hyperparameters.yaml")), "no best_hyperparameters.yaml"


def compile_train(name: str, data: Path) -> None:
    """`train compile=True`."""
    model = _train(name, data, compile=True)
    assert hasattr(model.trainer.model, "_orig_mod"), "it was not compiled"


def distill(name: str, data: Path) -> None:
    """`distill_model=`, teacher yolo11s; interrupted and resumed."""
    _distill(name, data, "yolo11s.yaml")


def distill_ours(name: str, data: Path) -> None:
    """`distill_model=`, teacher yolo11s-coordatt-bifpn; interrupted and resumed."""
    _distill(name, data, "yolo11s-coordatt-bifpn.yaml")


def distill_levels(name: str, data: Path) -> None:
    """`distill_model=`, teacher yolo11s-coordatt-bifpn-p2, which has a level more; interrupted and resumed."""
    _distill(name, data, "yolo11s-coordatt-bifpn-p2.yaml")


def freeze(name: str, data: Path) -> str:
    """`freeze=10`: the first 10 layers are unchanged, others move."""
    moved = [k for k, v in _moved(name, data, lambda trainer: trainer.model, freeze=10).items() if v]
    frozen = [x for x in moved if int(x.split(".")[1]) < 10]
    assert not frozen, f"frozen layers changed: {frozen[:3]}"
    assert moved, "no other layer changed"
    return f"{len(moved)} others moved"


def ema(name: str, data: Path) -> str:
    """EMA: the average of every parameter follows."""
    moved = _moved(name, data, lambda trainer: trainer.ema.ema)
    # a bias before a batch norm gets no gradient, and dfl is a constant
    still = [k for k, v in moved.items() if not v and not k.endswith(("conv1.bias", "dfl.conv.weight"))]
    assert not still, f"the average does not follow: {still[:3]}"
    return f"{sum(moved.values())} parameters follow"


def multi_scale(name: str, data: Path) -> None:
    """`multi_scale=0.5`."""
    _train(name, data, multi_scale=0.5, imgsz=96)


def rect(name: str, data: Path) -> None:
    """`rect=True`, train and val, on wide images."""
    from PIL import Image

    for file in (data.parent / "images").rglob("*.png"):
        with Image.open(file) as image:
            wide = image.resize((2 * SIZE, SIZE))
        wide.save(file)
    shapes: set[tuple[int, ...]] = set()

    def watch(trainer: Any) -> None:
        trainer.model.model[0].register_forward_pre_hook(lambda m, args: shapes.add(tuple(args[0].shape[2:])))

    model = _train(name, data, {"on_train_start": watch}, rect=True, imgsz=128)
    assert shapes == {(64, 128)}, f"the shapes in training are {shapes}"
    model.val(data=str(data), rect=True, **small("val") | {"imgsz": 128})


def bf16(name: str, data: Path) -> str:
    """Autocast to bfloat16 (AMP on the CPU): loss, and a gradient for each trained parameter."""
    from ultralytics.cfg import get_cfg

    model = opened(name).model.train()
    model.args = get_cfg()
    seen: set[Any] = set()
    for m in model.model:
        m.register_forward_hook(lambda m, args, out: seen.add(getattr(out, "dtype", None)))
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.6, 0.2, 0.5]])
    batch = {"img": torch.rand(2, 3, SIZE, SIZE), "cls": torch.zeros(2, 1), "bboxes": boxes}
    with torch.autocast("cpu", torch.bfloat16):
        loss = model({**batch, "batch_idx": torch.arange(2.0)})[0].sum()
    loss.backward()
    assert torch.bfloat16 in seen, f"layers output {seen}"
    gradients = {k: p.grad for k, p in model.named_parameters() if p.requires_grad}
    wrong = [k for k, v in gradients.items() if v is None or not v.isfinite().all()]
    assert not wrong, f"no gradient, or not a number: {wrong[:3]}"
    return f"{len(gradients)} gradients"


def quantize(name: str, data: Path) -> str:
    """`train quantize=8` (quantisation-aware): interrupted, resumed, and exported to ONNX with the same boxes."""
    import onnx

    cut_off_and_resume(name, data, plots=False, quantize=8)
    model, image = opened("cut/weights/best.pt"), data.parent / "images/val/0000.png"
    options: Any = {"conf": 1e-6, "imgsz": SIZE, "device": "cpu"}
    (expected,) = model.predict(image, **options)
    file = str(opened("cut/weights/best.pt").export(format="onnx", imgsz=SIZE, verbose=False))
    (result,) = opened(file).predict(image, **options)
    torch.testing.assert_close(result.boxes.data, expected.boxes.data, rtol=1e-2, atol=1e-2)
    nodes = [x.op_type for x in onnx.load(file).graph.node]
    assert nodes.count("QuantizeLinear") > nodes.count("Conv") / 2, "little of it is quantised"
    return f"{len(expected.boxes)} boxes, {nodes.count('QuantizeLinear')} quantisers"


def profile_train(name: str, data: Path) -> str:
    """`train profile=True`: figures for the loggers, from an ONNX export."""
    from ultralytics.utils.torch_utils import model_info_for_loggers

    found: dict[str, float] = {}
    _train(name, data, {"on_fit_epoch_end": lambda x: found or found.update(model_info_for_loggers(x))}, profile=True)
    assert found["model/speed_ONNX(ms)"] > 0, f"{found}"
    return f"{len(found)} figures"


def classes(name: str, data: Path) -> str:
    """A checkpoint of 80 classes, trained on data of 5."""
    file, found = checkpoint(name), []

    def compare(trainer: Any) -> None:
        old = torch.load(file, weights_only=False)["model"].state_dict()
        new = trainer.model.state_dict()
        found.append(sum(k in old and torch.equal(v.float(), old[k].float()) for k, v in new.items()) / len(new))

    model = _train(str(file), data, {"on_pretrain_routine_end": compare})
    assert opened(model.trainer.best).model.nc == 5, "the checkpoint does not have five classes"
    return f"{found[0]:.0%} of the weights kept"


def end2end(name: str, data: Path) -> str:
    """`end2end` (yolo26n): trained, validated and run by the NMS-free head and with NMS."""
    name = name.replace("yolo11n", "yolo26n")
    model = _train(name, data)
    boxes = []
    for nms in (False, None):
        metrics = model.val(data=str(data), nms=nms, **small("val"))
        assert math.isfinite(metrics.box.map), "mAP is not a number"
        image = data.parent / "images/val/0000.png"
        (result,) = opened(model.trainer.best).predict(image, nms=nms, conf=1e-9, imgsz=SIZE, device="cpu")
        boxes.append(result.boxes.data)
    assert not torch.equal(*boxes), "the boxes are the same"
    return f"{len(boxes[0])} and {len(boxes[1])} boxes"


def tensorboard(name: str, data: Path) -> str:
    """TensorBoard: curves, fusion weights and the graph."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from ultralytics import settings

    settings.update({"tensorboard": True})
    with host_log() as lines:
        _train(name, data)
    assert not [x for x in lines if "failure" in x], next(x for x in lines if "failure" in x)
    events = EventAccumulator("run")
    events.Reload()
    tags = events.Tags()
    assert tags["graph"], "no graph"
    fusion = [x for x in tags["scalars"] if x.startswith("fusion/")]
    assert len(fusion) == (9 if name == MODELS["ours"] else 0), f"{len(fusion)} weights of fusions"
    return f"{len(tags['scalars'])} curves"


def _train(name: str, data: Path, callbacks: dict[str, Callable[[Any], Any]] | None = None, **options: Any) -> Any:
    """Train one epoch; check that there is a checkpoint and that every loss is a number."""
    model = opened(name)
    for event, function in (callbacks or {}).items():
        model.add_callback(event, function)
    model.train(**{"data": str(data), "epochs": 1, "plots": False, **small("run"), **options})
    assert opened(model.trainer.best).model is not None
    rows = Path("run/results.csv").read_text(encoding="utf-8").splitlines()
    losses = [float(v) for k, v in zip(rows[0].split(","), rows[-1].split(",")) if "loss" in k]
    assert losses, "no losses"
    assert all(map(math.isfinite, losses)), f"the losses are {losses}"
    return model


def _moved(name: str, data: Path, part: Callable[[Any], Any], **options: Any) -> dict[str, bool]:
    """Train, and return for each parameter of a part of the trainer whether it changed."""
    before: dict[str, Any] = {}
    moved: dict[str, bool] = {}

    def keep(trainer: Any) -> None:
        before.update({k: v.detach().clone() for k, v in part(trainer).named_parameters()})

    def look(trainer: Any) -> None:
        moved.update({k: not v.equal(before[k]) for k, v in part(trainer).named_parameters()})

    _train(name, data, {"on_train_start": keep, "on_train_end": look}, nbs=4, warmup_epochs=0, **options)
    return moved


def _distill(name: str, data: Path, teacher: str) -> None:
    """Train with a teacher; the checkpoint is the student alone."""
    options = {"plots": False, "distill_model": str(checkpoint(teacher, nc=5))}
    cut_off_and_resume(name, data, **options)
    head = Path("cut/results.csv").read_text(encoding="utf-8").splitlines()[0]
    assert "dis_loss" in head, f"results.csv has no dis_loss: {head}"
    layers = [type(m).__name__ for m in opened("cut/weights/best.pt").model.model]
    assert layers == [type(m).__name__ for m in opened(name).model.model], f"the checkpoint's layers are {layers}"
    if name == MODELS["ours"]:
        assert Path("cut/fusion_weights.csv").is_file(), "no fusion_weights.csv"
