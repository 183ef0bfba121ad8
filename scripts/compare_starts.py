"""How should a block start beside pretrained weights? Fine-tunes yolo11n with each way to start, several seeds each.

    python scripts/compare_starts.py weights=yolo11n.pt data=bccd.yaml out=starts.csv seeds=0,1,2 epochs=10 imgsz=256

Ways to start yolo11n-coordatt-bifpn (stock is yolo11n itself):
    keys        what the host does without us: tensors matched by index and shape
    aligned     layers aligned, blocks as they are built
    gain        output kept, our default: each block is the identity by a constant gain
    weights     output kept, gain 1: the blocks' scales are divided out of the weights of the next convolution
    batchnorm   output kept, gain 1: the batch normalisation behind the next convolution takes the scale
    open        as gain, with the gates of CoordAtt at sigmoid(2) = 0.88 in place of 1/2

One row a run is appended to the CSV as soon as it is there; runs that are in it are not done again. Then the table is
printed: mean and 95 % interval over the seeds (Student's t).
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import pairwise
from pathlib import Path
from typing import Any

from csv_rows import append, read

from yolo_coordbifpn.compare.statistics import interval

STARTS = ("stock", "keys", "aligned", "gain", "weights", "batchnorm", "open")
DEFAULTS = {
    "weights": "",
    "data": "",
    "out": "starts.csv",
    "seeds": "0,1,2",
    "epochs": "10",
    "imgsz": "256",
    "jobs": "2",
}
FIELDS = ("start", "seed", "mAP50", "mAP50-95", "mAP50 epoch 1", "fusion shift", "gate spread", "seconds", "setting")


def main() -> None:
    """Do the runs that are missing and print the table."""
    options = {**DEFAULTS, **dict(word.split("=", 1) for word in sys.argv[1:])}
    if "run" in options:
        _run(options)
        return
    if not options["weights"] or not options["data"]:
        sys.exit(__doc__)
    out = Path(options["out"])
    done = {(row["start"], row["seed"]) for row in read(out)}
    todo = [(start, seed) for seed in options["seeds"].split(",") for start in STARTS if (start, seed) not in done]
    with ThreadPoolExecutor(int(options["jobs"])) as pool:
        for run in as_completed([pool.submit(_subprocess, options, *x) for x in todo]):
            row = run.result()
            append(out, FIELDS, row)
            print(row, flush=True)
    _table(out)


def _subprocess(options: dict[str, str], start: str, seed: str) -> dict[str, str]:
    """Do one run in a process of its own, without the start-up hook, so that the host's own loading can be had."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"{k}={v}" for k, v in options.items()]
        subprocess.run(
            [sys.executable, __file__, *words, f"run={start}", f"seed={seed}", f"folder={folder}"],
            env={**os.environ, "YOLO_COORDBIFPN_AUTOLOAD": "0"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return read(Path(folder) / "row.csv")[0]


def _run(options: dict[str, str]) -> None:
    """Fine-tune once and write its row."""
    import torch
    import ultralytics
    from ultralytics.nn.tasks import BaseModel

    hosts_own = BaseModel.load
    import yolo_coordbifpn

    yolo_coordbifpn.install()
    if options["run"] == "keys":
        BaseModel.load = hosts_own  # type: ignore[method-assign]

    from ultralytics.models import YOLO

    model: Any = YOLO("yolo11n.yaml" if options["run"] == "stock" else "yolo11n-coordatt-bifpn.yaml")
    model.load(options["weights"])
    _restart(model.model, options["run"])
    folder = Path(options["folder"])
    model.train(
        data=options["data"], epochs=int(options["epochs"]), imgsz=int(options["imgsz"]), seed=int(options["seed"]),
        project=str(folder), name="run", workers=0, plots=False, device="cpu", verbose=False,
    )  # fmt: skip
    epochs = [{k.strip(): float(v) for k, v in row.items()} for row in read(folder / "run" / "results.csv")]
    fusion, gates = _learned(model)
    row = {
        "start": options["run"],
        "seed": options["seed"],
        "mAP50": epochs[-1]["metrics/mAP50(B)"],
        "mAP50-95": epochs[-1]["metrics/mAP50-95(B)"],
        "mAP50 epoch 1": epochs[0]["metrics/mAP50(B)"],
        "fusion shift": fusion,
        "gate spread": gates,
        "seconds": epochs[-1]["time"],
        "setting": f"{Path(options['data']).parent.name}, {options['epochs']} epochs, {options['imgsz']} px, "
        f"ultralytics {ultralytics.__version__}, torch {torch.__version__}, {platform.machine()} CPU",
    }
    append(folder / "row.csv", FIELDS, row)


def _learned(model: Any) -> tuple[float, float]:
    """Measure how far the blocks moved: the largest change of a fusion share, the standard deviation of the gates."""
    import torch

    from yolo_coordbifpn import BiFPN_Concat, CoordAtt

    layers = list(model.model.model)
    shares = [m.normalized_weights() for m in layers if isinstance(m, BiFPN_Concat)]
    fusion = max((float((s - 1 / len(s)).abs().max()) for s in shares), default=0.0)
    spread: list[float] = []
    for m in layers:
        if isinstance(m, CoordAtt):
            m.register_forward_hook(
                lambda block, args, out: spread.append(float((out / args[0] / block.gain).nan_to_num(0.25).std()))
            )
    with torch.no_grad():
        model.model.eval()(torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)))
    return fusion, max(spread, default=0.0)


