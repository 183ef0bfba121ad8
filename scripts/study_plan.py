"""What the study trains: treatments of the stock model, and the stages that compare them. See study.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Treatment:
    """What is changed in the stock model.

    Attributes:
        blocks: Options of `graft`; the stock model if there are none.
        rate: Factor on the learning rate of the blocks' parameters.
        start: How the blocks start beside pretrained weights.
        scale: Scale of YOLO11.
        larger: Pixels added to the stage's image size.
    """

    blocks: dict[str, Any] = field(default_factory=dict)
    rate: float = 1.0
    start: str = "gain"
    scale: str = "n"
    larger: int = 0


@dataclass(frozen=True)
class Stage:
    """Treatments that are compared with each other.

    Attributes:
        data: `hituav` or `bccd`.
        epochs: Length of each training.
        imgsz: Image size in pixels.
        seeds: A treatment is trained with each.
        treatments: Names of the treatments.
        carried: Those that are trained with more than the first seed; all if empty.
        pretrained: Start from COCO weights, or from scratch.
        best: Validate after every epoch and take the best one; otherwise the last is taken, in a fifth less time.
    """

    data: str
    epochs: int
    imgsz: int
    seeds: tuple[int, ...]
    treatments: tuple[str, ...]
    carried: tuple[str, ...] = ()
    pretrained: bool = True
    best: bool = False


_CA = {"coordatt": "P5", "bifpn": "none"}
_BOTH = {"coordatt": "P5", "bifpn": "concat"}
_BIFPN = {"coordatt": "none", "bifpn": "concat"}
TREATMENTS = {
    "stock": Treatment(),
    "stock+32px": Treatment(larger=32),
    "stock+64px": Treatment(larger=64),
    "stock-s": Treatment(scale="s"),
    "coordatt": Treatment(_CA),
    "coordatt-x16": Treatment(_CA, 16),
    "bifpn": Treatment(_BIFPN),
    "bifpn-x16": Treatment(_BIFPN, 16),
    "bifpn-noedge-x16": Treatment({**_BIFPN, "edge": False}, 16),
    "bifpn-add": Treatment({"coordatt": "none", "bifpn": "add"}),
    "coordatt-bifpn": Treatment(_BOTH),
    "coordatt-bifpn-x4": Treatment(_BOTH, 4),
    "coordatt-bifpn-x16": Treatment(_BOTH, 16),
    "coordatt-bifpn-open-x16": Treatment(_BOTH, 16, "open"),
    "coordatt-bifpn-residual": Treatment(_BOTH, 1, "residual"),
    "coordatt-bifpn-residual-x16": Treatment(_BOTH, 16, "residual"),
    "P3-P5-x16": Treatment({"coordatt": "P3,P4,P5", "bifpn": "none"}, 16),
    "N3-N5": Treatment({"coordatt": "N3,N4,N5", "bifpn": "none"}),
    "N3-N5-x16": Treatment({"coordatt": "N3,N4,N5", "bifpn": "none"}, 16),
    "bottleneck-x16": Treatment({"coordatt": "bottleneck", "bifpn": "none"}, 16),
    "stock+96px": Treatment(larger=96),
    "p2": Treatment({"coordatt": "none", "bifpn": "none", "levels": "P2"}),
    "dualpath": Treatment({"coordatt": "none", "neck": "dualpath"}),
    "all-x16": Treatment({"coordatt": "P3,P4,P5,N3,N4,N5,bottleneck", "bifpn": "concat"}, 16),
}
_LEVELS = ("stock", "p2", "dualpath", "coordatt-bifpn", "stock+96px")
_SCREENED = tuple(x for x in TREATMENTS if x not in ("stock-s", "bifpn-add", "stock+96px", "p2", "dualpath"))
# The best five with the first seed, then the best two with both.
_CARRIED = ("all-x16", "P3-P5-x16", "coordatt-bifpn-open-x16", "bottleneck-x16", "coordatt-bifpn-x16")
_CONFIRMED = ("stock", "P3-P5-x16", "coordatt-bifpn-open-x16")
_FROM_SCRATCH = ("stock", "coordatt-bifpn", "bifpn-add", "stock-s")
STAGES = {
    "levels-hituav": Stage("hituav", 20, 320, (0, 1, 2), _LEVELS, best=True),
    "levels-bccd": Stage("bccd", 20, 256, (0, 1, 2), _LEVELS, best=True),
    "screen-hituav": Stage("hituav", 12, 320, (0, 1), _SCREENED, carried=("stock", *_CARRIED)),
    "confirm-hituav": Stage("hituav", 30, 320, tuple(range(10, 18)), _CONFIRMED),
    "confirm-bccd": Stage("bccd", 20, 256, tuple(range(10, 18)), _CONFIRMED),
    "scratch-bccd": Stage("bccd", 60, 256, (0, 1), _FROM_SCRATCH, carried=_FROM_SCRATCH[:2], pretrained=False),
}
