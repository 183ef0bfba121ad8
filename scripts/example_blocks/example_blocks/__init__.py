"""Two blocks: an attention without parameters, and one that changes the number of channels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from yolo_coordbifpn import block


@block()
class SimAM(nn.Module):
    """Attention by an energy function of each pixel.

    Source: Yang, Zhang, Li, Xie, "SimAM: A Simple, Parameter-Free Attention Module", ICML 2021, equation 5.

    Row of a model YAML: `[-1, 1, SimAM, []]` or `[lambda]`.
    """

    def __init__(self, channels: int, balance: float = 1e-4) -> None:
        """Build the block; `balance` is the paper's lambda."""
        super().__init__()
        self.balance = balance

    def forward(self, x: Tensor) -> Tensor:
        """Gate each pixel of features of shape (N, C, H, W)."""
        spread = (x - x.mean((2, 3), keepdim=True)).square()
        energy = spread / (4 * (spread.mean((2, 3), keepdim=True) + self.balance)) + 0.5
        return x * energy.sigmoid()


def _channels(c1: Any, args: list[Any]) -> tuple[int, list[Any]]:
    """Return the output channels of a row with input channels `c1`, and the arguments of the constructor."""
    return 4 * c1, [c1]


@block(_channels, paper="2208.03641")
class SpaceToDepth(nn.Module):
    """Each 2 x 2 pixels become one with four times as many channels, so that downsampling loses nothing.

    Source: Sunkara, Luo, "No More Strided Convolutions or Pooling", ECML PKDD 2022, arXiv 2208.03641, section 3.

    Row of a model YAML: `[-1, 1, SpaceToDepth, []]`.
    """

    def __init__(self, channels: int) -> None:
        """Build the block; it has no weights."""
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Rearrange features of shape (N, C, H, W) to (N, 4 C, H // 2, W // 2); an odd row or column is dropped."""
        height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
        return nn.functional.pixel_unshuffle(x[:, :, :height, :width], 2)
