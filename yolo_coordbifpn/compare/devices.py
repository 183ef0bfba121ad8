"""Devices of a comparison: on this machine, or on a cluster."""

from __future__ import annotations

import torch

from ..errors import CompareError


def read_devices(text: str, engine: str) -> list[str]:
    """Return the devices of the runs, one run at a time on each.

    Args:
        text: Names separated by commas; empty for the first GPU of this machine, or `cpu` if it has none.
        engine: `local` for names of this machine: `cpu`, `0`, `1`, ..., `mps`. `ray` for `cpu`, one CPU for each run,
            or for `gpu` or numbers, one GPU for each run, anywhere in the cluster.

    Raises:
        CompareError: If there is no such engine, or no such device.
    """
    if engine not in ("local", "ray"):
        raise CompareError(f"engine= must be local or ray, got {engine!r}")
    given = [x.strip() for x in text.split(",") if x.strip()] or [default_device()]
    if engine == "ray":
        if all(x == "gpu" or x.isdecimal() for x in given):
            return ["gpu"]
        if set(given) != {"cpu"}:
            raise CompareError(f"devices= takes cpu or gpu for engine=ray, one for each run, got {text!r}")
        return ["cpu"]
    known = {
        "cpu",
        *map(str, range(torch.cuda.device_count())),
        *(["mps"] if torch.backends.mps.is_available() else []),
    }
    for device in given:
        if device not in known:
            raise CompareError(f"devices= takes {', '.join(sorted(known))} on this machine, got {device!r}")
    return given


def torch_device(name: str) -> torch.device:
    """Return the device of a name of the host: `cpu`, `0`, `1`, ..., `mps`."""
    return torch.device(f"cuda:{name}" if name.isdecimal() else name)


def default_device() -> str:
    """Return the first GPU of this machine, or `cpu` if it has none."""
    return "0" if torch.cuda.is_available() else "cpu"
