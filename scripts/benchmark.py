"""Time the blocks and the models beside what they are compared with, all in one run, in turn.

    python scripts/benchmark.py out=benchmark parts=coordatt,fusion,models,training,startup,growth device=cpu

Parts:
    coordatt   CoordAtt, the paper's formula, timm's CoordAttn, the floor (read the input twice, write a new tensor of
               its size) and CoordAtt on one pixel (the calls alone), at the shapes of P3, P4 and P5 in yolo11n and s
               at 640 px, batch 1 and 8; what is kept for backward
    fusion     BiFPN_Concat, not fused, against torch.cat at the four places of the neck, and the multiplications alone
    models     the fused model with both blocks against the stock one: eager, compiled, in ONNX Runtime and OpenVINO
    training   steps of SGD of both models, and what validates in a training: the model not fused
    startup    what the start-up hook adds to every Python, and registering to the import of Ultralytics
    growth     CoordAtt against H x W and against C

Each ratio is the median over rounds of the two times in one round; in brackets are the quartiles. All rows go to
OUT.csv, the picture to OUT.png; the summary with the targets is printed in Markdown. What is not installed (timm,
onnxruntime, openvino) is left out, and said so. `dtype=bfloat16` (or float16) runs under autocast; `seconds=` is how
long a case of a block is timed, models and training 20 and 60 times as long.
"""

from __future__ import annotations

import copy
import csv
import importlib.util
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
import ultralytics
from torch import Tensor, nn
from ultralytics.models import YOLO

from yolo_coordbifpn import BiFPN_Concat, CoordAtt
from yolo_coordbifpn.commands import UsageError, parse
from yolo_coordbifpn.compare.latency import in_turn
from yolo_coordbifpn.host.machine import machine
from yolo_coordbifpn.inspection.palette import BLACK, BLUE, GREEN, GREY, ORANGE, SKY

PARTS = ("coordatt", "fusion", "models", "training", "startup", "growth")
OPTIONS = {"out": "benchmark", "parts": ",".join(PARTS), "device": "cpu", "dtype": "float32", "seconds": "1"}
MODEL, STOCK = "yolo11n-coordatt-bifpn", "yolo11n"
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
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass
class Row:
    """One contender in one case; ratios are those to the case's first."""

    part: str
    case: str
    what: str
    value: float  # median; microseconds, for memory times the input
    ratio: float  # median of the rounds
    low: float
    high: float
    rounds: int


