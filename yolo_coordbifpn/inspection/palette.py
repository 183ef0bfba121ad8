"""Colours, markers and lines that are distinct for the colour-blind, and in grey.

Colours: Okabe, Ito, "Color Universal Design", 2008.
"""

from __future__ import annotations

from typing import Any

BLACK, BLUE, VERMILION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
PURPLE, SKY, ORANGE, GREY = "#CC79A7", "#56B4E9", "#E69F00", "#999999"
COLOURS = (BLACK, BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, GREY)
PATHS: dict[str, dict[str, Any]] = {  # style of an input by its path
    "backbone": {"color": BLACK, "linestyle": "-", "marker": "o"},
    "top-down": {"color": BLUE, "linestyle": "--", "marker": "v"},
    "bottom-up": {"color": VERMILION, "linestyle": "-.", "marker": "^"},
    "neck": {"color": GREEN, "linestyle": ":", "marker": "s"},
}


def path_style(name: str) -> dict[str, Any]:
    """Return the style of an input by its name, such as `P5 top-down`."""
    return next((style for path, style in PATHS.items() if path in name), PATHS["neck"])
