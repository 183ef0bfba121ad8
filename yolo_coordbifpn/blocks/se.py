"""Squeeze-and-Excitation, for comparison with CoordAtt.

Source: Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018, arXiv 1709.01507. The module is that of
torchvision. Added is a constant gain, with which it starts as the identity like the package's own blocks, so that a
comparison is fair.
"""

from __future__ import annotations

from torch import Tensor, nn

from .checks import check_features, one_input, squeeze
from .declaration import block
from .gain import BlockWithGain


@block(paper="1709.01507", library="torchvision")
class SE(BlockWithGain):
    """Squeeze-and-Excitation with a constant gain. Row of a model YAML: `[-1, 1, SE, []]` or `[reduction]`."""

    def __init__(self, channels: int, reduction: int = 16, gain: float = 1.0) -> None:
        """Build the block.

        Args:
            channels: C, the number of channels of the input and of the output.
            reduction: r in the paper; the mean is squeezed to max(8, C // r) channels.
            gain: Constant factor on the output; 1 is the paper's formula.

        Raises:
            ValueError: If `channels` or `reduction` is not a positive whole number, if `reduction` is so large that it
                can only be a number of output channels, or if `gain` is not a positive float.
        """
        from torchvision.ops import SqueezeExcitation  # imported here because that takes long

        super().__init__(gain)
        one_input("SE", channels)
        self.reduction = reduction
        self.attention = SqueezeExcitation(channels, squeeze("SE", channels, reduction, 16))

    def forward(self, x: Tensor) -> Tensor:
        """Gate the channels of features of shape (N, C, H, W)."""
        check_features(self, [x], channels=self.attention.fc1.in_channels)
        return self.attention(x) * self.gain

    def neutral_(self) -> None:
        """Make the block the identity, in place: every gate 1/2 and a gain of 2."""
        nn.init.zeros_(self.attention.fc2.weight)
        nn.init.zeros_(self.attention.fc2.bias)
        self.gain = 2.0

    def row(self) -> list[float]:
        """Return the arguments of this block's row in a model YAML."""
        return [self.reduction, self.gain]
