"""A constant gain on the output of a block, by which it starts as the identity beside pretrained weights.

Source: the function-preserving initialisation of Chen, Goodfellow, Shlens, "Net2Net: Accelerating Learning via
Knowledge Transfer", ICLR 2016, arXiv 1511.05641. By the papers' formulas a newly initialised CoordAtt outputs a quarter
of its input, and a newly initialised fusion of n inputs one n-th of each. The gain undoes that. Its default is 1, the
papers' formula.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .checks import positive


class BlockWithGain(nn.Module):
    """A block with a constant gain on its output.

    The gain is a Python float, so casting the block to another dtype does not change it. A state dict holds it as
    `gain`, the bits of a float64 in an int64 tensor, unless it is 1: then the keys are those of the papers' own code.
    Averages of weights skip whole numbers; a float64 on the CPU among them would cost a GPU one kernel for each weight.
    A state dict that holds all parameters of the block and no gain sets it to 1; one that holds only some of them
    leaves it as it is.

    Attributes:
        gain: Constant factor on the output.
    """

    def __init__(self, gain: float) -> None:
        """Set the gain.

        Args:
            gain: Constant factor on the output; 1 is the paper's formula.

        Raises:
            ValueError: If it is not a positive float.
        """
        super().__init__()
        self.gain = positive(type(self).__name__, "gain", gain, "1.0")

    def row(self) -> list[float]:
        """Return the arguments of this block's row in a model YAML."""
        raise NotImplementedError

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.gain != 1:
            destination[f"{prefix}gain"] = torch.tensor(self.gain, dtype=torch.float64, device="cpu").view(torch.int64)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        whole = all(f"{prefix}{name}" in state_dict for name, _ in self.named_parameters())
        stored = state_dict.pop(f"{prefix}gain", None)
        if stored is not None:
            self.gain = float(stored.cpu().view(torch.float64) if stored.dtype == torch.int64 else stored)
        elif whole:
            self.gain = 1.0
        super()._load_from_state_dict(state_dict, prefix, *args)
