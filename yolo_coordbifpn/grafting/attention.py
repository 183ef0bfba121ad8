"""Places of attention: the end of a backbone stage, a neck output, or the inside of the backbone's bottlenecks."""

from __future__ import annotations

import re

from ..errors import GraftError
from ..graph.rows import level
from .row_graph import Node, Rows


def attend(rows: Rows, places: str, module: str) -> None:
    """Put attention into a model.

    Args:
        rows: Rows of the model, changed in place.
        places: One or more places, separated by commas: `P2`...`P5` for the end of that stage of the backbone (in the
            deepest stage before its pooling), `deepest`, `N3`...`N5` for the neck output of that level, `bottleneck`
            for the inside of every bottleneck of the backbone.
        module: Class name of the attention block, such as CoordAtt.

    Raises:
        GraftError: If there is no such place, or the model already has this attention there.
    """
    names = [x.strip() for x in places.split(",")]
    if len(set(names)) < len(names):
        raise GraftError(f"coordatt={places} names a place twice")
    found = {name: _find(rows, name) for name in names}  # before the first insertion
    for name in names:
        section = rows.neck if name.startswith("N") else rows.backbone
        there = next((node for node in section if node.module == module or node.module.endswith(f"_{module}")), None)
        if there is not None:
            raise GraftError(f"coordatt={name}: there is a {module} already: {rows.where(there)}")
    seen: set[int] = set()
    for name, nodes in found.items():
        for node in nodes:
            if id(node) in seen and name != "bottleneck":
                raise GraftError(f"coordatt={places}: {name} is a place that another of them names already")
            seen.add(id(node))
            if name == "bottleneck":
                node.module = f"{node.module}_{module}"
            else:
                rows.insert_after(node, module).note = name if name[1:].isdigit() else level(node.stride)


def _find(rows: Rows, name: str) -> list[Node]:
    """Return the rows of a place."""
    stages = _strides(rows)
    if name == "bottleneck":
        nodes = [node for node in rows.backbone if node.facts.bottlenecks]
        if not nodes:
            kinds = ", ".join(dict.fromkeys(node.module for node in rows.backbone))
            raise GraftError(f"coordatt=bottleneck: no block of the backbone has bottlenecks; it is made of {kinds}")
        return nodes
    if name == "deepest" and stages:
        return [_last(rows, stages[-1])]
    match = re.fullmatch(r"([PN])(\d)", name)
    if match is None:
        raise GraftError(f"coordatt= takes P2...P5, deepest, N3...N5, bottleneck or none, got {name!r}")
    if match[1] == "P":
        return [stage(rows, name)]
    stride = float(2 ** int(match[2]))
    outputs = {x.stride: x for x in rows.last.inputs if x is not None and x.head and x.stride}
    if stride not in outputs:
        there = ", ".join(f"N{level(x.stride)[1:]}" for x in outputs.values())
        raise GraftError(f"the model has no neck output {name}; {f'there are {there}' if there else 'it has no neck'}")
    return [outputs[stride]]


def stage(rows: Rows, name: str) -> Node:
    """Return the last layer of a stage of the backbone, or the layer before its pooling if it has one.

    Args:
        rows: Rows of the model.
        name: The stage, `P2`...`P5`.

    Raises:
        GraftError: If the backbone has no such stage.
    """
    stages = _strides(rows)
    if 2.0 ** int(name[1:]) not in stages:
        there = ", ".join(level(s) for s in stages)
        raise GraftError(f"the backbone has no stage {name}; {f'there are {there}' if there else 'none'}")
    return _last(rows, 2.0 ** int(name[1:]))


def _strides(rows: Rows) -> list[float]:
    """Return the strides of the stages of the backbone."""
    return sorted({node.stride for node in rows.backbone if node.stride and node.stride > 1})


def _last(rows: Rows, stride: float) -> Node:
    """Return the last layer of the backbone at a stride, or the layer before its pooling."""
    nodes = [node for node in rows.backbone if node.stride == stride]
    pooling = next((node for node in nodes if node.module.startswith("SPP")), None)
    before = pooling.inputs[0] if pooling is not None else None
    return before if before is not None else nodes[-1]
