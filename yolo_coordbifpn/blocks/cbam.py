"""CBAM, for comparison with CoordAtt.

Source: Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv 1807.06521. The module
is that of Ultralytics. Its channel attention is one convolution over the mean, without the paper's second pooling and
reduction. Added is a constant gain, with which it starts as the identity like the package's own blocks, so that a
comparison is fair.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .checks import check_features, one_input
from .declaration import block
from .gain import BlockWithGain


@block(paper="1807.06521", library="ultralytics")
class CBAM(BlockWithGain):
    """CBAM with a constant gain. Row of a model YAML: `[-1, 1, CBAM, []]` or `[kernel_size]`."""

    def __init__(self, channels: int, kernel_size: int = 7, gain: float = 1.0) -> None:
        """Build the block.

        Args:
            channels: C, the number of channels of the input and of the output.
            kernel_size: Kernel size of the spatial attention, 3 or 7.
            gain: Constant factor on the output; 1 is the paper's formula.

        Raises:
            ValueError: If `kernel_size` is not 3 or 7, `channels` is not a positive whole number, or `gain` is not a
                positive float.
        """
        from ultralytics.nn.modules import conv

        super().__init__(gain)
        if type(kernel_size) is not int or kernel_size not in (3, 7):
            raise ValueError(
                f"CBAM: kernel_size must be 3 or 7, got {kernel_size!r}. CBAM keeps the channels of the layer before; "
                "write [] for the paper's 7, or [kernel_size]."
            )
        one_input("CBAM", channels)
        self.kernel_size = kernel_size
        self.attention: Any = conv.CBAM(channels, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """Gate the channels, then the pixels, of features of shape (N, C, H, W)."""
        check_features(self, [x], channels=self.attention.channel_attention.fc.in_channels)
        return self.attention(x) * self.gain

    def neutral_(self) -> None:
        """Make the block the identity, in place: both gates 1/2 everywhere and a gain of 4."""
        nn.init.zeros_(self.attention.channel_attention.fc.weight)
        nn.init.zeros_(self.attention.channel_attention.fc.bias)
        nn.init.zeros_(self.attention.spatial_attention.cv1.weight)
        self.gain = 4.0

    def row(self) -> list[float]:
        """Return the arguments of this block's row in a model YAML."""
        return [self.kernel_size, self.gain]
