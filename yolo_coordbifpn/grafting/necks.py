"""Necks: the weighted concatenation, the top-down path alone, and the neck of the BiFPN paper.

Source: Tan, Pang, Le, "EfficientDet: Scalable and Efficient Object Detection", CVPR 2020, arXiv 1911.09070, figure 2
(FPN, PANet, BiFPN) and section 3. The levels are found from the strides of the built model.
"""

from __future__ import annotations

from ..errors import GraftError
from ..graph.rows import KEY, level
from .row_graph import Node, Rows

JOINS = ("BiFPN_Concat", "BiFPN_Add")


def weigh(rows: Rows, edge: bool) -> None:
    """Replace the concatenations of the neck by weighted ones.

    Args:
        rows: Rows of the model, changed in place.
        edge: Whether the bottom-up node of each middle level also reads the backbone feature that its top-down node
            reads: the same-level edge of the paper.

    Raises:
        GraftError: If there is no neck, or it is weighted already.
    """
    _refuse_weighted(rows)
    joins = [node for node in rows.neck if node.module == "Concat"]
    if not joins:
        raise GraftError(
            "the model has no neck to weight: there is no Concat in its head. It takes attention alone (bifpn=none)"
        )
    strides = {node.stride for node in joins if node.stride} | {node.stride for node in rows.backbone[-1:]}
    middle = sorted(x for x in strides if x)[1:-1]
    laterals: dict[float, Node] = {}  # stride -> what the first join of that level reads from the backbone
    for node in joins:
        node.module = "BiFPN_Concat"
        lateral = next((x for x in reversed(node.inputs) if x is not None and _is_lateral(x)), None)
        if lateral is not None and node.stride is not None:
            laterals.setdefault(node.stride, lateral)
        elif edge and node.stride in middle and node.stride in laterals:
            node.inputs.append(laterals[node.stride])
            node.note = f"backbone {level(node.stride)} (same-level edge)"


def keep_top_down(rows: Rows) -> None:
    """Remove the bottom-up path, so that the head reads the top-down nodes: the neck of FPN.

    The YAML gets `KEY`, by which the loading of pretrained weights knows that it has to align layers.

    Args:
        rows: Rows of the model, changed in place.

    Raises:
        GraftError: If there is no neck, or no bottom-up path in it.
    """
    _start(rows)
    down = next((node for node in rows.neck if _turns(node, finer=False)), None)
    if down is None:
        raise GraftError("neck=fpn: the neck has no bottom-up path to take out; neck=pan leaves it as it is")
    before = rows.nodes[: rows.nodes.index(down)]
    for k, read in enumerate(rows.last.inputs):
        if read is not None and read not in before:
            node = next((node for node in reversed(before) if node.stride == read.stride), None)
            if node is None:
                raise GraftError(f"neck=fpn: the top-down path makes no {level(read.stride)}, which the head reads")
            rows.last.read(k, node)
    rows.prune()
    rows.keys[KEY] = {"neck": "fpn"}


def sum_neck(rows: Rows, width: int, repeats: int, edge: bool) -> None:
    """Replace the neck by the paper's BiFPN: weighted sums at one width, a separable convolution after each.

    The inputs of a node are in the order of the authors' code: the level's input, the top-down node, the level below.

    Args:
        rows: Rows of the model, changed in place.
        width: Channels of all levels, before the model's width multiple.
        repeats: Number of BiFPN layers.
        edge: Whether the middle levels have the same-level edge.

    Raises:
        GraftError: If there is no neck, or its rows read texts, which have no place in this neck.
    """
    _refuse_weighted(rows)
    top = _start(rows)
    strides = [x.stride for x in rows.last.inputs if x is not None and x.stride]
    if not strides:
        raise GraftError(f"bifpn=add: {rows.where(rows.last)} reads no feature map for the neck to end in")
    levels = [min(strides)]
    while levels[-1] < float(top.stride or 0):
        levels.append(2 * levels[-1])
    features = {s: top if s == levels[-1] else backbone_feature(rows, s) for s in levels}

    reduce = [width, 1, 1, "None", 1, 1, False]
    maps = {s: rows.append("Conv", reduce, features[s], stride=s) for s in levels}
    for s in levels:
        maps[s].note = f"{level(s)} to one width"
    for _ in range(repeats):
        down = {levels[-1]: maps[levels[-1]]}  # top-down path
        for s in reversed(levels[:-1]):
            up = rows.append("nn.Upsample", ["None", 2, "nearest"], down[2 * s], stride=s)
            down[s] = _fuse(rows, [maps[s], up], "top-down")
        outputs = {levels[0]: down[levels[0]]}  # bottom-up path
        for s in levels[1:]:
            pooled = rows.append("nn.MaxPool2d", [3, 2, 1], outputs[s / 2], stride=s)
            if s == levels[-1]:
                inputs = [maps[s], pooled]
            else:
                inputs = [maps[s], down[s], pooled] if edge else [down[s], pooled]
            outputs[s] = _fuse(rows, inputs, "bottom-up")
        maps = outputs
    for k, read in enumerate(rows.last.inputs):
        if read is not None and read.stride in maps:
            rows.last.read(k, maps[read.stride])
    guided = next((node for node in rows.prune() if node.facts.guided), None)
    if guided is not None:
        raise GraftError(
            f"{rows.where(guided)} reads texts, which the paper's neck has no place for; bifpn=concat keeps it"
        )


def _fuse(rows: Rows, inputs: list[Node], path: str) -> Node:
    """Append a weighted sum and a separable convolution after it."""
    stride = inputs[0].stride
    node = rows.append("BiFPN_Add", [], *inputs, stride=stride)
    node.note = f"{level(node.stride)} {path}"
    return rows.append("SeparableConv", [], node, stride=stride)


def _refuse_weighted(rows: Rows) -> None:
    weighted = next((node for node in rows.nodes if node.module in JOINS and node.origin is not None), None)
    if weighted is not None:
        raise GraftError(
            f"the neck is weighted already: {rows.where(weighted)}; take a YAML without BiFPN, or bifpn=none"
        )


def _start(rows: Rows) -> Node:
    """Return the layer from which the neck's top-down path starts."""
    up = next((node for node in rows.neck if _turns(node, finer=True)), None)
    if up is None or up.inputs[0] is None:
        raise GraftError(
            f"there is no neck: no row of the head makes a feature map larger before {rows.where(rows.last)}; "
            "of the blocks only coordatt= at a stage of the backbone has a place here, with bifpn=none"
        )
    return up.inputs[0]


def _turns(node: Node, finer: bool) -> bool:
    """Return whether a row outputs a finer (or, if `finer` is false, a coarser) feature map than it reads."""
    if len(node.inputs) != 1 or node.inputs[0] is None or not node.stride or not node.inputs[0].stride:
        return False
    return node.stride < node.inputs[0].stride if finer else node.stride > node.inputs[0].stride


def _is_lateral(node: Node) -> bool:
    """Return whether a layer is a backbone feature, or made from a single one at the same stride."""
    while node.head:
        if len(node.inputs) != 1 or node.inputs[0] is None or node.inputs[0].stride != node.stride:
            return False
        node = node.inputs[0]
    return True


def backbone_feature(rows: Rows, stride: float) -> Node:
    """Return the backbone's feature map at a stride: the one that the neck reads, else the last."""
    maps = [node for node in rows.backbone if node.stride == stride]
    read = [node for node in maps if any(node is x for reader in rows.neck for x in reader.inputs)]
    if not maps:
        raise GraftError(f"the backbone has no feature map at stride {stride:g}, which the neck needs")
    return (read or maps)[-1]
