"""What a variant puts into a model: its options, and its name in file names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import GraftError
from ..registry import TABLE


@dataclass(frozen=True)
class Variant:
    """What to put into a model: the options of `graft`, which explains each."""

    coordatt: str = "deepest"
    bifpn: str = "concat"
    neck: str = "pan"
    attention: str = "CoordAtt"
    edge: bool | None = None
    repeats: int | None = None
    width: int | None = None
    levels: str | None = None
    nms: str = "plain"
    grid: str = "none"

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            GraftError: If the value of an option is not allowed, or the options contradict each other.
        """
        allowed = {
            "bifpn": ("concat", "add", "none"),
            "neck": ("pan", "fpn", "dualpath"),
            "nms": ("plain", "adaptive"),
            "grid": ("P3", "P4", "none"),
        }
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                raise GraftError(
                    f"{name}= must be {', '.join(choices[:-1])} or {choices[-1]}, got {getattr(self, name)!r}"
                )
        for name in ("coordatt", "attention"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise GraftError(f"{name}= must be a name, got {getattr(self, name)!r}")
        if self.edge is not None and type(self.edge) is not bool:
            raise GraftError(f"edge= must be True or False, got {self.edge!r}")
        for name, most in (("repeats", 100), ("width", 65536)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 1 <= value <= most):
                raise GraftError(f"{name}= must be a positive whole number up to {most}, got {value!r}")
        for name, has_effect, needs in (
            ("edge", self.bifpn != "none", "bifpn=concat or bifpn=add"),
            ("repeats", self.bifpn == "add", "bifpn=add"),
            ("width", self.bifpn == "add", "bifpn=add"),
        ):
            if getattr(self, name) is not None and not has_effect:
                raise GraftError(f"{name}= has no effect with bifpn={self.bifpn}; it needs {needs}")
        if self.attention != "CoordAtt" and self.coordatt == "none":
            raise GraftError(
                f"attention={self.attention} has no effect with coordatt=none; give its places, as coordatt="
            )
        if self.neck != "pan" and self.bifpn == "add":
            raise GraftError(f"neck={self.neck} and bifpn=add are two necks; choose one of them")
        if self.neck == "dualpath" and self.bifpn == "none":
            raise GraftError("neck=dualpath is made around the weighted fusions; it needs bifpn=concat")
        if self.levels is not None and not _is_levels(self.levels):
            raise GraftError(f"levels= must be P2, or a range such as P2-P4, got {self.levels!r}")
        if not self.name:
            raise GraftError(
                "coordatt=none, bifpn=none, neck=pan, nms=plain and grid=none together, without levels=, leave nothing "
                "to do"
            )

    @property
    def name(self) -> str:
        """Return the variant's name in file names, such as `coordatt-bifpn`; what is not the default is part of it."""
        parts, dual = [], self.neck == "dualpath"
        if self.coordatt != "none":
            places = [x.strip() for x in self.coordatt.split(",")]
            parts += [TABLE.word(self.attention), *(places if places != ["deepest"] else [])]
        parts += [self.neck] if self.neck != "pan" else []
        parts += [{"concat": "bifpn", "add": "bifpn-add"}[self.bifpn]] if self.bifpn != "none" and not dual else []
        parts += ["noedge"] if self.edge is False else []
        parts += [f"r{self.repeats}"] if self.repeats not in (None, 3) else []
        parts += [f"w{self.width}"] if self.width not in (None, 256) else []
        parts += [self.levels.lower()] if self.levels else []
        parts += ["anms"] if self.nms == "adaptive" else []
        parts += {"none": [], "P3": ["grid"]}.get(self.grid, ["grid", self.grid])
        return "-".join(parts)


def _is_levels(levels: object) -> bool:
    """Return whether an option is a level or a range of levels, from fine to coarse."""
    match = re.fullmatch(r"P([2-7])(?:-P([2-7]))?", levels) if isinstance(levels, str) else None
    return match is not None and (match[2] is None or match[1] < match[2])
