"""The machine that a measurement ran on."""

from __future__ import annotations

import torch


def machine(device: torch.device) -> str:
    """Return the name of a GPU, or for another device the name of the processor with the number of threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    from ultralytics.utils.torch_utils import get_cpu_info

    return f"{get_cpu_info()}, {torch.get_num_threads()} threads"
