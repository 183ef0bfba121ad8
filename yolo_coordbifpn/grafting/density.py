"""The density head of adaptive NMS, beside the head of a model."""

from __future__ import annotations

import re

from ..errors import GraftError
from .row_graph import Rows

_HEADS = re.compile(r"(v10|World|YOLOE)?(Detect|Segment|Pose|OBB)(26)?")  # those whose boxes go through NMS


def add_densities(rows: Rows) -> None:
    """Give a model a density head that reads what its head reads.

    Args:
        rows: Rows of the model, changed in place.

    Raises:
        GraftError: If the head has no boxes for NMS, or there is a density head already.
    """
    head = rows.last
    if not _HEADS.fullmatch(head.module):
        raise GraftError(
            "nms=adaptive: densities are for heads of Ultralytics whose boxes go through NMS (Detect, Segment, Pose, "
            f"OBB and their variants), not for {head.module}"
        )
    there = next((node for node in rows.neck if node.module == "DensityHead"), None)
    if there is not None:
        raise GraftError(f"nms=adaptive: there is a DensityHead already: {rows.where(there)}")
    new = rows.append("DensityHead", [], *(x for x in head.inputs if x is not None))
    new.listed, new.written = True, [0] * len(new.inputs)  # by index, as in the row of the head
    new.note = "densities for adaptive NMS"
