"""The blocks: plain PyTorch modules that import only torch. Every class with `@block()` in this folder is registered.

declaration.py      the decorator
coordatt.py, bifpn.py, spatial_gate.py, separable.py, density.py, grid.py, se.py, cbam.py   the blocks
timm_attention.py   the attention modules of timm as blocks
rezero.py, gain.py  two ways to initialise a block as the identity, for pretrained weights
strips.py           the two passes of Coordinate Attention over its features
overlap.py          IoU of boxes, also of rotated ones
folding.py          batch normalisation folded into a convolution
dispatch.py         how torch runs a block
checks.py           checks of arguments and features
"""

from .bifpn import BiFPN_Add, BiFPN_Concat
from .coordatt import CoordAtt
from .separable import SeparableConv
from .spatial_gate import SpatialGate

__all__ = ["BiFPN_Add", "BiFPN_Concat", "CoordAtt", "SeparableConv", "SpatialGate"]
