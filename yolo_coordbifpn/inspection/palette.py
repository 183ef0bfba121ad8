"""Styles that are distinct for the colour-blind, and in grey: each has its own colour, line and marker.

Colours: Okabe, Ito, "Color Universal Design", 2008.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

BLACK, BLUE, VERMILION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
PURPLE, SKY, ORANGE, GREY = "#CC79A7", "#56B4E9", "#E69F00", "#999999"
_COLOURS = (BLACK, BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, GREY)
_LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
_MARKERS = ("o", "v", "^", "s", "D", "P", "X", "*")
_PATHS = ("backbone", "top-down", "bottom-up", "neck")  # have the first styles, in this order


def style(number: int) -> dict[str, Any]:
    """Return a style: the first 8 differ in colour, line and marker, the first 64 in at least one of them."""
    turn, place = divmod(number, 8)
    other = (place + turn) % 8
    return {"color": _COLOURS[place], "linestyle": _LINES[other], "marker": _MARKERS[other]}


def path_styles(names: Iterable[str]) -> list[dict[str, Any]]:
    """Return a style for each input of a fusion, by its path if no other input has it.

    Args:
        names: Names of the inputs, such as `P5 top-down`.
    """
    numbers: list[int] = []
    for name in names:
        path = next((k for k, x in enumerate(_PATHS) if x in name), _PATHS.index("neck"))
        others = itertools.count(len(_PATHS))
        numbers.append(path if path not in numbers else next(k for k in others if k not in numbers))
    return [style(k) for k in numbers]
