"""Spatial attention where two paths of a neck meet: the semantic one says where the detailed one matters.

Source: the spatial attention of Woo, Park, Lee, Kweon, "CBAM", ECCV 2018, arXiv 1807.06521, section 3.2,
A(U) = sigmoid(conv7x7[mean_c U; max_c U]). That low levels of a pyramid get spatial attention made from high levels
follows Zhao, Wu, "Pyramid Feature Attention Network for Saliency Detection", CVPR 2019, arXiv 1903.00179.

Departures: the map is made from another feature than the one that it is applied to, and it is applied as
P * (1 + gamma * A(U)) with a learnable gamma that starts at 0, so that the block is newly initialised as the identity.
The parameter is called `weight`, so that optimizers that sort parameters by name find it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .checks import check_features
from .declaration import Channels, block


def _first(channels: Channels, args: list[Any]) -> tuple[int, list[Any]]:
    """Output the channels of the first input."""
    return channels if isinstance(channels, int) else channels[0], [channels, *args]


@block(_first, variant="", paper="1807.06521")
class SpatialGate(nn.Module):
    """Amplify a detailed feature P where a semantic feature U attends: P * (1 + gamma * A(U)).

    Row of a model YAML: `[[-1, 11], 1, SpatialGate, []]`, with P first.

    Attributes:
        weight: gamma, shape (1,), initially 0.
        conv: The convolution from the mean and the maximum over the channels of U to the logit of the map.
    """

    def __init__(self, channels: Sequence[int], kernel_size: int = 7) -> None:
        """Build the block.

        Args:
            channels: Channels of P and of U, which may differ.
            kernel_size: Kernel size of the convolution, an odd number.

        Raises:
            ValueError: If there are not two inputs, or `kernel_size` is not a positive odd number.
        """
        super().__init__()
        if not isinstance(channels, (list, tuple)) or len(channels) != 2:
            raise ValueError(
                f"SpatialGate takes two inputs, got {channels!r} (channels of the inputs): write [[-1, 11], 1, "
                "SpatialGate, []] with the index of the feature to gate first, then that of the feature that gates it."
            )
        if type(kernel_size) is not int or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"SpatialGate: kernel_size must be a positive odd number, got {kernel_size!r}.")
        self.weight = nn.Parameter(torch.zeros(1))
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2)

    def attention(self, u: Tensor) -> Tensor:
        """Return the map A(U) of features of shape (N, C, H, W), shape (N, 1, H, W), values 0...1."""
        return self.conv(torch.cat([u.mean(1, keepdim=True), u.amax(1, keepdim=True)], 1)).sigmoid()

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        """Gate the first input by the second.

        Args:
            xs: Features P, shape (N, C, H, W), and U, shape (N, C', H, W).

        Returns:
            Gated features, shape (N, C, H, W).

        Raises:
            ValueError: If there are not two inputs, or their heights or widths differ.
        """
        check_features(self, xs, 2)
        detail, semantic = xs[0], xs[1]
        gated = detail * (1 + self.weight * self.attention(semantic))
        return gated.to(detail.dtype)  # under autocast the weight alone is float32

    def neutral_(self) -> None:
        """Make the block the identity on its first input, in place."""
        nn.init.zeros_(self.weight)