class Official(nn.Module):
    """Coordinate Attention by the paper's equations 4 to 9, one torch operation for each; parameters as CoordAtt's."""

    def __init__(self, channels: int) -> None:
        """Build the block as the paper has it."""
        super().__init__()
        mip = max(8, channels // 32)
        self.rows, self.columns = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.conv1, self.bn1, self.act = nn.Conv2d(channels, mip, 1), nn.BatchNorm2d(mip), nn.Hardswish()
        self.conv_h, self.conv_w = nn.Conv2d(mip, channels, 1), nn.Conv2d(mip, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gate the features, shape (N, C, H, W)."""
        both = torch.cat((self.rows(x), self.columns(x).transpose(2, 3)), 2)
        h, w = self.act(self.bn1(self.conv1(both))).split(x.shape[2:], 2)
        return x * self.conv_w(w.transpose(2, 3)).sigmoid() * self.conv_h(h).sigmoid()


class Bench:
    """Collects rows, and prints each case when it is there."""

    def __init__(self, device: str, dtype: str, seconds: str) -> None:
        """Measure on a device, in a dtype of torch, each case of a block for so many seconds."""
        self.seconds = float(seconds)
        self.device = torch.device(f"cuda:{device}" if device.isdecimal() else device)
        self.dtype = getattr(torch, dtype)
        self.threads = torch.get_num_threads()  # kept here, because an export by the host changes it
        self.where = machine() if self.device.type == "cuda" else f"CPU, {machine()}"
        self.rows: list[Row] = []

    def compare(self, part: str, case: str, calls: Mapping[str, Callable[[], Any]], weight: float = 1.0) -> None:
        """Time calls in turn for about `weight` times `seconds=`; the first is what the others are compared with."""
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
        """Take a row and print it."""
        self.rows.append(row)
        print(f"{row.part:32} {row.case:22} {row.what:16} {row.value:12.1f} {row.ratio:6.3f}", flush=True)

    def features(self, *shape: int, form: Any = torch.contiguous_format) -> Tensor:
        """Draw features."""
        return torch.randn(*shape, device=self.device).to(self.dtype).contiguous(memory_format=form)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute as `dtype=` says."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            yield

    def ratios(self, part: str, what: str) -> list[float]:
        """Return a contender's ratios in all cases of a part."""
        return [row.ratio for row in self.rows if (row.part, row.what) == (part, what)]

    def against(self, part: str, what: str, other: str) -> list[float]:
        """Return a contender's median time over another's in all cases of a part, none if it was left out."""
        a, b = ([row.value for row in self.rows if (row.part, row.what) == (part, x)] for x in (what, other))
        return [x / y for x, y in zip(a, b)]


def coordatt(bench: Bench) -> None:
    """CoordAtt against the paper's formula, timm and the floor."""
    for name, channels, side in SHAPES:
        for batch in (1, 8):
            case = f"{name} batch {batch}"
            modules: dict[str, Any] = {"official": Official(channels), "ours": CoordAtt(channels), **_timm(channels)}
            modules["ours"].load_state_dict(modules["official"].state_dict())
            for m in modules.values():
                m.to(bench.device)
            fused = copy.deepcopy(modules["ours"])
            fused.fuse()
            for form, memory_format in FORMATS.items():
                x = bench.features(batch, channels, side, side, form=memory_format)
                with torch.no_grad(), bench.autocast():
                    calls = {k: partial(m.eval(), x) for k, m in modules.items()}
                    calls |= {"ours, fused": partial(fused, x), "floor": partial(_floor, x)}
                    calls["one pixel"] = partial(modules["ours"], x[:, :, :1, :1].clone())
                    bench.compare(f"coordatt eval {form}", case, calls)
            for form, memory_format in FORMATS.items():
                x = bench.features(batch, channels, side, side, form=memory_format)
                steps = {k: _step(bench, m.train(), x) for k, m in modules.items()}
                bench.compare(f"coordatt training {form}", case, steps)
            for k, m in modules.items():
                value = _kept(bench, m, x)
                bench.add(Row("coordatt kept for backward", case, k, value, value, value, value, 1))


def fusion(bench: Bench) -> None:
    """BiFPN_Concat against the plain concatenation."""
    for name, (channels, side) in FUSIONS.items():
        for batch in (1, 8):
            block = BiFPN_Concat(channels).to(bench.device)
            xs = [bench.features(batch, c, side, side) for c in channels]
            calls = {"torch.cat": partial(torch.cat, xs, 1), "ours": partial(block, xs), "floor": partial(_scaled, xs)}
            with torch.no_grad():
                bench.compare("fusion eval", f"{name} batch {batch}", calls)


def models(bench: Bench) -> None:
    """The fused models: eager, compiled, exported."""
    image = torch.rand(1, 3, 640, 640, device=bench.device)
    for how, runner in (("eager", _eager), ("compiled", _compiled), ("onnxruntime", _onnx), ("openvino", _openvino)):
        if how in {"onnxruntime", "openvino"} and (bench.device.type != "cpu" or not importlib.util.find_spec(how)):
            print(f"{how}: not installed, or not for this device; left out")
            continue
        with tempfile.TemporaryDirectory() as folder, torch.no_grad(), bench.autocast():
            calls = {name: runner(bench, name, image, Path(folder)) for name in (STOCK, MODEL)}
            torch.set_num_threads(bench.threads)
            bench.compare(f"models {how}", "640 px batch 1", calls, weight=20)


def training(bench: Bench) -> None:
    """Steps of SGD at batch 8 and 320 px, and the model as it validates in a training."""
    steps, unfused = {}, {}
    image = torch.rand(1, 3, 640, 640, device=bench.device)
    for name in (STOCK, MODEL):
        steps[name] = _training_step(bench, _built(bench, name).train())
        unfused[name] = partial(_built(bench, name), image)
    bench.compare("training", "320 px batch 8", steps, weight=60)
    with torch.no_grad(), bench.autocast():
        bench.compare("models not fused", "640 px batch 1", unfused, weight=20)


def startup(bench: Bench) -> None:
    """Fresh interpreters: what the `.pth` file imports, by Python's own clock, and the patches of a loaded host."""
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
            print("hook: not where this Python looks for .pth files; left out")
            continue
        low, middle, high = statistics.quantiles(taken[1:], n=4)  # the first one may have written bytecode
        bench.add(Row("startup", case, "ours", middle, 1.0, low / middle, high / middle, rounds))


def growth(bench: Bench) -> None:
    """CoordAtt against H x W at 64 channels, and against C at 40 x 40."""
    for case, channels, side in [(f"H x W {side}^2", 64, side) for side in (40, 56, 80, 112, 160, 224, 320)] + [
        (f"C {c}", c, 40) for c in (32, 64, 128, 256, 512, 1024)
    ]:
        m = CoordAtt(channels).to(bench.device).eval()
        x = bench.features(1, channels, side, side)
        with torch.no_grad(), bench.autocast():
            bench.compare("growth", case, {"floor": partial(_floor, x), "ours": partial(m, x)})


def _timm(channels: int) -> dict[str, Any]:
    if not importlib.util.find_spec("timm"):
        return {}
    from timm.layers.coord_attn import CoordAttn

    return {"timm": CoordAttn(channels, rd_channels=max(8, channels // 32))}


def _floor(x: Tensor) -> Tensor:
    """Read the features twice and write as many into a new tensor, and nothing else."""
    x.sum()
    return x * 2.0


def _scaled(xs: list[Tensor]) -> list[Tensor]:
    """Multiply each of some features by a number, which a weighted fusion does at the least."""
    return [x * 0.5 for x in xs]


def _step(bench: Bench, m: nn.Module, x: Tensor) -> Callable[[], None]:
    x = x.clone().requires_grad_()
    dy = torch.randn_like(x)

    def step() -> None:
        x.grad = None
        m.zero_grad()
        with bench.autocast():
            y = m(x)
        y.backward(dy)

    return step


def _kept(bench: Bench, m: nn.Module, x: Tensor) -> float:
    """Return what autograd keeps of one call beside the parameters, in sizes of the input."""
    own = {p.untyped_storage().data_ptr() for p in m.parameters()}
    sizes = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return t

    x = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), bench.autocast():
        y = m(x)
    del y
    return sum(sizes.values()) / x.untyped_storage().nbytes()


def _built(bench: Bench, name: str) -> Any:
    torch.manual_seed(0)
    model: Any = YOLO(f"{name}.yaml").model
    return model.to(bench.device).eval()


def _eager(bench: Bench, name: str, image: Tensor, folder: Path) -> Callable[[], Any]:
    return partial(_built(bench, name).fuse(verbose=False), image)


def _compiled(bench: Bench, name: str, image: Tensor, folder: Path) -> Callable[[], Any]:
    model = _built(bench, name).fuse(verbose=False)
    model(image)  # the host's head makes its anchors at the first call, which no compiler takes in
    return partial(torch.compile(model, fullgraph=True), image)


def _exported(name: str, folder: Path, form: str) -> str:
    yolo: Any = YOLO(f"{name}.yaml")
    yolo.model.pt_path = str(folder / f"{name}.pt")
    return str(yolo.export(format=form, imgsz=640, verbose=False))


def _onnx(bench: Bench, name: str, image: Tensor, folder: Path) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = bench.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the other session has its turn
    session = onnxruntime.InferenceSession(_exported(name, folder, "onnx"), options, ["CPUExecutionProvider"])
    return partial(session.run, None, {session.get_inputs()[0].name: image.numpy()})


def _openvino(bench: Bench, name: str, image: Tensor, folder: Path) -> Callable[[], Any]:
    import openvino

    file = next(Path(_exported(name, folder, "openvino")).glob("*.xml"))
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": bench.threads}
    model = openvino.Core().compile_model(str(file), "CPU", hints)
    return partial(model, [image.numpy()])


def _training_step(bench: Bench, model: Any) -> Callable[[], None]:
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
    batch = {k: v.to(bench.device) for k, v in batch.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        with bench.autocast():
            loss, _ = model(batch)
        loss.sum().backward()
        optimizer.step()

    return step


def summary(bench: Bench) -> Iterator[tuple[str, float, str, float]]:
    """Yield what was measured beside its target: name, value, unit, the most that it should be."""
    for form, best, worst in (("contiguous", 0.35, 0.5), ("channels_last", math.nan, 1.0)):
        part = f"coordatt eval {form}"
        for what in ("ours", "ours, fused"):
            ours = bench.ratios(part, what)
            if ours:
                name = f"CoordAtt, {form}, eval{what.removeprefix('ours')}"
                yield f"{name}: geometric mean of {len(ours)} shapes / paper's formula", _mean(ours), "", best
                yield f"{name}: slowest / paper's formula", max(ours), "", worst
                for other, most in (("timm", 1.0), ("floor", math.nan)):
                    if against := bench.against(part, what, other):
                        yield f"{name}: geometric mean / {other}", _mean(against), "", most
    if bench.ratios("coordatt training contiguous", "ours"):
        for form in FORMATS:
            step = bench.ratios(f"coordatt training {form}", "ours")
            yield f"CoordAtt, training step, {form}, geometric mean / paper's formula", _mean(step), "", 0.65
        kept = [row for row in bench.rows if row.part == "coordatt kept for backward"]
        for what, most in (("ours", 1.2), ("official", math.nan)):
            shallow = max(row.value for row in kept if row.what == what and "P5" not in row.case)
            yield f"kept for backward at P3 and P4, at most, {what} / input", shallow, "", most
        for what, most in (("ours", 1.4), ("official", math.nan)):
            deep = max(row.value for row in kept if row.what == what and "P5" in row.case)
            yield f"kept for backward at P5, at most, {what} / input", deep, "", most
    if ours := bench.ratios("fusion eval", "ours"):
        yield "BiFPN_Concat, not fused, geometric mean / torch.cat", _mean(ours), "", 1.3
        yield "BiFPN_Concat, not fused, slowest / torch.cat", max(ours), "", math.nan
        against = bench.against("fusion eval", "ours", "floor")
        yield "BiFPN_Concat, not fused, geometric mean / the multiplications alone", _mean(against), "", math.nan
    for how, most in (("eager", 1.02), ("compiled", 1.03), ("onnxruntime", 1.03), ("openvino", 1.03)):
        for ratio in bench.ratios(f"models {how}", MODEL):
            yield f"{MODEL}, fused, 640 px, {how} / {STOCK}", ratio, "", most
    for ratio in bench.ratios("models not fused", MODEL):
        yield f"{MODEL}, not fused, 640 px, eager / {STOCK}", ratio, "", math.nan
    for ratio in bench.ratios("training", MODEL):
        yield f"{MODEL}, training step, 320 px, batch 8 / {STOCK}", ratio, "", 1 / 0.95
    for row in bench.rows:
        if row.part == "startup":
            yield f"start-up: {row.case}", row.value / 1000, " ms", {"hook": 0.5, "registering": 60}[row.case]
    for axis in ("H x W", "C"):
        for what in ("ours", "floor"):
            if points := _curve(bench, axis, what):
                yield f"growth of CoordAtt with {axis}, upper half: exponent, {what}", _exponent(points), "", math.nan


def _mean(ratios: list[float]) -> float:
    return statistics.geometric_mean(ratios)


def _curve(bench: Bench, axis: str, what: str) -> list[tuple[float, float]]:
    """Return sizes and microseconds of the growth against H x W or C."""
    rows = [x for x in bench.rows if x.part == "growth" and x.what == what and x.case.startswith(f"{axis} ")]
    sizes = [x.case.rpartition(" ")[2].split("^") for x in rows]
    return [(float(size[0]) ** len(size), row.value) for size, row in zip(sizes, rows)]


def _exponent(points: list[tuple[float, float]]) -> float:
    """Fit k in time = b * size ** k to the upper half of the sizes, where the calls themselves weigh less."""
    upper = points[len(points) // 2 :]
    x, y = ([math.log(v) for v in column] for column in zip(*upper))
    return statistics.linear_regression(x, y).slope


def draw(bench: Bench, file: Path) -> None:
    """Draw CoordAtt by shape, and its growth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    styles = {"timm": (ORANGE, "//"), "ours": (BLUE, ""), "ours, fused": (SKY, ""), "floor": (GREY, "..")}
    for ax, part in zip(axes[0], ("coordatt eval contiguous", "coordatt training contiguous")):
        rows = [x for x in bench.rows if x.part == part]
        cases = list(dict.fromkeys(x.case for x in rows))
        shown = [x for x in styles if bench.ratios(part, x)]
        for k, what in enumerate(shown):
            width = 0.8 / len(shown)
            places = [i + (k - (len(shown) - 1) / 2) * width for i in range(len(cases))]
            colour, hatch = styles[what]
            ax.bar(places, bench.ratios(part, what), width, label=what, color=colour, hatch=hatch, edgecolor="white")
        ax.axhline(1, color=BLACK, linewidth=1)
        ax.set_xticks(range(len(cases)), [x.replace(" yolo11", "").replace(" batch ", "\n") for x in cases], fontsize=8)
        ax.set_title(f"{part.replace('coordatt', 'CoordAtt,')}: time / paper's formula", fontsize=10)
        ax.set_ylim(0, 1.2)
        ax.legend(frameon=False, fontsize=8, ncols=len(shown), loc="upper right")
    for ax, axis in zip(axes[1], ("H x W", "C")):
        for what, colour, marker in (("ours", BLUE, "o"), ("floor", GREEN, "s")):
            points = _curve(bench, axis, what)
            ax.loglog(*zip(*points), color=colour, marker=marker, label=what)
        ax.set_xlabel({"H x W": "H x W, pixels (64 channels)", "C": "C, channels (40 x 40 pixels)"}[axis])
        ax.set_ylabel("microseconds")
        ax.set_title(f"CoordAtt, eval: growth with {axis}", fontsize=10)
        ax.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)


def main() -> None:
    """Run the parts, write the rows and the picture, print the summary."""
    try:
        options = parse(sys.argv[1:], OPTIONS)
    except UsageError as error:
        sys.exit(f"{error}\n\n{__doc__}")
    parts = options["parts"].split(",")
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"there are no parts {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
    torch.manual_seed(0)
    bench = Bench(options["device"], options["dtype"], options["seconds"])
    for part in parts:
        globals()[part](bench)
    out = Path(options["out"])
    with out.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([x.name for x in fields(Row)])
        table.writerows([f"{x:.5g}" if isinstance(x, float) else x for x in vars(row).values()] for row in bench.rows)
    if {"coordatt", "growth"} <= set(parts):
        draw(bench, out.with_suffix(".png"))
    print(
        f"\n{bench.where}, {options['dtype']}, torch {torch.__version__}, "
        f"Ultralytics {ultralytics.__version__}\n\n| measured | | target |\n|---|--:|--:|"
    )
    for name, value, unit, most in summary(bench):
        print(f"| {name} | {value:.2f}{unit} | {'' if math.isnan(most) else f'≤ {most:.3g}{unit}'} |")


if __name__ == "__main__":
    main()
