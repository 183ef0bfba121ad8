"""The dual-path pyramid: a top-down semantic path and a bottom-up detail path, with spatial attention where they meet.

At each weighted fusion of the neck the detailed input P is gated by a spatial map made from the semantic input U,
P * (1 + gamma * A(U)), see `blocks.spatial_gate`. The detail path starts one level below the finest one, usually at P2,
from where a strided convolution leads into the first fusion of the finest level. With gamma = 0 and no weights on the
new edge this is the neck of `bifpn=concat`.

No paper of this name was found. The form is that of CBAM's spatial attention (arXiv 1807.06521), made from high levels
for low ones as in Pyramid Feature Attention (arXiv 1903.00179), around BiFPN's fusion (arXiv 1911.09070).
"""

from __future__ import annotations

from ..errors import GraftError
from ..graph.rows import level
from .necks import JOINS, backbone_feature
from .row_graph import Node, Rows

_FINEST = 4.0  # stride of the level from which details are taken; a neck that reaches it needs no edge


def add_detail(rows: Rows) -> None:
    """Lead the backbone feature below the finest level of a neck into the first concatenation of that level.

    Args:
        rows: Rows of the model, changed in place. A neck that reaches P2 stays as it is.

    Raises:
        GraftError: If there is no such feature or concatenation.
    """
    joins = [node for node in rows.neck if node.module == "Concat" and node.stride]
    if not joins:
        raise GraftError("neck=dualpath: there is no neck with two paths: no Concat in the head")
    join = min(joins, key=lambda node: node.stride or 0)  # the first of its level
    if (join.stride or 0) <= _FINEST:
        return
    reader = next((x for x in rows.nodes if x.inputs == [join]), None)
    width = reader.args[0] if reader is not None and reader.args and type(reader.args[0]) is int else 0
    if width < 2:
        raise GraftError(f"neck=dualpath: {rows.where(join)} is read by no row that names its channels")
    source = backbone_feature(rows, (join.stride or 0) / 2)
    first = next((x for x in join.inputs if x is not None and x.head), join)  # before the rows that make the level
    edge = rows.insert_before(first, "Conv", [width // 2, 3, 2], source, stride=join.stride)
    edge.note = f"{level(source.stride)} detail"
    join.inputs.append(edge)


def add_gates(rows: Rows) -> None:
    """Put a spatial gate before each detailed input of the weighted fusions of a neck.

    Args:
        rows: Rows of the model, changed in place.

    Raises:
        GraftError: If no fusion of the neck has both a detailed and a semantic input.
    """
    joins = [node for node in rows.neck if node.module in JOINS]
    if not [gate for join in joins for gate in _gate(rows, join)]:
        raise GraftError("neck=dualpath: no fusion of the neck has a detailed and a semantic input; neck=pan keeps it")


def _gate(rows: Rows, join: Node) -> list[Node]:
    """Put a gate before each detailed input of a fusion; return the gates."""
    arrivals = [_arrival(x) for x in join.inputs]
    top_down = "coarser" in arrivals
    semantic = next(
        (x for x, way in zip(join.inputs, arrivals) if way == "coarser" or (not top_down and way != "finer")), None
    )
    if semantic is None:
        return []
    gates = []
    for k, (detail, way) in enumerate(zip(join.inputs, arrivals)):
        if detail is not None and (way == "finer" or (top_down and way == "lateral")):
            gate = rows.insert_before(join, "SpatialGate", [], detail, semantic, stride=join.stride)
            gate.note = f"{level(join.stride)} {'detail' if way == 'finer' else 'backbone'}, gated"
            join.read(k, gate)
            gates.append(gate)
    return gates


def _arrival(node: Node | None) -> str:
    """Return where a feature arrives from: a `coarser` or `finer` level, the backbone (`lateral`), or its `level`."""
    while node is not None and node.head:
        source = node.inputs[0] if len(node.inputs) == 1 else None
        if source is None or source.stride is None or node.stride is None:
            return "level"
        if source.stride != node.stride:
            return "coarser" if source.stride > node.stride else "finer"
        node = source
    return "lateral"
