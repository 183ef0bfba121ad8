"""How long the fused models take for one picture, all of them in turn in one session.

python -m yolo_coordbifpn.host.latency FOLDER DEVICE
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..compare.plan import Plan, write
from .validation import machine, open_model

WARM_UP, ROUNDS = 10, 60


def measure(plan: Plan, device: str) -> dict[str, Any]:
    """Time one picture through the fused models of the first seed that each has finished.

    Args:
        plan: The plan.
        device: As the host takes it.

    Returns:
        For each model the median, the first and the third quartile in milliseconds at batch 1 in float32; the device,
        the size of the picture and the number of rounds.
    """
    where = torch.device(f"cuda:{device}" if device.isdecimal() else device)
    size = int(plan.train.get("imgsz", 640))
    models = {}
    for result in plan.results:
        if result["model"] not in models:
            model = open_model(plan.folder / result["best"], result["model"]).model
            models[result["model"]] = model.float().eval().fuse(verbose=False).to(where)
    image = torch.rand(1, 3, size, size, device=where)
    times: dict[str, list[float]] = {name: [] for name in models}
    names = list(models)
    with torch.inference_mode():
        for k in range(WARM_UP + ROUNDS):
            for name in names[k % len(names) :] + names[: k % len(names)]:  # each comes first as often as the others
                start = time.perf_counter()
                models[name](image)
                if where.type != "cpu":
                    getattr(torch, where.type).synchronize()
                if k >= WARM_UP:
                    times[name].append(1000 * (time.perf_counter() - start))
    quartiles = {name: statistics.quantiles(x, n=4) for name, x in times.items()}
    return {
        "device": machine() if where.type == "cuda" else f"CPU, {machine()}",
        "imgsz": size,
        "rounds": ROUNDS,
        "models": {name: {"low": q[0], "median": q[1], "high": q[2]} for name, q in quartiles.items()},
    }


if __name__ == "__main__":
    given = Plan.read(Path(sys.argv[1]))
    write(given.folder / "latency.json", json.dumps(measure(given, sys.argv[2]), indent=2))
