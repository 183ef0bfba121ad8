"""The whole models that scripts/benchmark.py times: eager, compiled, exported, and in training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from ultralytics.models import YOLO


def built(name: str, device: torch.device) -> Any:
    """Build a model from scratch, with the same weights each time."""
    torch.manual_seed(0)
    model: Any = YOLO(f"{name}.yaml").model
    return model.to(device).eval()


def eager(name: str, image: Tensor, threads: int, folder: Path) -> Callable[[], Any]:
    """Return a call of the fused model."""
    return partial(built(name, image.device).fuse(verbose=False), image)


def compiled(name: str, image: Tensor, threads: int, folder: Path) -> Callable[[], Any]:
    """Return a call of the fused model, compiled."""
    model = built(name, image.device).fuse(verbose=False)
    model(image)  # the host's head makes its anchors at the first call, which cannot be compiled
    return partial(torch.compile(model, fullgraph=True), image)


def _exported(name: str, folder: Path, form: str) -> str:
    yolo: Any = YOLO(f"{name}.yaml")
    yolo.model.pt_path = str(folder / f"{name}.pt")
    return str(yolo.export(format=form, imgsz=640, verbose=False))


def onnx(name: str, image: Tensor, threads: int, folder: Path) -> Callable[[], Any]:
    """Return a call of the ONNX export in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would slow down the other session
    session = onnxruntime.InferenceSession(_exported(name, folder, "onnx"), options, ["CPUExecutionProvider"])
    return partial(session.run, None, {session.get_inputs()[0].name: image.numpy()})


def openvino(name: str, image: Tensor, threads: int, folder: Path) -> Callable[[], Any]:
    """Return a call of the OpenVINO export."""
    from openvino import Core

    file = next(Path(_exported(name, folder, "openvino")).glob("*.xml"))
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    model = Core().compile_model(str(file), "CPU", hints)
    return partial(model, [image.numpy()])


def training_step(
    model: Any, device: torch.device, autocast: Callable[[], AbstractContextManager[None]]
) -> Callable[[], None]:
    """Return a step of SGD on 8 random images of 320 px with 6 boxes each."""
    from ultralytics.cfg import get_cfg

    model.args = get_cfg()
    generator = torch.Generator().manual_seed(0)
    boxes = 6 * 8
    batch = {
        "img": torch.rand(8, 3, 320, 320, generator=generator),
        "cls": torch.randint(0, 80, (boxes, 1), generator=generator).float(),
        "bboxes": torch.rand(boxes, 4, generator=generator) * 0.4 + 0.2,
        "batch_idx": torch.arange(8).repeat_interleave(6).float(),
    }
    batch = {k: v.to(device) for k, v in batch.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        with autocast():
            loss, _ = model(batch)
        loss.sum().backward()
        optimizer.step()

    return step


RUNNERS = {"eager": eager, "compiled": compiled, "onnxruntime": onnx, "openvino": openvino}
