"""Coordinate Attention and BiFPN's weighted fusion for Ultralytics YOLO, without editing Ultralytics.

Importing this package only arms the start-up hook; torch is imported when one of the names below is first used.
"""

from .patches import hook as _hook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .blocks import BiFPN_Add, BiFPN_Concat, CoordAtt, SpatialGate
    from .blocks.declaration import block
    from .errors import GraftError, HostError, InspectError, RowError, WeightsError
    from .grafting.graft import graft
    from .grafting.names import model_yaml
    from .inspection.inspect import fusion_weights, inspect
    from .patches.install import install, register, uninstall

__version__ = "0.1.0"
__all__ = [
    "BiFPN_Add",
    "BiFPN_Concat",
    "CoordAtt",
    "GraftError",
    "HostError",
    "InspectError",
    "RowError",
    "SpatialGate",
    "WeightsError",
    "block",
    "fusion_weights",
    "graft",
    "inspect",
    "install",
    "model_yaml",
    "register",
    "uninstall",
]

_HOME = {  # module of each public name
    "BiFPN_Add": ".blocks",
    "BiFPN_Concat": ".blocks",
    "CoordAtt": ".blocks",
    "GraftError": ".errors",
    "HostError": ".errors",
    "InspectError": ".errors",
    "RowError": ".errors",
    "SpatialGate": ".blocks",
    "WeightsError": ".errors",
    "block": ".blocks.declaration",
    "fusion_weights": ".inspection.inspect",
    "graft": ".grafting.graft",
    "inspect": ".inspection.inspect",
    "install": ".patches.install",
    "model_yaml": ".grafting.names",
    "register": ".patches.install",
    "uninstall": ".patches.install",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    """List the public names for completion."""
    return sorted({*globals(), *__all__})


_hook.arm()
