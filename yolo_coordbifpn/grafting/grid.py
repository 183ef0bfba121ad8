"""The grid activation, after a stage of the backbone."""

from __future__ import annotations

import re

from ..errors import GraftError
from .attention import stage
from .row_graph import Rows

_HEADS = re.compile(r"(v10|World|YOLOE)?(Detect|Segment|Pose|OBB)(26)?|RTDETRDecoder")  # those that find objects
_CELL = 64  # pixels, as in OAN


def add_grid(rows: Rows, level: str) -> None:
    """Let a stage of the backbone say in which images objects are.

    Args:
        rows: Rows of the model, changed in place.
        level: The stage, such as `P3`.

    Raises:
        GraftError: If the head finds no objects, the backbone has no such stage, or there is a grid already.
    """
    if not _HEADS.fullmatch(rows.last.module):
        raise GraftError(
            f"grid={level}: a grid is for heads of Ultralytics that find objects (Detect, Segment, Pose, OBB, "
            f"RTDETRDecoder and their variants), not for {rows.last.module}"
        )
    there = next((node for node in rows.nodes if node.module == "GridActivation"), None)
    if there is not None:
        raise GraftError(f"grid={level}: there is a GridActivation already: {rows.where(there)}")
    node = stage(rows, level)
    cell = _CELL // 2 ** int(level[1:])
    rows.insert_after(
        node, "GridActivation", [] if cell == 8 else [cell]
    ).note = f"{level}, images without objects are skipped from here on"
