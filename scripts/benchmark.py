"""Time the blocks and the models beside their alternatives: all contenders of a case take turns.

    python scripts/benchmark.py parts=coordatt,fusion device=cpu

parts= takes, separated by commas (default: all):
    coordatt   CoordAtt, the paper's formula, timm's CoordAttn, the floor (read the input twice, write a tensor of its
               size) and CoordAtt on one pixel (the overhead of its calls), at the shapes of P3, P4 and P5 in yolo11n
               and yolo11s at 640 px, batch 1 and 8; and what autograd keeps for the backward pass
    fusion     BiFPN_Concat, not fused, torch.cat, and the multiplications alone, at the four places of the neck
    models     the fused model with both blocks and the stock model: eager, compiled, in ONNX Runtime and in OpenVINO
    training   steps of SGD of both models, and the model not fused, as a training validates it
    startup    what the start-up hook adds to each start of Python, and registering to the import of Ultralytics
    growth     CoordAtt against H x W and against C

A ratio is the median over rounds of the ratio of two times in one round. Rows, with quartiles, are written to OUT.csv
and the plot to OUT.png; the summary with the targets is printed. Contenders that are not installed (timm,
onnxruntime, openvino) are skipped, and the log says so. dtype=bfloat16 or float16 runs under autocast. seconds= is the
time for one case of a block; models take 20 times as long, and training steps 60 times.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import ultralytics
from benchmark_blocks import Official, block_step, floor, kept, scaled, timm_block
from benchmark_models import RUNNERS, built, training_step
from benchmark_report import FORMS, MODEL, STOCK, Row, draw, table, write
from run_script import run_script
from torch import Tensor

from yolo_coordbifpn import BiFPN_Concat, CoordAtt
from yolo_coordbifpn.commands import UsageError, parse
from yolo_coordbifpn.compare.devices import torch_device
from yolo_coordbifpn.compare.latency import in_turn
from yolo_coordbifpn.host.machine import machine

PARTS = ("coordatt", "fusion", "models", "training", "startup", "growth")
OPTIONS = {
    "out": "scripts/results/benchmark",
    "parts": ",".join(PARTS),
    "device": "cpu",
    "dtype": "float32",
    "seconds": "1",
}
SHAPES = [  # name, channels, side
    *[(f"{x} yolo11n", c, side) for x, c, side in (("P3", 128, 80), ("P4", 128, 40), ("P5", 256, 20))],
    *[(f"{x} yolo11s", c, side) for x, c, side in (("P3", 256, 80), ("P4", 256, 40), ("P5", 512, 20))],
]
FUSIONS = {  # channels of the inputs and side, in yolo11n at 640 px
    "P4 top-down": ((256, 128), 40),
    "P3 top-down": ((128, 128), 80),
    "P4 bottom-up": ((64, 128, 128), 40),
    "P5 bottom-up": ((128, 256), 20),
}
FORMATS = dict(zip(FORMS, (torch.contiguous_format, torch.channels_last)))


class Bench:
    """Times calls, and collects and prints the rows."""

    def __init__(self, device: str, dtype: str, seconds: str) -> None:
        """Set the device, the dtype of torch, and the seconds for one case of a block."""
        self.seconds = float(seconds)
        self.device = torch_device(device)
        self.dtype = getattr(torch, dtype)
        self.threads = torch.get_num_threads()  # kept because the host changes it in an export
        self.where = machine(self.device) if self.device.type == "cuda" else f"CPU, {machine(self.device)}"
        self.rows: list[Row] = []

    def compare(self, part: str, case: str, calls: Mapping[str, Callable[[], Any]], weight: float = 1.0) -> None:
        """Time calls in turn for about `weight` times `seconds=`; ratios are to the first."""
        first = in_turn(calls, self.device, 3)
        once = sum(map(min, first.values()))
        repeats = max(1, round(0.004 * len(calls) / once))
        rounds = min(60, max(9, round(weight * self.seconds / once / repeats)))
        times = in_turn(calls, self.device, rounds, repeats)
        base = next(iter(times.values()))
        for what, taken in times.items():
            ratios = [a / b for a, b in zip(taken, base)]
            low, ratio, high = statistics.quantiles(ratios, n=4)
            self.add(Row(part, case, what, 1e6 * statistics.median(taken), ratio, low, high, rounds))

    def add(self, row: Row) -> None:
        """Add a row and print it."""
        self.rows.append(row)
        print(f"{row.part:32} {row.case:22} {row.what:16} {row.value:12.1f} {row.ratio:6.3f}", flush=True)

    def features(self, *shape: int, form: Any = torch.contiguous_format) -> Tensor:
        """Draw features."""
        return torch.randn(*shape, device=self.device).to(self.dtype).contiguous(memory_format=form)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute in the dtype of `dtype=`."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            yield


def coordatt(bench: Bench) -> None:
    """CoordAtt against the paper's formula, timm and the floor."""
    for name, channels, side in SHAPES:
        for batch in (1, 8):
            case = f"{name} batch {batch}"
            modules: dict[str, Any] = {
                "official": Official(channels),
                "ours": CoordAtt(channels),
                **timm_block(channels),
            }
            modules["ours"].load_state_dict(modules["official"].state_dict())
            for m in modules.values():
                m.to(bench.device)
            fused = copy.deepcopy(modules["ours"])
            fused.fuse()
            for form, memory_format in FORMATS.items():
                x = bench.features(batch, channels, side, side, form=memory_format)
                with torch.no_grad(), bench.autocast():
                    calls = {k: partial(m.eval(), x) for k, m in modules.items()}
                    calls |= {"ours, fused": partial(fused, x), "floor": partial(floor, x)}
                    calls["one pixel"] = partial(modules["ours"], x[:, :, :1, :1].clone())
                    bench.compare(f"coordatt eval {form}", case, calls)
            for form, memory_format in FORMATS.items():
                x = bench.features(batch, channels, side, side, form=memory_format)
                steps = {k: block_step(m.train(), x, bench.autocast) for k, m in modules.items()}
                bench.compare(f"coordatt training {form}", case, steps)
            for k, m in modules.items():
                value = kept(m, x, bench.autocast)
                bench.add(Row("coordatt kept for backward", case, k, value, value, value, value, 1))


