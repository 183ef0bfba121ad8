"""How a block starts beside pretrained weights: as the identity, by a constant gain on its output.

Source: the function-preserving initialisation of Chen, Goodfellow, Shlens, "Net2Net: Accelerating Learning via
Knowledge Transfer", ICLR 2016, arXiv 1511.05641. By the papers' formulas a fresh CoordAtt puts out a quarter of its
input, a fresh fusion of n inputs one n-th of each; the gain takes that back. It is 1, the papers' formula, unless set.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .checks import positive


class GainedBlock(nn.Module):
    """A block with a constant gain, which is part of its state dict where it is not 1.

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
            destination[f"{prefix}gain"] = torch.tensor(self.gain)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if any(key.startswith(prefix) for key in state_dict):
            self.gain = float(state_dict.pop(f"{prefix}gain", 1.0))
        super()._load_from_state_dict(state_dict, prefix, *args)
