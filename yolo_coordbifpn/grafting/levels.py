"""Detection levels: a finer one, such as P2, added to the neck, and the coarsest ones removed from the head.

The new level continues the top-down path: the weighted sum of the enlarged level before it and the backbone's feature
of that level, brought to the same width. The head lists it last, so the levels that were there keep their places and
widths in the head, and with these their pretrained weights. With pretrained weights the backbone's feature is added
with weight 0 at first, and the level's branch in the head is that of the level before it, see `graph.head_levels`.

The host's own P2 models concatenate, and make the new level with a block that has no pretrained weights: its boxes are
random at first, and the assigner gives such a level next to nothing to learn from beside levels that are trained.
"""

from __future__ import annotations

import re

from ..errors import GraftError
from ..graph.rows import KEY, level
from .necks import backbone_feature
from .row_graph import Node, Rows

_HEADS = re.compile(r"(v10)?(Detect|Segment|Pose|OBB)(26)?")  # each level has branches of its own in them
_SUM = (1e-4, 2.0001)  # arguments of the weighted sum: each weight is 1 at first


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
    up = rows.append("nn.Upsample", ["None", 2, "nearest"], coarse, stride=stride)
    detail = rows.append("Conv", [_width(rows, coarse, levels), 1, 1], lateral, stride=stride)
    detail.note = f"backbone {level(stride)}"
    node = rows.append("BiFPN_Add", [*_SUM], up, detail, stride=stride)
    node.note = f"({level(stride)}/{stride:g})"
    return node


def _width(rows: Rows, node: Node, levels: str) -> int:
    """Return the channels that a row names, or the rows before it that have made its feature map."""
    if node.module == "BiFPN_Add":  # of another new level
        return _width(rows, node.inputs[1], levels)  # type: ignore[arg-type]
    while node.head and (not node.args or type(node.args[0]) is not int):
        if len(node.inputs) != 1 or node.inputs[0] is None or node.inputs[0].stride != node.stride:
            break
        node = node.inputs[0]
    if not node.args or type(node.args[0]) is not int:
        raise GraftError(f"levels={levels}: {rows.where(node)} does not name its channels, which the new level gets")
    return int(node.args[0])