def _restart(model: Any, start: str) -> None:
    """Turn our default start into another one, in place. In this model a Conv `cv1` reads each block."""
    import torch
    from torch import nn

    from yolo_coordbifpn import BiFPN_Concat, CoordAtt

    layers = list(model.model)
    for block, reader in pairwise(layers):
        if not isinstance(block, (CoordAtt, BiFPN_Concat)) or start in {"keys", "gain"}:
            continue
        if start == "open":
            if isinstance(block, CoordAtt):
                for conv in (block.conv_h, block.conv_w):
                    nn.init.constant_(conv.bias, 2.0)  # type: ignore[arg-type]
                block.gain = float(torch.tensor(2.0).sigmoid()) ** -2
            continue
        s = 1 / block.gain  # the scale of the output by the paper's formula
        block.gain = 1.0
        bn = reader.cv1.bn
        if start == "aligned" and isinstance(block, CoordAtt):
            block.load_state_dict(CoordAtt(block.conv1.in_channels).state_dict())
        elif start == "weights":
            reader.cv1.conv.weight.data /= s
        elif start == "batchnorm":  # exact in eval mode; in train mode batch normalisation cancels s by itself
            bn.weight.data *= ((s * s * bn.running_var + bn.eps) / (bn.running_var + bn.eps)).sqrt() / s
            bn.running_mean *= s
            bn.running_var *= s * s


def _table(out: Path) -> None:
    """Print mean and 95 % interval of each way to start."""
    rows = read(out)
    print(
        "| start | seeds | mAP50 | mAP50-95 | mAP50 after epoch 1 | largest shift of a fusion share | spread of gates |"
    )
    print("|---|---|---|---|---|---|---|")
    for start in STARTS:
        mine = [row for row in rows if row["start"] == start]
        if mine:
            cells = [_interval([float(row[field]) for row in mine]) for field in FIELDS[2:7]]
            print(f"| {start} | {len(mine)} | {' | '.join(cells)} |")
    print("\n" + "; ".join(sorted({row["setting"] for row in rows})))


def _interval(values: list[float]) -> str:
    found = interval(values)
    return f"{found.mean:.3f}" if found.count < 2 else f"{found.mean:.3f} ± {found.half:.3f}"


if __name__ == "__main__":
    main()
