"""The rows of a model YAML as a graph: each row refers to the rows it reads, so that rows can move."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..graph.layers import Facts
from ..graph.rows import KEY, check_rows, where


@dataclass(eq=False)
class Node:
    """One row of a model YAML: `[from, repeats, module, args]`."""

    module: str
    args: list[Any]
    inputs: list[Node | None]  # the rows that it reads; None is the image
    repeats: Any = 1
    written: list[int] = field(default_factory=list)  # `from` as written in the YAML, kept while it is still right
    listed: bool = False  # `from` is a list
    head: bool = True  # else it is in the backbone
    origin: int | None = None  # index of the row in the original YAML, None for a new row
    facts: Facts = field(default_factory=Facts)
    note: str = ""  # to be added to the row's comment

    @property
    def stride(self) -> float | None:
        """Return the width of one output cell in image pixels, None if the output is no feature map."""
        return self.facts.stride

    def read(self, place: int, node: Node) -> None:
        """Read another row at a place of `from`, to be written as an absolute index."""
        self.inputs[place] = node
        if place < len(self.written):
            self.written[place] = 0


class Rows:
    """The rows of one model YAML, which can be changed in place.

    Attributes:
        nodes: All rows, in the order of the layers.
        keys: Keys to add at the top level of the model YAML, or to what it has under them.
    """

    def __init__(self, cfg: dict[str, Any], facts: Sequence[Facts]) -> None:
        """Read the rows of a model YAML.

        Args:
            cfg: The model YAML as a dict, with `backbone` and `head`; it is not changed.
            facts: What is known of each layer of the built model.
        """
        self._cfg = copy.deepcopy(cfg)
        self.nodes: list[Node] = []
        self.keys: dict[str, Any] = {}
        for index, (row, fact) in enumerate(zip(check_rows(cfg), facts)):
            written = [*row[0]] if isinstance(row[0], (list, tuple)) else [row[0]]
            absolute = [index + k if k < 0 else k for k in written]
            self.nodes.append(
                Node(
                    module=row[2],
                    args=copy.deepcopy(row[3]),
                    inputs=[self.nodes[k] if k >= 0 else None for k in absolute],
                    repeats=row[1],
                    written=written,
                    listed=isinstance(row[0], (list, tuple)),
                    head=index >= len(cfg["backbone"]),
                    origin=index,
                    facts=fact,
                )
            )
        self._read_before = {id(x) for node in self.nodes for x in node.inputs}

    @property
    def backbone(self) -> list[Node]:
        """Return the rows of the backbone."""
        return [node for node in self.nodes if not node.head]

    @property
    def neck(self) -> list[Node]:
        """Return the rows of the head except the last, which detects."""
        return [node for node in self.nodes[:-1] if node.head]

    @property
    def last(self) -> Node:
        """Return the row that detects, segments or classifies."""
        return self.nodes[-1]

    def insert_after(self, node: Node, module: str, args: Sequence[Any] = ()) -> Node:
        """Insert a row after another; all rows that read the other now read the new one."""
        new = Node(module, [*args], [node], head=node.head, facts=node.facts)
        for reader in self.nodes:
            reader.inputs = [new if x is node else x for x in reader.inputs]
        self.nodes.insert(self.nodes.index(node) + 1, new)
        return new

    def append(self, module: str, args: Sequence[Any], *inputs: Node, stride: float | None = None) -> Node:
        """Insert a row before the last one."""
        return self.insert_before(self.last, module, args, *inputs, stride=stride)

    def insert_before(
        self, node: Node, module: str, args: Sequence[Any], *inputs: Node, stride: float | None = None
    ) -> Node:
        """Insert a row before another, which does not read it yet."""
        new = Node(module, [*args], [*inputs], listed=len(inputs) > 1, facts=Facts(stride))
        self.nodes.insert(self.nodes.index(node), new)
        return new

    def prune(self) -> list[Node]:
        """Remove the rows that nothing reads any more; return those that the original YAML has."""
        gone = []
        for node in self.nodes[-2::-1]:
            read = any(x is node for other in self.nodes for x in other.inputs)
            if not read and (node.origin is None or id(node) in self._read_before):
                self.nodes.remove(node)
                gone.append(node)
        return [node for node in gone if node.origin is not None]

    def cfg(self) -> dict[str, Any]:
        """Return the changed model YAML as a new dict, with updated indices."""
        rows = [self._row(index, node) for index, node in enumerate(self.nodes)]
        size = len(self.backbone)
        keys = {key: {**(self._cfg.get(key) or {}), **value} for key, value in self.keys.items()}
        found = {**copy.deepcopy({**self._cfg, **keys}), "backbone": rows[:size], "head": rows[size:]}
        if "rezero" in (found.get(KEY) or {}):
            places = {str(node.origin): str(index) for index, node in enumerate(self.nodes)}
            paths = [path.partition(".") for path in found[KEY]["rezero"]]
            found[KEY]["rezero"] = [f"{places[x]}{dot}{inside}" for x, dot, inside in paths if x in places]
        return found

    def _row(self, index: int, node: Node) -> list[Any]:
        places = {id(x): i for i, x in enumerate(self.nodes)}
        sources = []
        for k, x in enumerate(node.inputs):
            absolute = places[id(x)] if x is not None else -1
            written = node.written[k] if k < len(node.written) else -1
            kept = written < 0 and index + written == absolute
            sources.append(written if kept else absolute)
        return [sources if node.listed else sources[0], node.repeats, node.module, copy.deepcopy(node.args)]

    def where(self, node: Node) -> str:
        """Name a row of the original YAML in a message."""
        index = int(node.origin or 0)
        return where(self._cfg, index, (self._cfg["backbone"] + self._cfg["head"])[index])
