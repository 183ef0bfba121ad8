"""The density head of adaptive NMS, beside the head of a model."""

from __future__ import annotations

import re

from ..errors import GraftError
from .row_graph import Node, Rows

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
    put_densities(rows, [Node("DensityHead", [], [], listed=True, note="densities for adaptive NMS")])


def take_densities(rows: Rows) -> list[Node]:
    """Take the density heads out of the rows and return them, so that the neck can change."""
    found = [node for node in rows.neck if node.module == "DensityHead"]
    rows.nodes = [node for node in rows.nodes if node not in found]
    return found


def put_densities(rows: Rows, densities: list[Node]) -> None:
    """Put density heads before the last row, with the inputs that it has now.

    Args:
        rows: Rows of the model, changed in place.
        densities: What `take_densities` returns, or new ones.
    """
    for node in densities:
        node.inputs = [*rows.last.inputs]
        node.written = [0] * len(node.inputs)  # by index, as in the row of the head
        rows.nodes.insert(-1, node)
