"""Putting the blocks into a model YAML: where they go is found from the graph, and every index is shifted."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ..errors import GraftError

Row = list[Any]  # [from, repeats, module, args]


def graft(
    cfg: dict[str, Any], strides: Sequence[float | None], coordatt: str = "P5", bifpn: str = "concat"
) -> dict[str, Any]:
    """Put the blocks into a model YAML.

    Args:
        cfg: The model YAML as a dict, with `backbone` and `head`.
        strides: For each row how many image pixels one cell of its output is wide, None where it is not a feature map.
        coordatt: "P5" for a CoordAtt at the end of the backbone's deepest stage, before SPPF; "none".
        bifpn: "concat" to weight every concatenation of the neck, with an edge from the backbone to each middle level
            of the bottom-up path; "none".

    Returns:
        A new YAML dict; `cfg` stays as it is.

    Raises:
        GraftError: If an option is unknown, or there is no place for a block.
    """
    for name, value, choices in (("coordatt", coordatt, ("P5", "none")), ("bifpn", bifpn, ("concat", "none"))):
        if value not in choices:
            raise GraftError(f"{name}= must be {' or '.join(choices)}, got {value!r}")
    cfg = copy.deepcopy(cfg)
    rows: list[Row] = cfg["backbone"] + cfg["head"]
    size = len(cfg["backbone"])
    if bifpn == "concat":
        _weigh_concats(rows, size, strides)
    if coordatt == "P5":
        place = _deep_stage(rows, size, strides)
        insert_after(rows, place, [-1, 1, "CoordAtt", []])
        size += 1
    cfg["backbone"], cfg["head"] = rows[:size], rows[size:]
    return cfg


def sources(rows: Sequence[Row], index: int) -> list[int]:
    """Return the indices of the layers that a row reads; -1 is the image."""
    f = rows[index][0]
    return [(index + k if k < 0 else k) for k in (f if isinstance(f, list) else [f])]


def insert_after(rows: list[Row], place: int, row: Row) -> None:
    """Insert a row that reads the layer at `place`, in place; all that read that layer read the new one then.

    Args:
        rows: Rows of backbone and head together.
        place: Index of the layer to read.
        row: The new row, with `from` -1.
    """

    def moved(index: int) -> int:
        return index + 1 if index >= place else index

    for i in range(place + 1, len(rows)):
        f = rows[i][0]
        absolute = [moved(k) for k in sources(rows, i)]
        given = f if isinstance(f, list) else [f]
        # what was written as "the layer before" stays so where it still is
        new = [-1 if g == -1 and a == i else a for g, a in zip(given, absolute)]
        rows[i][0] = new if isinstance(f, list) else new[0]
    rows.insert(place + 1, row)


def _deep_stage(rows: Sequence[Row], size: int, strides: Sequence[float | None]) -> int:
    """Return the index of the last layer of the backbone's deepest stage, before the pooling that follows it."""
    if any(row[2] == "CoordAtt" for row in rows[:size]):
        raise GraftError("the backbone has a CoordAtt already")
    pooling = next((i for i in range(1, size) if str(rows[i][2]).startswith("SPP")), size)
    place = pooling - 1
    if strides[place] is None or strides[place] != max(s for s in strides[:size] if s is not None):
        raise GraftError(f"row {place} {rows[place]} is not a feature map of the backbone's deepest stage")
    return place


def _weigh_concats(rows: Sequence[Row], size: int, strides: Sequence[float | None]) -> None:
    """Turn the concatenations of the neck into weighted ones, in place, and add the same-level edges."""
    joins = [i for i in range(size, len(rows)) if rows[i][2] == "Concat"]
    if not joins:
        what = "weighted already" if any(row[2] == "BiFPN_Concat" for row in rows) else "no Concat in the head"
        raise GraftError(f"the model has no neck to weigh: {what}")
    levels = sorted({s for s in (strides[k] for k in sources(rows, len(rows) - 1)) if s is not None})
    edges = {}  # stride of a level -> the backbone layer that its top-down node reads
    for i in joins:
        read = sources(rows, i)
        backbone = [k for k in read if k < size]
        if backbone and strides[i] not in edges:
            edges[strides[i]] = backbone[-1]
        elif not backbone and strides[i] in levels[1:-1] and strides[i] in edges:
            rows[i][0].append(edges[strides[i]])
        rows[i][2] = "BiFPN_Concat"
