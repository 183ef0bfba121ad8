"""The export formats that scripts/check_exports.py checks, and how close to PyTorch each must be."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tolerance:
    """How far the boxes of a format may be from those of PyTorch if the format is to count as working."""

    missing: float  # largest share of the boxes
    iou: float  # least
    score: float  # largest difference


FLOAT32 = Tolerance(missing=0.0, iou=0.99, score=0.01)
FLOAT16 = Tolerance(missing=0.0, iou=0.85, score=0.03)
EIGHT_BITS = Tolerance(missing=0.25, iou=0.5, score=1.0)  # INT8 weights, or the 8 significant bits of bfloat16


@dataclass(frozen=True)
class Format:
    """An export format with its options, as the host's `export` takes them."""

    options: dict[str, Any]
    packages: tuple[str, ...] = ()
    tolerance: Tolerance = FLOAT32
    runs: bool = True  # on this machine, and not only on the device that the format is for
    precision: str = "f32"  # in which OpenVINO computes

    @property
    def dynamic(self) -> bool:
        """Whether it accepts images of any size."""
        return bool(self.options.get("dynamic"))


def _format(name: str, *packages: str, tolerance: Tolerance = FLOAT32, runs: bool = True, **options: Any) -> Format:
    return Format({"format": name, **options}, packages, tolerance, runs)


ONNX = ("onnx", "onnxruntime", "onnxslim")
LITERT = ("litert-torch", "ai-edge-litert")
FORMATS = {
    "torchscript": _format("torchscript"),
    "torchscript-dynamic": _format("torchscript", dynamic=True),
    "torchscript-nms": _format("torchscript", nms=True),
    "torch.export": _format("torch.export"),
    "torch.export-dynamic": _format("torch.export", dynamic=True),
    "onnx": _format("onnx", *ONNX),
    "onnx-unsimplified": _format("onnx", *ONNX, simplify=False),
    "onnx-dynamic": _format("onnx", *ONNX, dynamic=True),
    "onnx-half": _format("onnx", *ONNX, half=True, tolerance=FLOAT16),
    "onnx-nms": _format("onnx", *ONNX, nms=True),
    "onnx-end2end": _format("onnx", *ONNX, nms=False),
    "openvino": _format("openvino", "openvino"),
    "openvino-bfloat16": Format({"format": "openvino"}, ("openvino",), EIGHT_BITS, precision="bf16"),
    "openvino-dynamic": _format("openvino", "openvino", dynamic=True),
    "openvino-half": _format("openvino", "openvino", half=True, tolerance=FLOAT16),
    "openvino-nms": _format("openvino", "openvino", nms=True),
    "ncnn": _format("ncnn", "ncnn", "pnnx"),
    "ncnn-half": _format("ncnn", "ncnn", "pnnx", half=True, tolerance=FLOAT16),
    "mnn": _format("mnn", "MNN", *ONNX),
    "mnn-half": _format("mnn", "MNN", *ONNX, half=True, tolerance=FLOAT16),
    "mnn-int8": _format("mnn", "MNN", *ONNX, int8=True, tolerance=EIGHT_BITS),
    "litert": _format("litert", *LITERT),
    "litert-w8a32": _format("litert", *LITERT, "ai-edge-quantizer", quantize="w8a32", tolerance=EIGHT_BITS),
    "executorch": _format("executorch", "executorch"),
    "paddle": _format("paddle", "paddlepaddle", "x2paddle"),
    "saved_model": _format("saved_model", "onnx2tf", "tf_keras", *ONNX),
    "pb": _format("pb", "onnx2tf", "tf_keras", *ONNX),
    "coreml": _format("coreml", "coremltools", runs=platform.system() == "Darwin"),
    "coreml-nms": _format("coreml", "coremltools", nms=True, runs=platform.system() == "Darwin"),
}
