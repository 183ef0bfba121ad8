"""Seconds of one training step of each model, in a process of its own.

python -m yolo_coordbifpn.compare.step_time FOLDER DEVICE
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import first_line
from ..files import write
from ..host.machine import synchronize
from .arguments import all_arguments, image_size
from .datasets import check_data
from .devices import torch_device
from .models import build, open_checked
from .plan import Plan
from .processes import end_with_parent

LONGEST = 5.0  # seconds; a step that takes longer is timed with few images
FEW = 2  # images


def measure(plan: Plan, device: str) -> dict[str, float | str]:
    """Time one step of each model at the plan's image size and batch.

    Args:
        plan: The plan.
        device: Name of the host: `cpu`, `0`, ...

    Returns:
        Seconds by label, or why the step failed, for example for lack of memory.
    """
    where = torch_device(device)
    args = all_arguments(plan.train)
    models = {label: open_checked(name) for label, name in zip(plan.labels, plan.models)}
    data = check_data(args, models[plan.labels[0]].task)
    found: dict[str, float | str] = {}
    for label in plan.labels:
        model = build(models.pop(label), data, args).to(where).train()
        try:
            found[label] = step_seconds(model, args.batch, image_size(args), data.content["channels"], where)
        except (RuntimeError, ValueError) as error:
            found[label] = first_line(error)
    return found


def step_seconds(model: nn.Module, batch: int, size: int, channels: int, device: torch.device) -> float:
    """Time the forward pass, backward pass and optimizer step on random images, after an untimed step.

    The loss is the mean of the outputs, which costs less than the host's. If the step would take longer than
    `LONGEST`, it is timed with few images and scaled to the batch.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    few = min(batch, FEW)

    def timed(images: int) -> float:
        synchronize(device)
        start = time.perf_counter()
        with torch.autocast("cuda") if device.type == "cuda" else contextlib.nullcontext():
            out = model(torch.rand(images, channels, size, size, device=device))
            loss = torch.stack([x.float().mean() for x in _tensors(out) if x.is_floating_point()]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize(device)
        return time.perf_counter() - start

    timed(few)
    seconds = timed(few) * batch / few
    return timed(batch) if seconds < LONGEST else seconds


def _tensors(out: Any) -> Iterator[Tensor]:
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, (dict, list, tuple)):
        for x in out.values() if isinstance(out, dict) else out:
            yield from _tensors(x)


if __name__ == "__main__":
    end_with_parent()
    plan = Plan.read(Path(sys.argv[1]))
    write(plan.folder / "step_time.json", json.dumps(measure(plan, sys.argv[2])))
