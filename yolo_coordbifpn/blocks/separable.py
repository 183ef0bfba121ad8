"""Separable convolution, which follows each fusion in the neck of the BiFPN paper.

Source: Tan, Pang, Le, "EfficientDet", CVPR 2020, arXiv 1911.09070, section 3.3: depthwise separable convolution, batch
normalisation and activation after each fusion. The order is that of the authors' code: swish, depthwise 3 x 3,
pointwise 1 x 1, batch normalisation. State-dict names are those of `effdet`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_features, one_input
from .declaration import block
from .folding import fold_norm


@block(variant="", paper="1911.09070")
class SeparableConv(nn.Module):
    """Swish, depthwise 3 x 3 convolution, pointwise 1 x 1 convolution, batch normalisation.

    Row of a model YAML: `[-1, 1, SeparableConv, []]`. The number of channels is that of the layer before.

    Attributes:
        conv_dw: Depthwise 3 x 3 convolution without bias.
        conv_pw: Pointwise 1 x 1 convolution without bias.
        bn: Batch normalisation.
    """

    def __init__(self, channels: int) -> None:
        """Build the block.

        Args:
            channels: C, the number of channels of the input and of the output.

        Raises:
            ValueError: If `channels` is not a positive whole number.
        """
        super().__init__()
        one_input("SeparableConv", channels)
        self.conv_dw = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.conv_pw = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve the features.

        Args:
            x: Features, shape (N, C, H, W).

        Returns:
            Features, shape (N, C, H, W).

        Raises:
            ValueError: If `x` does not have this shape.
        """
        check_features(self, [x], channels=getattr(self.conv_dw, "in_channels", None))
        return self.bn(self.conv_pw(self.conv_dw(F.silu(x))))

    def fuse(self) -> None:
        """Fold the batch normalisation into the pointwise convolution, in place, for inference."""
        fold_norm(self, "conv_pw", "bn")
