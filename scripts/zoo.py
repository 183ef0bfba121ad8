"""Measure every attention block: its start beside pretrained weights, its ONNX export, its size and its latency.

    python scripts/zoo.py weights=yolo11n.pt,yolov8n.pt,yolo26n.pt

weights=  pretrained weights of stock models; the first is the model for everything but the start
imgsz=    image size in pixels for the latency; default 640
rounds=   how often each fused model is timed, all of them in turn; default 40
out=      the CSV; default scripts/results/zoo.csv

The blocks are the attention blocks of this package and all modules of timm that can be one, each at the end of the
backbone. The start is the largest difference of the output from the stock model's, relative to its norm. For the export
each block is first moved away from the identity, and ONNX Runtime is compared with PyTorch in the same way.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import ultralytics
from check_exports import unsettle
from csv_rows import read, write
from markdown_table import change, markdown
from run_script import run_script
from torch import Tensor, nn
from ultralytics.models import YOLO

import yolo_coordbifpn
from yolo_coordbifpn.blocks.rezero import ReZero
from yolo_coordbifpn.blocks.timm_attention import PREFIX, kinds
from yolo_coordbifpn.commands import UsageError, parse, whole_number
from yolo_coordbifpn.compare.latency import in_turn
from yolo_coordbifpn.registry import TABLE

OPTIONS = {"weights": "", "imgsz": "640", "rounds": "40", "out": "scripts/results/zoo.csv"}
FIELDS = (
    "block", "start", "difference", "onnx", "parameters", "stock parameters", "latency", "low", "high", "versions",
)  # fmt: skip


def main(words: list[str]) -> None:
    """Measure all blocks and print the table."""
    options = parse(words, OPTIONS)
    if not options["weights"]:
        raise UsageError("weights= must name pretrained weights of stock models, such as yolo11n.pt.")
    yolo_coordbifpn.install()
    stocks = [YOLO(x) for x in options["weights"].split(",")]
    variants = [*TABLE.variants, *(PREFIX + x for x in kinds())]
    models = {x: started(stocks[0], x) for x in variants}
    versions = f"ultralytics {ultralytics.__version__}, torch {torch.__version__.partition('+')[0]}"
    versions += f", timm {__import__('timm').__version__}"
    rows = {
        x: {
            "block": x,
            "start": start_of(model),
            "difference": f"{max(difference(stock, started(stock, x)) for stock in stocks):.1e}",
            "onnx": f"{onnx_difference(model):.1e}",
            "parameters": size(model),
            "stock parameters": size(stocks[0].model),
            "versions": versions,
        }
        for x, model in models.items()
    }
    imgsz, rounds = whole_number(options, "imgsz", 32), whole_number(options, "rounds", 2)
    stock = started(stocks[0])  # built as the others are: weights of a checkpoint lie elsewhere in memory
    for x, (median, low, high) in latencies(stock, models, imgsz, rounds).items():
        rows[x] |= {"latency": f"{median:.3f}", "low": f"{low:.3f}", "high": f"{high:.3f}"}
    write(Path(options["out"]), FIELDS, rows.values())
    print(table(read(Path(options["out"]))))


def started(stock: Any, *variant: str) -> nn.Module:
    """Build a variant of a stock model, or the stock model again, with its weights."""
    yolo: Any = YOLO(f"{'-'.join((Path(stock.model.yaml['yaml_file']).stem, *variant))}.yaml")
    yolo.model.load(stock.model, verbose=False)
    return yolo.model.float().eval()


def start_of(model: Any) -> str:
    """Return how the block of a variant starts."""
    if any(isinstance(m, ReZero) for m in model.modules()):
        return "ReZero"
    gains = [m.gain for m in model.modules() if hasattr(m, "gain")]
    return f"gain {gains[0]:g}" if gains else "itself"


def difference(stock: Any, model: nn.Module) -> float:
    """Return the largest relative difference between the output tensors of a stock model and a variant of it."""
    image = torch.rand(2, 3, 192, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pairs = list(zip(tensors(stock.model.float().eval()(image)), tensors(model(image))))
    if getattr(stock.model, "end2end", False):
        pairs = pairs[1:]  # the first is sorted by score, so that its values cannot be compared
    return max(float((b - a).norm() / a.norm().clamp_min(1e-9)) for a, b in pairs)


def tensors(out: Any) -> list[Tensor]:
    """List the tensors in a nested output."""
    if isinstance(out, Tensor):
        return [out]
    inner = out.values() if isinstance(out, dict) else out if isinstance(out, (list, tuple)) else ()
    return [x for value in inner for x in tensors(value)]


def onnx_difference(model: Any) -> float:
    """Move the block of a variant away from the identity, export the fused model, and compare ONNX Runtime with it."""
    import onnxruntime

    unsettle(model)
    image = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        yolo: Any = YOLO(f"{Path(model.yaml['yaml_file']).stem}.yaml")
        yolo.model = model
        file = Path(folder) / "model.pt"
        yolo.save(file)
        exported = YOLO(file).export(format="onnx", imgsz=160, verbose=False)
        got = onnxruntime.InferenceSession(exported).run(None, {"images": image.numpy()})[0]
    with torch.no_grad():
        expected = tensors(model(image))[0].numpy()
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def size(model: Any) -> int:
    """Count the parameters of a model."""
    return sum(p.numel() for p in model.parameters())


def latencies(stock: Any, models: dict[str, Any], imgsz: int, rounds: int) -> dict[str, tuple[float, float, float]]:
    """Time the fused models in turn; return for each variant the median and the quartiles of its ratio to the stock."""
    image = torch.rand(1, 3, imgsz, imgsz)
    calls = {name: partial(m.fuse(verbose=False), image) for name, m in {"": stock, **models}.items()}
    with torch.inference_mode():
        times = in_turn(calls, torch.device("cpu"), rounds)
    ratios = {name: [a / b for a, b in zip(times[name], times[""])] for name in models}
    quartiles = {name: statistics.quantiles(x, n=4) for name, x in ratios.items()}
    return {name: (q[1], q[0], q[2]) for name, q in quartiles.items()}


def table(rows: Sequence[dict[str, str]]) -> str:
    """Write the measurements, the smallest latency first."""
    lines = [
        (
            f"`-{x['block']}`",
            x["start"],
            x["difference"],
            x["onnx"],
            change(int(x["parameters"]), int(x["stock parameters"])),
            f"{float(x['latency']):.2f} ({float(x['low']):.2f} ... {float(x['high']):.2f})",
        )
        for x in sorted(rows, key=lambda x: float(x["latency"]))
    ]
    return markdown(["variant", "start", "differs by", "ONNX differs by", "parameters", "latency / stock"], lines, 4)


if __name__ == "__main__":
    run_script(main)
