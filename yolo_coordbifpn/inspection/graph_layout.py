"""The layout of a diagram: where each cell is drawn and how each arrow is routed, in pixels."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

from .diagram import Arrow, Cell, Diagram, Line, rows
from .labels import plain, spread

LINE, LEFT = 17.0, 46.0  # height of a line, left margin
_SHARE = 34.0  # width of the column of shares at the left of a cell
_SHARE_LINE = 12.0  # height of a share in it
_PAD, _GAP, _TOP = 5.0, 34.0, 46.0  # inside a cell, between rows, top margin
SIGNS = {"fusion": "◆", "attention": "✚", "block": "■", "": ""}  # by the mark of a line


@dataclass
class Box:
    """The rectangle of a cell."""

    left: float
    right: float
    top: float
    bottom: float


class Layout:
    """The layout of one diagram, in pixels from its own upper left corner.

    Attributes:
        diagram: The diagram.
        weighted: Whether its arrows have weights.
        columns: The columns in use, from left to right.
        indents: Width of the shares at the left of the cells, by column; 0 in a column without weighted fusions.
        lefts: Left edge of each column.
        middles: Middle of each row, by the number of its level, the coarsest first.
        width: Width of the whole drawing.
        height: Height of the whole drawing.
    """

    def __init__(self, diagram: Diagram) -> None:
        """Place the rows, the columns and the cells of a diagram."""
        self.diagram = diagram
        self.weighted = any(x.weight is not None for x in diagram.arrows)
        self._gutter = 48.0
        self._place_rows(rows([diagram]))
        self._place_columns()
        self._boxes = {id(c): self._box(c) for c in diagram.cells}
        self._ends = {k: v for c in diagram.cells for k, v in self._arrow_ends(c).items()} if self.weighted else {}
        self._lanes: dict[tuple[int, int], float] = {}  # row gap and lane in it -> where its last arrow ends

    def _place_rows(self, numbers: list[int]) -> None:
        """Set the middle and the bottom of each row, and the height of the drawing."""
        self.middles: dict[int, float] = {}
        self._bottoms: dict[int, float] = {}
        y = _TOP
        for n in numbers:
            size = max(self._height(c) for c in self.diagram.cells if c.row == n)
            self.middles[n], self._bottoms[n] = y + size / 2, y + size
            y += size + _GAP
        self.height = y - _GAP + 22

    def _place_columns(self) -> None:
        """Set the left edge and the indent of each column, and the width of the drawing."""
        self.columns = sorted({c.column for c in self.diagram.cells})
        self.indents = dict.fromkeys(self.columns, 0.0)
        self.indents |= {
            c.column: _SHARE for c in self.diagram.cells if any(a.weight is not None for a in self._side(c))
        }
        self.lefts: dict[int, float] = {}
        x = LEFT
        for column in self.columns:
            self.lefts[column] = x
            x += self._column_width(column) + self._gutter
        self.width = max(x - self._gutter + 14, LEFT + 14 + text_width(self.diagram.title, 10.5, True))

    def _column_width(self, column: int) -> float:
        return self.indents[column] + max(_width(c) for c in self.diagram.cells if c.column == column)

    def _height(self, cell: Cell) -> float:
        """Return the height that a cell needs for its lines, and for its shares if there are more."""
        shares = sum(a.weight is not None for a in self._side(cell))
        return max(len(cell.lines) * LINE, shares * _SHARE_LINE) + 2 * _PAD

    def _side(self, cell: Cell) -> list[Arrow]:
        """Return the arrows that end at a side of a cell, from above to below."""
        order = [line.index for line in cell.lines][:: -1 if cell.direction > 0 else 1]
        ends = [a for a in self.diagram.arrows if self.diagram.cell(a.target) is cell and not self.is_straight(a)]
        source = self.diagram.cell
        return sorted(ends, key=lambda a: (order.index(a.target), -source(a.source).row, source(a.source).column))

    def _arrow_ends(self, cell: Cell) -> dict[tuple[int, int], float]:
        """Return the y at which each arrow ends at a cell's side, by its layers, apart so that each has its share."""
        if cell.part == "head":
            return {}
        arrows = self._side(cell)
        places = spread([self.line_y(cell, a.target) for a in arrows], _SHARE_LINE)
        return {(a.source, a.target): y for a, y in zip(arrows, places)}

    def _box(self, cell: Cell) -> Box:
        left = self.lefts[cell.column]
        widest = self._column_width(cell.column)
        half = self._height(cell) / 2
        top, bottom = self.middles[cell.row] - half, self.middles[cell.row] + half
        if cell.part == "head":  # spans the levels that it reads
            read = {self.diagram.cell(a.source).row for a in self.diagram.arrows if self.diagram.cell(a.target) is cell}
            top = min([top, *(self.middles[n] - half for n in read)])
            bottom = max([bottom, *(self.middles[n] + half for n in read)])
        return Box(left, left + widest, top, bottom)

    def box(self, cell: Cell) -> Box:
        """Return the rectangle of a cell."""
        return self._boxes[id(cell)]

    def line_y(self, cell: Cell, index: int) -> float:
        """Return the y of a layer's line; in a cell with an upward path the first layer is the lowest."""
        box = self.box(cell)
        k = next(i for i, line in enumerate(cell.lines) if line.index == index)
        if cell.direction > 0:
            k = len(cell.lines) - 1 - k
        middle = (box.top + box.bottom) / 2
        return middle + (k - (len(cell.lines) - 1) / 2) * LINE

    def route(self, arrow: Arrow) -> tuple[list[tuple[float, float]], list[Any]]:
        """Route an arrow around the cells between its layers; return points and path codes."""
        from matplotlib.path import Path

        source, target = arrow.source, arrow.target
        go, line, curve = Path.MOVETO, Path.LINETO, Path.CURVE4
        start, end = self.diagram.cell(source), self.diagram.cell(target)
        a, b = self._boxes[id(start)], self._boxes[id(end)]
        y0 = self.line_y(start, source)
        if end.part == "head":
            y1 = min(max(y0, b.top + 6), b.bottom - 6)
        else:
            y1 = self._ends.get((source, target), self.line_y(end, target))
        if self.is_straight(arrow):
            x = (a.left + a.right) / 2
            up = b.top < a.top
            return [(x, a.top if up else a.bottom), (x, b.bottom if up else b.top)], [go, line]
        if start.column == end.column:
            far = a.right + 0.6 * self._gutter
            return [(a.right, y0), (far, y0), (far, y1), (b.right, y1)], [go, curve, curve, curve]
        turn = b.left - self._gutter
        bend = b.left - 0.5 * self._gutter
        stop = [(bend, y1), (b.left, y1)]
        if not self._blocked(start, end, y0):
            return [(a.right, y0), (turn, y0), (bend, y0), *stop], [go, line, curve, curve, curve]
        numbers = list(self.middles)
        below = min(self.middles[end.row], self.middles[start.row]) == self.middles[start.row] != self.middles[end.row]
        place = numbers.index(start.row) - (not below)  # the gap under this row of the drawing
        number = next(n for n in itertools.count() if self._lanes.get((place, n), 0) <= a.right)
        self._lanes[place, number] = turn
        lane = (self._bottoms[numbers[place]] if place >= 0 else _TOP - _GAP / 2) + 10 + 6 * number
        out = a.right + 0.5 * self._gutter
        points = [
            (a.right, y0),
            (out, y0),
            (out, lane),
            (a.right + self._gutter, lane),
            (turn, lane),
            (bend, lane),
            *stop,
        ]
        return points, [go, curve, curve, curve, line, curve, curve, curve]

    def _blocked(self, start: Cell, end: Cell, y: float) -> bool:
        """Return whether a cell blocks a line straight to the right."""
        between = (c for c in self.diagram.cells if start.column < c.column < end.column)
        return any(self._boxes[id(c)].top - 4 < y < self._boxes[id(c)].bottom + 4 for c in between)

    def is_straight(self, arrow: Arrow) -> bool:
        """Return whether an arrow goes straight up or down, from the last line of a cell to the first of the next."""
        start, end = self.diagram.cell(arrow.source), self.diagram.cell(arrow.target)
        low, high = sorted((start.row, end.row))
        between = any(c.column == start.column and low < c.row < high for c in self.diagram.cells)
        flows = end.direction == (1 if end.row > start.row else -1) and start.direction in (0, end.direction)
        neighbours = start.column == end.column and flows and not between
        return neighbours and arrow.source == start.lines[-1].index and arrow.target == end.lines[0].index


def line_text(line: Line) -> str:
    """Return the text of a line, with the sign of its mark."""
    return f"{SIGNS[line.mark]} {line.text}".strip()


def _width(cell: Cell) -> float:
    """Return the width that a cell needs for its text."""
    texts = [(line_text(line), line.mark in ("fusion", "attention")) for line in cell.lines]
    return 40 + max(text_width(text, 8, bold) for text, bold in texts)


@functools.cache
def text_width(text: str, size: float, bold: bool) -> float:
    """Return the width of a text in pixels of the drawing.

    Args:
        text: The text.
        size: Font size in points.
        bold: Whether it is bold.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text:  # matplotlib cannot make a path of it
        return 0.0
    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return float(TextPath((0, 0), plain(text), size=size * 100 / 72, prop=font).get_extents().width)
