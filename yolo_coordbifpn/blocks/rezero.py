"""A start beside pretrained weights for blocks that have no state in which they are the identity.

Source: Bachlechner et al., "ReZero is All You Need: Fast Convergence at Large Depth", arXiv 2003.04887, equation 1,
here with the difference from the input: x + a * (f(x) - x), the identity at a = 0 and the block itself at a = 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ReZero(nn.Module):
    """x + a * (f(x) - x) for a block f that keeps the shape of its input, with a learnable a that starts at 0.

    Attributes:
        block: The block f.
        weight: a, shape (1,). Optimizers that sort parameters by name find it under this one.
    """

    def __init__(self, block: nn.Module) -> None:
        """Wrap a block.

        Args:
            block: The block; it is not copied.
        """
        super().__init__()
        self.block = block
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Blend the features with the output of the block.

        Args:
            x: Features, shape (N, C, H, W).

        Returns:
            Features, shape (N, C, H, W).
        """
        change = self.block(x) - x
        return x + self.weight.to(change.dtype) * change
