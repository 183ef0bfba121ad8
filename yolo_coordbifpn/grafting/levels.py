"""Detection levels: a finer one, such as P2, added to the neck, and the coarsest ones removed from the head.

The new level continues the top-down path as the host's own P2 models do: upsampling, concatenation with the backbone's
feature of that level, and the block that makes the level before it, at half the width. The head lists it last. So the
levels that were there keep their places and widths in the head, and with these their pretrained weights.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from ..errors import GraftError
from ..graph.rows import KEY, level
from .necks import backbone_feature
from .row_graph import Node, Rows

_HEADS = re.compile(r"(v10)?(Detect|Segment|Pose|OBB)(26)?")  # each level has branches of its own in them
_AREA_ATTENTION = "A2C2f"  # of YOLO12; it needs a multiple of 32 channels inside
_LEAST_WIDTH = 16  # smaller numbers in a row are no channels


def set_levels(rows: Rows, levels: str) -> None:
    """Add finer levels to the neck and the head, and take coarser ones from the head.

    The YAML gets `KEY`, by which the loading of pretrained weights knows that it has to align layers.

    Args:
        rows: Rows of the model, changed in place.
        levels: `P2` to add this level, or a range such as `P2-P4` that the head is to read.

    Raises:
        GraftError: If the head cannot have these levels, or has them already.
    """
    outputs = _outputs(rows, levels)
    finest, coarsest = (2.0 ** int(x[1]) for x in (levels.split("-") * 2)[:2])
    if "-" not in levels:
        coarsest = max(outputs)
    there = f"the head reads {', '.join(map(level, sorted(outputs)))}"
    if coarsest not in outputs:
        raise GraftError(f"levels={levels}: {there}; a coarser level than these cannot be added")
    if finest > min(outputs):
        raise GraftError(f"levels={levels}: {there}; only coarse levels can be removed")
    if finest == min(outputs) and coarsest == max(outputs):
        raise GraftError(f"levels={levels}: {there} already")
    stride = min(outputs)
    while stride > finest:
        outputs[stride / 2] = _finer(rows, outputs[stride], levels)
        stride /= 2
    keep = [node for node in outputs.values() if node.stride and node.stride <= coarsest]
    rows.last.inputs, rows.last.written = [*keep], [0] * len(keep)
    rows.last.note = "now " + ", ".join(level(node.stride) for node in keep)
    rows.prune()
    rows.keys[KEY] = {**rows.keys.get(KEY, {}), "levels": levels}


def _outputs(rows: Rows, levels: str) -> dict[float, Node]:
    """Return the neck's outputs that the head reads, by stride in the order of the head.

    Raises:
        GraftError: If the head has no levels of its own to add to.
    """
    head = rows.last
    if not _HEADS.fullmatch(head.module):
        raise GraftError(
            f"levels={levels}: the heads Detect, Segment, Pose and OBB can have other levels, {head.module} cannot"
        )
    if "anchors" in head.args:
        raise GraftError(f"levels={levels}: the YAML lists anchors for each level; add the level and its anchors there")
    found = {x.stride: x for x in head.inputs if x is not None and x.stride}
    if not found or len(found) < len(head.inputs):
        raise GraftError(f"levels={levels}: the head reads other things than one feature map for each level")
    return found


def _finer(rows: Rows, coarse: Node, levels: str) -> Node:
    """Append the top-down node of the next finer level to the neck, and return it."""
    stride = (coarse.stride or 0) / 2
    try:
        lateral = backbone_feature(rows, stride)
    except GraftError as error:
        raise GraftError(f"levels={levels}: {error}") from error
    like = coarse
    while like.head and len(like.inputs) == 1 and like.inputs[0] is not None and not _joins(like.inputs[0]):
        like = like.inputs[0]
    if like.module == _AREA_ATTENTION:
        like = lateral
    if like.facts.guided or (not like.head and like is not lateral):
        raise GraftError(
            f"levels={levels}: {rows.where(coarse)} is made in a way that cannot be repeated at {level(stride)}"
        )
    up = rows.append("nn.Upsample", ["None", 2, "nearest"], coarse, stride=stride)
    join = rows.append("Concat", [1], up, lateral, stride=stride)
    join.note = f"backbone {level(stride)}"
    node = rows.append(like.module, _halved(like.args), join, stride=stride)
    node.repeats, node.note = like.repeats, f"({level(stride)}/{stride:g})"
    return node


def _joins(node: Node) -> bool:
    """Return whether a row joins several layers."""
    return len(node.inputs) > 1


def _halved(args: list[Any]) -> list[Any]:
    """Halve the channels in the arguments of a row."""
    return [x // 2 if type(x) is int and x >= _LEAST_WIDTH else copy.deepcopy(x) for x in args]
