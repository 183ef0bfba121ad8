"""Batch normalisation folded into the convolution before it, for inference."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_norm(block: nn.Module, conv: str, norm: str) -> None:
    """Fold a batch normalisation into a convolution, in place.

    A convolution that was replaced, for example by a quantised one, is not changed.

    Args:
        block: The block that has both.
        conv: Name of the convolution in the block.
        norm: Name of the batch normalisation, which becomes an `nn.Identity`.
    """
    convolution, normalisation = getattr(block, conv), getattr(block, norm)
    if isinstance(normalisation, nn.BatchNorm2d) and type(convolution) is nn.Conv2d:
        setattr(block, conv, fuse_conv_bn_eval(convolution.eval(), normalisation.eval()))
        setattr(block, norm, nn.Identity())
