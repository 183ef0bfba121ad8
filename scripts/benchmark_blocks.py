"""The blocks that scripts/benchmark.py times, and what it times them against."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

Autocast = Callable[[], AbstractContextManager[None]]


class Official(nn.Module):
    """Coordinate Attention by the paper's equations 4 to 9, one torch operation for each; parameters of CoordAtt."""

    def __init__(self, channels: int) -> None:
        """Build the block of the paper."""
        super().__init__()
        mip = max(8, channels // 32)
        self.rows, self.columns = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.conv1, self.bn1, self.act = nn.Conv2d(channels, mip, 1), nn.BatchNorm2d(mip), nn.Hardswish()
        self.conv_h, self.conv_w = nn.Conv2d(mip, channels, 1), nn.Conv2d(mip, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gate the features, shape (N, C, H, W)."""
        both = torch.cat((self.rows(x), self.columns(x).transpose(2, 3)), 2)
        h, w = self.act(self.bn1(self.conv1(both))).split(x.shape[2:], 2)
        return x * self.conv_w(w.transpose(2, 3)).sigmoid() * self.conv_h(h).sigmoid()


def timm_block(channels: int) -> dict[str, Any]:
    """Return timm's CoordAttn by its name, nothing if timm is not installed."""
    if not importlib.util.find_spec("timm"):
        return {}
    from timm.layers.coord_attn import CoordAttn

    return {"timm": CoordAttn(channels, rd_channels=max(8, channels // 32))}


def floor(x: Tensor) -> Tensor:
    """Read the features twice and write a tensor of their size, and nothing else."""
    x.sum()
    return x * 2.0


def scaled(xs: list[Tensor]) -> list[Tensor]:
    """Multiply each input by a number, the least that a weighted fusion does."""
    return [x * 0.5 for x in xs]


def block_step(m: nn.Module, x: Tensor, autocast: Autocast) -> Callable[[], None]:
    """Return a forward and backward pass of a block."""
    x = x.clone().requires_grad_()
    dy = torch.randn_like(x)

    def step() -> None:
        x.grad = None
        m.zero_grad()
        with autocast():
            y = m(x)
        y.backward(dy)

    return step


def kept(m: nn.Module, x: Tensor, autocast: Autocast) -> float:
    """Return what autograd keeps of one call, apart from the parameters, in sizes of the input."""
    own = {p.untyped_storage().data_ptr() for p in m.parameters()}
    sizes = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return t

    x = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), autocast():
        y = m(x)
    del y
    return sum(sizes.values()) / x.untyped_storage().nbytes()
