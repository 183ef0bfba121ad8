"""The blocks themselves: plain PyTorch modules that import nothing but torch."""

from .bifpn import BiFPN_Add, BiFPN_Concat
from .coordatt import CoordAtt
from .separable import SeparableConv

__all__ = ["BiFPN_Add", "BiFPN_Concat", "CoordAtt", "SeparableConv"]
