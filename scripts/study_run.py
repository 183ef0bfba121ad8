"""One run of the study in a process of its own: one treatment with one seed. See study.py.

    python scripts/study_run.py run=confirm-bccd/stock/10 weights=yolo11n.pt bccd=bccd/data.yaml

It writes the row of the CSV to runs/study/STAGE-TREATMENT-SEED/row.json.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from study_plan import STAGES, TREATMENTS
from torch import nn
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models import YOLO

import yolo_coordbifpn
from yolo_coordbifpn import CoordAtt
from yolo_coordbifpn.compare.plan import Plan
from yolo_coordbifpn.compare.run import carry_out
from yolo_coordbifpn.graph.paths import fusions
from yolo_coordbifpn.inspection.effects import effects
from yolo_coordbifpn.registry import TABLE


def run(options: dict[str, str]) -> None:
    """Train, validate, look at the blocks, and write the row.

    Args:
        options: Those of study.py, with the run as stage/treatment/seed.
    """
    stage_name, name, number = options["run"].split("/")
    seed = int(number)
    stage, treatment = STAGES[stage_name], TREATMENTS[name]
    folder = (Path(options["folder"]) / f"{stage_name}-{name}-{seed}").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    yolo_coordbifpn.install()
    _set_start(treatment.start)
    _set_rate(treatment.rate)
    _set_layout()
    model = f"yolo11{treatment.scale}.yaml"
    if treatment.blocks:
        file = folder / f"yolo11{treatment.scale}-{name.replace('+', '-')}.yaml"
        cfg = yolo_coordbifpn.graft("yolo11.yaml", **treatment.blocks)
        text = yaml.safe_dump({k: v for k, v in cfg.items() if k not in ("yaml_file", "scale")}, sort_keys=False)
        file.write_text(text, encoding="utf-8")
        model = str(file)
    train = {
        "data": str(Path(options[stage.data]).absolute()),
        "epochs": stage.epochs,
        "imgsz": stage.imgsz + treatment.larger,
        "pretrained": str(Path(options["weights"]).absolute()) if stage.pretrained else False,
        "workers": 0,
        "cache": "ram",
        "verbose": False,
        "val": stage.best,
    }
    if not stage.pretrained:  # few steps: no gradient accumulation, as in the demo
        train |= {"batch": 8, "nbs": 8, "optimizer": "AdamW", "lr0": 0.002, "warmup_epochs": 1}
    plan = Plan(folder / "plan", (model,), (name,), (seed,), train)
    plan.start()
    carry_out(plan.folder, 0, "cpu")
    result = plan.runs[0].result
    assert result is not None  # it has just been written
    sizes = result["sizes"]
    row = {
        "stage": stage_name,
        "data": stage.data,
        "treatment": name,
        "seed": seed,
        "mAP50": round(result["metrics"]["metrics/mAP50(B)"], 5),
        "mAP50-95": round(result["metrics"]["metrics/mAP50-95(B)"], 5),
        **{f"AP {x}": round(sizes[x], 5) for x in ("small", "medium", "large") if x in sizes},
        "model": f"yolo11{treatment.scale}",
        "blocks": " ".join(f"{k}={v}" for k, v in treatment.blocks.items()),
        "start": treatment.start if treatment.blocks and stage.pretrained else "",
        "rate": treatment.rate if treatment.blocks else "",
        "weights": Path(options["weights"]).name if stage.pretrained else "none",
        "imgsz": train["imgsz"],
        "epochs": stage.epochs,
        "parameters": result["parameters"],
        "gflops": result["gflops"],
        "seconds": result["train_seconds"],
        **_awake(plan.folder / result["best"], train),
        "commit": result["commit"],
        "versions": f"ultralytics {result['ultralytics']}, torch {result['torch']}, python {result['python']}",
        "machine": f"{result['machine']}, channels_last",
        "command": f"python scripts/study_run.py run={options['run']} weights={Path(options['weights']).name} "
        f"{stage.data}={stage.data}/data.yaml",
    }
    (folder / "row.json").write_text(json.dumps(row))


def _set_rate(rate: float) -> None:
    """Give the parameters of the blocks parameter groups of their own, with a faster rate and no decay."""
    if rate == 1:
        return
    original: Any = BaseTrainer.build_optimizer

    @functools.wraps(original)
    def build_optimizer(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        optimizer = original(self, model, *args, **kwargs)
        blocks = [m for m in model.modules() if type(m) is not nn.Sequential and TABLE.is_block(m)]
        own = {id(p) for m in blocks for p in m.parameters()}
        for group in list(optimizer.param_groups):
            faster = [p for p in group["params"] if id(p) in own]
            if faster:
                group["params"] = [p for p in group["params"] if id(p) not in own]
                rest = {k: v for k, v in group.items() if k != "params"}
                optimizer.add_param_group({**rest, "params": faster, "lr": rate * group["lr"], "weight_decay": 0.0})
        return optimizer

    BaseTrainer.build_optimizer = build_optimizer  # type: ignore[method-assign]


def _set_layout() -> None:
    """Train in channels_last, which is a quarter quicker on a CPU and differs by rounding alone."""
    original: Any = BaseTrainer.build_optimizer

    @functools.wraps(original)
    def build_optimizer(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, model.to(memory_format=torch.channels_last), *args, **kwargs)

    BaseTrainer.build_optimizer = build_optimizer  # type: ignore[method-assign]


def _set_start(start: str) -> None:
    """Change how CoordAtt starts beside pretrained weights."""
    if start == "open":

        def open_gates(self: Any) -> None:
            for conv in (self.conv_h, self.conv_w):
                nn.init.zeros_(conv.weight)
                nn.init.constant_(conv.bias, 2.0)
            self.gain = float(torch.sigmoid(torch.tensor(2.0))) ** -2

        CoordAtt.neutral_ = open_gates  # type: ignore[method-assign]
    elif start == "residual":
        CoordAtt.neutral_ = None  # type: ignore[method-assign, assignment]


def _awake(best: Path, train: dict[str, Any]) -> dict[str, Any]:
    """Measure what the blocks do on validation images: see `effects`; means over images and blocks."""
    model: Any = YOLO(best).model
    data = yaml.safe_load(Path(train["data"]).read_text(encoding="utf-8"))
    images = sorted((Path(train["data"]).parent / data["val"]).iterdir())[:8]
    found: list[Any] = [
        x for file in images for x in effects(model, _pixels(file, train["imgsz"])) if x.low is not None
    ]
    shares = "; ".join(f"{node}: {' '.join(f'{x:.3f}' for x in node.weights)}" for node in fusions(model))
    if not found:
        return {"shares": shares}
    return {
        "channel low": round(mean(x.low for x in found), 3),
        "channel high": round(mean(x.high for x in found), 3),
        "spread": round(mean(x.within for x in found), 4),
        "shares": shares,
    }


def _pixels(file: Path, size: int) -> Any:
    """Read an image as the host's models take it, stretched to a square: (1, 3, size, size), RGB, 0...1."""
    with Image.open(file) as opened:
        array = np.asarray(opened.convert("RGB").resize((size, size)), dtype="float32") / 255
    return torch.from_numpy(array).permute(2, 0, 1)[None]


if __name__ == "__main__":
    run({"folder": "runs/study", **dict(word.split("=", 1) for word in sys.argv[1:])})
