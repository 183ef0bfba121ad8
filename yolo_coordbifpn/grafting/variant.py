"""What can be put into a model: the options of a graft, and the name that they have in file names."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import GraftError


@dataclass(frozen=True)
class Variant:
    """What to put into a model.

    Attributes:
        coordatt: Where attention goes: `P2`...`P5` for the end of that stage of the backbone (the deepest one ends
            before its pooling), `deepest`, `N3`...`N5` for the neck output of that level, `bottleneck` for the inside
            of the backbone's bottlenecks, several with commas between; `none`.
        bifpn: `concat` to weight every concatenation of the neck, `add` for the neck of the BiFPN paper, `none`.
        neck: `pan` to keep the neck's paths, `fpn` for its top-down path alone.
        attention: Class name of the attention block: `CoordAtt`, `CBAM`, `SE`, or one of your own that is registered.
        edge: With bifpn, whether the middle levels get the same-level edge from the backbone.
        repeats: With `bifpn="add"`, how many times the layer is repeated; 3 in EfficientDet-D0.
        width: With `bifpn="add"`, channels of all levels before the model's width multiple; 256 makes the 64 of
            EfficientDet-D0 at scale n.
    """

    coordatt: str = "P5"
    bifpn: str = "concat"
    neck: str = "pan"
    attention: str = "CoordAtt"
    edge: bool = True
    repeats: int = 3
    width: int = 256

    def __post_init__(self) -> None:
        """Refuse what no variant can be.

        Raises:
            GraftError: If an option is not one of those that there are, or the options contradict each other.
        """
        for name, choices in (("bifpn", ("concat", "add", "none")), ("neck", ("pan", "fpn"))):
            if getattr(self, name) not in choices:
                raise GraftError(
                    f"{name}= must be {', '.join(choices[:-1])} or {choices[-1]}, got {getattr(self, name)!r}"
                )
        for name in ("coordatt", "attention"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise GraftError(f"{name}= must be a name, got {getattr(self, name)!r}")
        if type(self.edge) is not bool:
            raise GraftError(f"edge= must be True or False, got {self.edge!r}")
        for name, most in (("repeats", 100), ("width", 65536)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise GraftError(f"{name}= must be a positive whole number up to {most}, got {value!r}")
        if self.neck == "fpn" and self.bifpn == "add":
            raise GraftError("neck=fpn and bifpn=add are two necks; give one of them")
        if (self.coordatt, self.bifpn, self.neck) == ("none", "none", "pan"):
            raise GraftError("coordatt=none, bifpn=none and neck=pan together leave nothing to do")

    @property
    def name(self) -> str:
        """Return the variant's name as it goes into file names."""
        attention = self.attention.lower() if self.coordatt != "none" else ""
        fusion = {"concat": "bifpn", "add": "bifpn-add", "none": ""}[self.bifpn]
        return "-".join(x for x in (attention, "fpn" if self.neck == "fpn" else "", fusion) if x)
