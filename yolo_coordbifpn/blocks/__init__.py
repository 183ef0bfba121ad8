"""The blocks: plain PyTorch modules that import only torch."""

from .bifpn import BiFPN_Add, BiFPN_Concat
from .coordatt import CoordAtt
from .separable import SeparableConv

__all__ = ["BiFPN_Add", "BiFPN_Concat", "CoordAtt", "SeparableConv"]
