"""The layers of a model as a diagram: cells by level and path, as in the figures of the BiFPN paper.

A cell holds the layers that follow each other at one level, such as upsampling, fusion and convolution. Its row is its
level, coarse levels on top. Its column counts the changes of direction before it: the backbone goes up in the first
column, the top-down path comes down in the next, the bottom-up path goes up in the one after. Source: Tan, Pang, Le,
CVPR 2020, arXiv 1911.09070, figure 2.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from ..blocks import BiFPN_Add, BiFPN_Concat, SpatialGate
from ..graph.layers import parts, reads
from ..graph.paths import Paths, Place
from ..registry import TABLE


@dataclass(frozen=True)
class Line:
    """One layer as a line of a cell.

    Attributes:
        index: Index of the layer.
        text: Its modules, such as `2 x C3k2`.
        mark: `fusion`, `attention` or `block` (another registered block) if the layer is or contains one, else empty.
    """

    index: int
    text: str
    mark: str


@dataclass(eq=False)
class Cell:
    """Layers that follow each other at one level.

    Attributes:
        part: `backbone`, `neck` or `head`.
        level: Name of the level, such as P4.
        direction: -1 down to a finer level, 1 up to a coarser one, 0 for neither.
        lines: The layers, in order.
        column: Index from left to right, from 0.
    """

    part: str
    level: str
    direction: int = 0
    lines: list[Line] = field(default_factory=list)
    column: int = 0

    @property
    def row(self) -> int:
        """Return the number of the level, 4 for P4."""
        return int(self.level[1:])


@dataclass(frozen=True)
class Arrow:
    """One layer reads the output of another. There is no arrow between successive layers of a cell.

    Attributes:
        source: Index of the layer that is read.
        target: Index of the layer that reads.
        weight: Share of this input in the fusion that the arrow leads to, 0...1; None if it leads to no fusion, or if
            weights are not shown.
    """

    source: int
    target: int
    weight: float | None = None


@dataclass
class Diagram:
    """The diagram of a model.

    Attributes:
        title: Heading above it.
        cells: All cells.
        arrows: All arrows between them.
    """

    title: str
    cells: list[Cell]
    arrows: list[Arrow]

    def cell(self, index: int) -> Cell:
        """Return the cell of a layer."""
        return next(cell for cell in self.cells if any(line.index == index for line in cell.lines))


def diagram(model: Any, title: str, weights: bool = False) -> Diagram:
    """Make the diagram of a model.

    Args:
        model: A built model of the host.
        title: Heading above it.
        weights: Whether to give the arrows into weighted fusions their shares.
    """
    layers = list(model.model)
    paths = Paths(model)
    cells: list[Cell] = []
    cell_of: dict[int, Cell] = {}
    arrows = []
    for layer, place in zip(layers, paths.places):
        before = cell_of.get(place.index - 1)
        if before is None or not _continues(before, place, isinstance(layer, SpatialGate)):
            before = Cell(place.part, place.level)
            cells.append(before)
        cell_of[place.index] = before
        before.direction = _direction(place, paths, before.direction)
        before.lines.append(Line(place.index, _text(layer), _mark(layer)))
        for source in place.inputs:
            if source >= 0 and not (source == place.index - 1 and cell_of[source] is before):
                arrows.append(Arrow(source, place.index))
    _set_columns(cells, arrows, cell_of)
    if weights:
        arrows = [replace(x, weight=_share(layers, cell_of, x.source, x.target)) for x in arrows]
    return Diagram(title, cells, arrows)


def neck(diagram: Diagram) -> Diagram:
    """Return a diagram without the levels of the backbone that neither the neck nor the head reads."""
    read = {arrow.source for arrow in diagram.arrows if diagram.cell(arrow.target).part != "backbone"}
    kept = [c for c in diagram.cells if c.part != "backbone" or any(line.index in read for line in c.lines)]
    indices = {line.index for cell in kept for line in cell.lines}
    return Diagram(diagram.title, kept, [a for a in diagram.arrows if {a.source, a.target} <= indices])


def _continues(cell: Cell, place: Place, gate: bool) -> bool:
    """Return whether a layer continues a cell: same part and level, and it reads the cell's last layer, a gate any."""
    same = cell.part == place.part and cell.level == place.level
    return same and any(x.index in place.inputs for x in (cell.lines if gate else cell.lines[-1:]))


