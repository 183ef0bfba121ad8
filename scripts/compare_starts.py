"""Compare ways to start blocks in a model with pretrained weights: fine-tunes yolo11n each way, with several seeds.

    python scripts/compare_starts.py weights=yolo11n.pt data=bccd/data.yaml seeds=0,1,2 epochs=10 imgsz=256

`STARTS` lists the ways; all but the first are of yolo11n-coordatt-bifpn. Each run adds its row to out= as soon as it is
done; a run that has a row is not done again. The table gives mean and 95 % interval over the seeds (Student's t).
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import pairwise
from pathlib import Path
from typing import Any

from csv_rows import append, read
from markdown_table import markdown, plus_minus
from run_script import run_script

from yolo_coordbifpn.commands import parse
from yolo_coordbifpn.compare.statistics import interval

STARTS = {
    "stock": "stock yolo11n, for comparison",
    "keys": "tensors matched by index and shape, as the host does without this package",
    "aligned": "layers aligned, all weights kept, blocks as they are built",
    "gain": "output kept: each block is the identity by a constant gain (the default)",
    "weights": "output kept, gain 1: the scale of a block is divided out of the weights of the next convolution",
    "batchnorm": "output kept, gain 1: the batch normalisation after the next convolution takes the scale",
    "open": "as `gain`, with the gates of CoordAtt at sigmoid(2) = 0.88 in place of 1/2",
}
OPTIONS = {
    "weights": "",
    "data": "",
    "out": "scripts/results/compare_starts.csv",
    "seeds": "0,1,2",
    "epochs": "10",
    "imgsz": "256",
    "jobs": "2",
    "run": "",  # of one run: its start, seed and folder
    "seed": "",
    "folder": "",
}
FIELDS = ("start", "seed", "mAP50", "mAP50-95", "mAP50 epoch 1", "fusion shift", "gate spread", "seconds", "setting")


def main(words: list[str]) -> None:
    """Do the runs that have no row yet and print the table."""
    options = parse(words, OPTIONS)
    if options["run"]:
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
    rows = read(out)
    print(f"\n{table(rows)}\n", *sorted({row["setting"] for row in rows}), sep="\n")


def _subprocess(options: dict[str, str], start: str, seed: str) -> dict[str, str]:
    """Do one run in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"{k}={v}" for k, v in {**options, "run": start, "seed": seed, "folder": folder}.items()]
        subprocess.run(
            [sys.executable, __file__, *words],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return read(Path(folder) / "row.csv")[0]


def _run(options: dict[str, str]) -> None:
    """Fine-tune once and write its row."""
    import torch
    import ultralytics
    from ultralytics.models import YOLO
    from ultralytics.nn.tasks import BaseModel

    import yolo_coordbifpn

    if options["run"] == "keys":
        yolo_coordbifpn.uninstall()
        hosts_own = BaseModel.load
        yolo_coordbifpn.install()
        BaseModel.load = hosts_own  # type: ignore[method-assign]

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
    """Change our default start to another one, in place. In this model a Conv `cv1` reads each block."""
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
        elif start == "batchnorm":  # exact in eval mode; in train mode, batch normalisation cancels s
            bn.weight.data *= ((s * s * bn.running_var + bn.eps) / (bn.running_var + bn.eps)).sqrt() / s
            bn.running_mean *= s
            bn.running_var *= s * s


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Write a table with mean and 95 % interval of each way to start."""
    lines = []
    for start, meaning in STARTS.items():
        mine = [row for row in rows if row["start"] == start]
        if mine:
            cells = [plus_minus(interval([float(row[field]) for row in mine]), 3) for field in FIELDS[2:5]]
            lines.append([f"`{start}`", meaning, len(mine), *cells])
    return markdown(["start", "what it is", "seeds", *FIELDS[2:5]], lines, 4)


if __name__ == "__main__":
    run_script(main)
