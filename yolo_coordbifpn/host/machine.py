"""The machine that a measurement ran on."""

from __future__ import annotations

import torch


def machine() -> str:
    """Return the name of the GPU, or if there is none, of the processor with the number of threads."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name(0))
    from ultralytics.utils.torch_utils import get_cpu_info

    return f"{get_cpu_info()}, {torch.get_num_threads()} threads"
