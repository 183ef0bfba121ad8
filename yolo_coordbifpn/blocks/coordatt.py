"""Coordinate Attention.

Source: Hou, Zhou, Feng, "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021, arXiv 2103.02907,
equations 4 to 9. State-dict names are those of the authors' code (houqb/CoordAttention) and of timm's `CoordAttn`.

Three departures from the authors' code do not change the result. The pooling is a mean, which exports with dynamic
shapes and has a deterministic backward pass on CUDA. The 1x1 convolutions of strips are matrix products. The gradients
of the two passes over the features are written out, see `strips`. One addition is a constant gain on the output, 1 in
the paper, see `gain`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_features, one_input, squeeze
from .declaration import block
from .dispatch import eager, recorded, watched
from .folding import fold_norm
from .gain import BlockWithGain
from .strips import gate, pool


@block(paper="2103.02907", aliases=("CA", "CoordAttention", "CoordinateAttention"))
class CoordAtt(BlockWithGain):
    """Gate every pixel by its row and its column: y[c, i, j] = x[c, i, j] * g_h[c, i] * g_w[c, j].

    Row of a model YAML: `[-1, 1, CoordAtt, []]` or `[-1, 1, CoordAtt, [reduction]]`. The channels come from the layer
    before and stay as they are.

    A newly initialised block scales its input by about 1/4. Beside pretrained weights a gain of 4 undoes that; the row
    is then `[reduction, gain]`.

    Attributes:
        conv1: Shared 1x1 convolution over both strips, C to mip channels, mip = max(8, C // reduction).
        bn1: Batch normalisation of the mip channels, followed by h-swish.
        conv_h: 1x1 convolution, mip to C channels, whose sigmoid is the height gate.
        conv_w: 1x1 convolution, mip to C channels, whose sigmoid is the width gate.
        gain: Constant factor on the output.
    """

    def __init__(self, channels: int, reduction: int = 32, gain: float = 1.0) -> None:
        """Build the block.

        Args:
            channels: C, the number of channels of the input and of the output.
            reduction: r in the paper; the strips are squeezed to max(8, C // r) channels.
            gain: Constant factor on the output; 1 is the paper's formula.

        Raises:
            ValueError: If `channels` or `reduction` is not a positive whole number, if `reduction` is so large that it
                can only be a number of output channels, or if `gain` is not a positive float.
        """
        super().__init__(gain)
        one_input("CoordAtt", channels)
        mip = squeeze("CoordAtt", channels, reduction, 32)
        self.reduction = reduction
        self.conv1 = nn.Conv2d(channels, mip, 1)
        self.bn1: nn.Module = nn.BatchNorm2d(mip)
        self.conv_h = nn.Conv2d(mip, channels, 1)
        self.conv_w = nn.Conv2d(mip, channels, 1)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the two gates, each in 0...1.

        Args:
            x: Features, shape (N, C, H, W).

        Returns:
            Height gate, shape (N, C, H, 1), and width gate, shape (N, C, 1, W).
        """
        h, w = self._gates(x.mean(3), x.mean(2))
        return h.unsqueeze(3), w.unsqueeze(2)

    def _gates(self, h: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gates, shapes (N, C, H) and (N, C, W), from the strips of the same shapes, equations 6 to 8."""
        # batch statistics are taken over both strips together, as in the paper
        h, w = self._squeeze(torch.cat((h, w), 2)).split((h.shape[2], w.shape[2]), 2)
        return _pointwise(self.conv_h, h).sigmoid(), _pointwise(self.conv_w, w).sigmoid()

    def _squeeze(self, strip: Tensor) -> Tensor:
        """Map a strip of C channels to mip channels, equation 6."""
        y = self.bn1(_pointwise(self.conv1, strip).unsqueeze(3)).squeeze(3)
        return F.hardswish(y)

    def forward(self, x: Tensor) -> Tensor:
        """Gate the features, equation 9.

        Args:
            x: Features, shape (N, C, H, W).

        Returns:
            Gated features, shape (N, C, H, W).

        Raises:
            ValueError: If `x` does not have this shape.
        """
        check_features(self, [x], channels=getattr(self.conv1, "in_channels", None))
        if eager(x):
            h, w, x = pool(x)
            return gate(x, *self._gates(h, w), self.gain)
        if recorded() and self._strips_are_independent():
            h, w = self._gate_over(x, 3, self.conv_h), self._gate_over(x, 2, self.conv_w)
        else:
            h, w = self.gates(x)
        return x * (w * self.gain) * h

    def _strips_are_independent(self) -> bool:
        """Return whether the normalisation computes no statistics, so that each strip can be processed alone."""
        norm = self.bn1
        return isinstance(norm, nn.Identity) or (not norm.training and getattr(norm, "running_mean", None) is not None)

    def _gate_over(self, x: Tensor, axis: int, conv: nn.Module) -> Tensor:
        """Compute one gate from the means over an axis, in plain layers: the exported graph has no reshape or split."""
        return conv(F.hardswish(self.bn1(self.conv1(x.mean(axis, keepdim=True))))).sigmoid()

    def fuse(self) -> None:
        """Fold the batch normalisation into the shared convolution, in place, for inference."""
        fold_norm(self, "conv1", "bn1")

    def neutral_(self) -> None:
        """Make the block the identity, in place: both gates 1/2 for every input, and a gain of 4."""
        for conv in (self.conv_h, self.conv_w):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.gain = 4.0

    def row(self) -> list[float]:
        """Return the arguments of this block's row in a model YAML."""
        return [self.reduction, self.gain]


def _pointwise(conv: nn.Module, strip: Tensor) -> Tensor:
    """Run a 1x1 convolution on a strip, shape (N, C, L), as a matrix product: several times faster on so few pixels.

    A convolution that is replaced by another class, wrapped or watched by hooks is called as it is.
    """
    if not eager(strip) or watched(conv) or type(conv) is not nn.Conv2d or conv.bias is None:
        return conv(strip.unsqueeze(3)).squeeze(3)
    weight = conv.weight.flatten(1).expand(len(strip), -1, -1)
    return torch.baddbmm(conv.bias.unsqueeze(1), weight, strip)