def fusion(bench: Bench) -> None:
    """BiFPN_Concat against the plain concatenation."""
    for name, (channels, side) in FUSIONS.items():
        for batch in (1, 8):
            block = BiFPN_Concat(channels).to(bench.device)
            xs = [bench.features(batch, c, side, side) for c in channels]
            calls = {"torch.cat": partial(torch.cat, xs, 1), "ours": partial(block, xs), "floor": partial(scaled, xs)}
            with torch.no_grad():
                bench.compare("fusion eval", f"{name} batch {batch}", calls)


def models(bench: Bench) -> None:
    """The fused models: eager, compiled, exported."""
    image = torch.rand(1, 3, 640, 640, device=bench.device)
    for how, runner in RUNNERS.items():
        if how in {"onnxruntime", "openvino"} and (bench.device.type != "cpu" or not importlib.util.find_spec(how)):
            print(f"{how}: skipped, not installed or not for this device")
            continue
        with tempfile.TemporaryDirectory() as folder, torch.no_grad(), bench.autocast():
            calls = {name: runner(name, image, bench.threads, Path(folder)) for name in (STOCK, MODEL)}
            torch.set_num_threads(bench.threads)
            bench.compare(f"models {how}", "640 px batch 1", calls, weight=20)


def training(bench: Bench) -> None:
    """Steps of SGD at batch 8 and 320 px, and the model not fused, as a training validates it."""
    steps, unfused = {}, {}
    image = torch.rand(1, 3, 640, 640, device=bench.device)
    for name in (STOCK, MODEL):
        steps[name] = training_step(built(name, bench.device).train(), bench.device, bench.autocast)
        unfused[name] = partial(built(name, bench.device), image)
    bench.compare("training", "320 px batch 8", steps, weight=60)
    with torch.no_grad(), bench.autocast():
        bench.compare("models not fused", "640 px batch 1", unfused, weight=20)


def startup(bench: Bench) -> None:
    """New interpreters: the imports of the `.pth` file by Python's own clock, and the patches of a loaded host."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    hook = [sys.executable, "-X", "importtime", "-c", "pass"]
    code = "import time, ultralytics.nn.tasks; start = time.perf_counter(); import yolo_coordbifpn; "
    patches = [
        sys.executable,
        "-c",
        f"{code}print(f'time | {{1e6 * (time.perf_counter() - start)}} | yolo_coordbifpn')",
    ]
    for case, words, extra, rounds in (
        ("hook", hook, {}, 41),
        ("registering", patches, {"YOLO_COORDBIFPN_AUTOLOAD": "0"}, 9),
    ):
        taken = []
        for _ in range(rounds + 1):
            done = subprocess.run(words, env=environment | extra, capture_output=True, text=True, check=True)
            lines = [x.split("|") for x in (done.stdout + done.stderr).splitlines() if "yolo_coordbifpn" in x]
            taken.append(sum(float(x[1]) for x in lines))
        if not any(taken):
            print("hook: skipped, not installed where this Python looks for .pth files")
            continue
        low, middle, high = statistics.quantiles(taken[1:], n=4)  # the first start may have written bytecode
        bench.add(Row("startup", case, "ours", middle, 1.0, low / middle, high / middle, rounds))


def growth(bench: Bench) -> None:
    """CoordAtt against H x W at 64 channels, and against C at 40 x 40."""
    for case, channels, side in [(f"H x W {side}^2", 64, side) for side in (40, 56, 80, 112, 160, 224, 320)] + [
        (f"C {c}", c, 40) for c in (32, 64, 128, 256, 512, 1024)
    ]:
        m = CoordAtt(channels).to(bench.device).eval()
        x = bench.features(1, channels, side, side)
        with torch.no_grad(), bench.autocast():
            bench.compare("growth", case, {"floor": partial(floor, x), "ours": partial(m, x)})


def main(words: list[str]) -> None:
    """Run the parts, write rows and plot, and print the summary."""
    options = parse(words, OPTIONS)
    parts = options["parts"].split(",")
    if unknown := set(parts) - set(PARTS):
        raise UsageError(f"there are no parts {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
    torch.manual_seed(0)
    bench = Bench(options["device"], options["dtype"], options["seconds"])
    for part in parts:
        globals()[part](bench)
    out = Path(options["out"])
    write(out.with_suffix(".csv"), bench.rows)
    if {"coordatt", "growth"} <= set(parts):
        draw(bench.rows, out.with_suffix(".png"))
    print(f"\n{bench.where}, {options['dtype']}, torch {torch.__version__}, Ultralytics {ultralytics.__version__}\n")
    print(table(bench.rows))


if __name__ == "__main__":
    run_script(main)
