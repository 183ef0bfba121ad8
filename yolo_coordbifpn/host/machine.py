"""The machine that a measurement ran on."""

from __future__ import annotations

import torch


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was given."""
    if device.type == "mps":
        torch.mps.synchronize()
    elif device.type != "cpu":
        getattr(torch, device.type).synchronize(device)


def machine(device: torch.device) -> str:
    """Return the name of a GPU; for another device the processor, and the number of threads or the device's type."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    from ultralytics.utils.torch_utils import get_cpu_info

    threads = f"{torch.get_num_threads()} threads"
    return f"{get_cpu_info()}, {threads if device.type == 'cpu' else device.type}"
