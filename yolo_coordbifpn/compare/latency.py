"""Latency of the fused models for one image, measured in turn in one process.

python -m yolo_coordbifpn.compare.latency FOLDER DEVICE
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..blocks.grid import grid_of
from ..files import write
from ..graph.layers import image_channels
from ..host.machine import machine, synchronize
from ..host.models import open_model
from .arguments import all_arguments, image_size
from .devices import torch_device
from .plan import Plan
from .processes import end_with_parent

ROUNDS = 60


def measure(plan: Plan, device: str) -> dict[str, Any]:
    """Time one image through each fused model, using its first seed that has a result.

    Args:
        plan: The plan.
        device: Name of the host: `cpu`, `0`, ...

    Returns:
        For each model the median and the first and third quartile in milliseconds, at batch 1 in float32; the device,
        the image size in pixels and the number of rounds.
    """
    where = torch_device(device)
    size = image_size(all_arguments(plan.train))
    models = {}
    for result in plan.results:
        if result["model"] not in models:
            model = open_model(plan.folder / result["best"]).model
            grid = grid_of(model)
            if grid is not None:
                grid.threshold = 0.0  # the time of an image that is not skipped
            models[result["model"]] = model.float().eval().fuse(verbose=False).to(where)
    images = {x: torch.rand(1, image_channels(x), size, size, device=where) for x in models.values()}
    with torch.inference_mode():
        times = in_turn({name: functools.partial(x, images[x]) for name, x in models.items()}, where, ROUNDS)
    quartiles = {name: statistics.quantiles([1000 * s for s in x], n=4) for name, x in times.items()}
    return {
        "device": f"CPU, {machine(where)}" if where.type == "cpu" else machine(where),
        "imgsz": size,
        "rounds": ROUNDS,
        "models": {name: {"low": q[0], "median": q[1], "high": q[2]} for name, q in quartiles.items()},
    }


def in_turn(
    calls: Mapping[str, Callable[[], object]], device: torch.device, rounds: int, repeats: int = 1
) -> dict[str, list[float]]:
    """Time calls in rounds, in which each call takes each position equally often.

    Each call is made once before it is timed, so that caches and memory are in the state that it leaves them in.

    Args:
        calls: What to time, by name.
        device: Device that they run on; it is synchronised before the clock is read.
        rounds: How many times each is timed.
        repeats: How many calls make up one measurement.

    Returns:
        For each call the seconds of one call, in the order of the rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for k in range(rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            calls[name]()
            synchronize(device)
            start = time.perf_counter()
            for _ in range(repeats):
                calls[name]()
            synchronize(device)
            times[name].append((time.perf_counter() - start) / repeats)
    return times


if __name__ == "__main__":
    end_with_parent()
    plan = Plan.read(Path(sys.argv[1]))
    write(plan.folder / "latency.json", json.dumps(measure(plan, sys.argv[2]), indent=2))