def _direction(place: Place, paths: Paths, before: int) -> int:
    """Return the direction of a cell: in the neck by the path of its last layer, in the backbone by its first input.

    Args:
        place: A layer of the cell.
        paths: All layers.
        before: Direction found for its earlier layers, 0 for none.
    """
    if place.part == "neck":
        return {"top-down": -1, "bottom-up": 1}.get(paths.path(place.index), before)
    strides = [paths.places[k].stride if k >= 0 else 1.0 for k in place.inputs]
    if place.part == "head" or not strides:
        return 0
    return before or (min(strides) < place.stride) - (max(strides) > place.stride)


def _share(layers: list[Any], cell_of: dict[int, Cell], source: int, target: int) -> float | None:
    """Return the share of an arrow in the fusion that it leads to, directly or through its cell.

    Returns:
        The share, None if it leads to no fusion, or only passes on, inside a cell, what another arrow brings there.
    """
    cell = cell_of[target]
    if cell_of.get(source) is cell:
        return None
    while not isinstance(layers[target], (BiFPN_Concat, BiFPN_Add)):
        sources = reads(layers[target])
        readers = [x.index for x in cell.lines if target in reads(layers[x.index])]
        if not readers or sources[0] != source or not (len(sources) == 1 or isinstance(layers[target], SpatialGate)):
            return None
        fusions = (k for k in readers if isinstance(layers[k], (BiFPN_Concat, BiFPN_Add)))
        source, target = target, next(fusions, readers[0])
    return float(layers[target].normalized_weights().detach()[reads(layers[target]).index(source)])


def _set_columns(cells: list[Cell], arrows: list[Arrow], cell_of: dict[int, Cell]) -> None:
    """Put each cell one column to the right of those that it reads, or into the same column if it continues one."""
    taken: set[tuple[int, int]] = set()
    for cell in cells:
        sources = {
            id(c): c for a in arrows if cell_of[a.target] is cell and (c := cell_of[a.source]) is not cell
        }.values()
        column = max((c.column + (not _continues_cell(c, cell)) for c in sources), default=0)
        if cell.part == "head":
            column = 1 + max((c.column for c in cells if c is not cell), default=-1)
        while (column, cell.row) in taken:
            column += 1
        cell.column = column
        taken.add((column, cell.row))


def _continues_cell(source: Cell, cell: Cell) -> bool:
    """Return whether a cell continues another in the same direction, so that both share a column."""
    towards = (cell.row > source.row) - (cell.row < source.row)
    return source.part == cell.part and 0 != cell.direction == towards and source.direction in (0, towards)


def _text(layer: nn.Module) -> str:
    blocks = parts(layer)
    name = type(blocks[0]).__name__ if blocks else type(layer).__name__
    inside = [m for m in layer.modules() if _kind(m) == "attention" and m not in blocks]
    if inside:
        name = f"{name} + {type(inside[0]).__name__}"
    return f"{len(blocks)} x {name}" if len(blocks) > 1 else name


def _mark(layer: nn.Module) -> str:
    found = {_kind(m) for m in layer.modules()}
    return next((x for x in ("fusion", "attention", "block") if x in found), "")


def _kind(module: nn.Module) -> str:
    if isinstance(module, (BiFPN_Concat, BiFPN_Add)):
        return "fusion"
    if isinstance(module, SpatialGate) or type(module) in TABLE.variants.values():
        return "attention"
    return "block" if type(module) in TABLE else ""


def rows(diagrams: Collection[Diagram]) -> list[int]:
    """Return the level numbers of diagrams, the coarsest first."""
    return sorted({cell.row for x in diagrams for cell in x.cells}, reverse=True)
