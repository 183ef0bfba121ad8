"""The two passes of Coordinate Attention over its features: averaging them to strips, gating them by strips.

Source: Hou, Zhou, Feng, "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021, arXiv 2103.02907,
equations 4, 5 and 9. With s_h = mean_j x, s_w = mean_i x and y = gain * x * h * w, where the gates h and w are computed
from the strips, the gradients are

    dh = gain * sum_j dy * x * w,    dw = gain * sum_i dy * x * h,    dx = gain * dy * h * w + ds_h / W + ds_w / H.

With these gradients written out, training keeps only x, where autograd keeps x and x * w, and the backward pass sums dx
in one tensor, where autograd adds three. Both passes are for eager execution, see `dispatch.eager`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .dispatch import channels_last


def pool(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Average the features over each row and over each column.

    Args:
        x: Features, shape (N, C, H, W).

    Returns:
        Means of the rows, shape (N, C, H); means of the columns, shape (N, C, W); the features, for `gate`.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return _Pool.apply(x)
    return *_means(x), x


def gate(x: Tensor, h: Tensor, w: Tensor, gain: float) -> Tensor:
    """Scale the features by a factor for each row and one for each column, equation 9.

    Args:
        x: Features, shape (N, C, H, W), from `pool`.
        h: Height gate, shape (N, C, H).
        w: Width gate, shape (N, C, W).
        gain: Constant factor.

    Returns:
        gain * x * h * w, shape (N, C, H, W), in the dtype to which torch promotes those of features and gates.
    """
    dtype = torch.promote_types(x.dtype, h.dtype)  # under autocast the gates may be narrower than the features
    h, w = h.to(dtype), w.to(dtype)
    if channels_last(x):
        h, w = (g.transpose(1, 2).contiguous().transpose(1, 2) for g in (h, w))
    if torch.is_grad_enabled() and (x.requires_grad or h.requires_grad or w.requires_grad):
        return _Gate.apply(x, h, w, gain)
    return _product(x, h, w, gain)


class _Pool(Function):
    """Means of rows and columns. The features pass through, so that their gradient is summed in one place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return *_means(x), x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dh: Tensor, dw: Tensor, dx: Tensor) -> Tensor:
        height, width = dx.shape[2:]
        return (dx + (dh / width).unsqueeze(3)).add_((dw / height).unsqueeze(2))


class _Gate(Function):
    """The product of features and gates, which keeps only its three factors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor, w: Tensor, gain: float) -> Tensor:
        ctx.save_for_backward(x, h, w)
        ctx.gain = gain
        return _product(x, h, w, gain)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, h, w = ctx.saved_tensors
        product = dy * x
        dw = _over_rows(product * h.unsqueeze(3)).mul_(ctx.gain)
        dh = _over_columns(product * w.unsqueeze(2)).mul_(ctx.gain)
        del product
        # dy first: with a batch of gradients, as `is_grads_batched` gives, only dy has the batch
        dx = (dy * (h * ctx.gain).unsqueeze(3)).mul_(w.unsqueeze(2))
        return dx, dh, dw, None


def _product(x: Tensor, h: Tensor, w: Tensor, gain: float) -> Tensor:
    """Multiply the strips first: their product is written without reading the features, which are then read once."""
    return ((h * gain).unsqueeze(3) * w.unsqueeze(2)).mul_(x)


def _means(x: Tensor) -> tuple[Tensor, Tensor]:
    """Average (N, C, H, W) to (N, C, H) and (N, C, W)."""
    if channels_last(x):
        x = x.permute(0, 2, 3, 1)
        return x.mean(2).transpose(1, 2), x.mean(1).transpose(1, 2)
    return x.mean(3), x.mean(2)


def _over_columns(x: Tensor) -> Tensor:
    """Sum (N, C, H, W) to (N, C, H)."""
    return x.permute(0, 2, 3, 1).sum(2).transpose(1, 2) if channels_last(x) else x.sum(3)


def _over_rows(x: Tensor) -> Tensor:
    """Sum (N, C, H, W) to (N, C, W)."""
    return x.permute(0, 2, 3, 1).sum(1).transpose(1, 2) if channels_last(x) else x.sum(2)
