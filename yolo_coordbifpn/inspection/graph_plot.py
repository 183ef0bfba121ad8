"""A diagram as a picture: SVG for pages and papers, PNG for everything else."""

from __future__ import annotations

import functools
import io
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .diagram import Cell, Diagram, rows
from .palette import BLACK, BLUE, ORANGE

LINE, PAD, GAP, TOP, LEFT = 17.0, 5.0, 34.0, 46.0, 46.0  # pixels: of a line, in a cell, between rows, margins
_MARKS = {  # of blocks: sign, fill, text; fill and sign differ in grey too
    "fusion": ("◆", BLUE, "white"),
    "attention": ("✚", ORANGE, BLACK),
    "block": ("■", "#dddddd", BLACK),
    "": ("", "none", "#333333"),
}
_LEGEND = {"fusion": "weighted fusion", "attention": "Coordinate Attention", "block": "another registered block"}
_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, sharp, to be searched
    "svg.hashsalt": "yolo_coordbifpn",  # the same model gives the same file
    "font.family": ["DejaVu Sans"],
}


def draw(diagrams: Sequence[Diagram], form: str = "svg") -> bytes:
    """Draw one diagram, or several beside each other; above each other where they are too wide for that.

    Args:
        diagrams: What to draw.
        form: Any that matplotlib writes: `svg`, `png`, `pdf`.

    Returns:
        The picture's file.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    plans = [_Plan(x) for x in diagrams]
    beside = sum(x.width for x in plans) <= 1500
    width = sum(x.width for x in plans) if beside else max(x.width for x in plans)
    height = (max(x.height for x in plans) if beside else sum(x.height for x in plans)) + 26
    with rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width / 100, height / 100))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        x, y = 0.0, 0.0
        for plan in plans:
            plan.draw(axes, x, y)
            x, y = (x + plan.width, y) if beside else (x, y + plan.height)
        _legend(axes, diagrams, height - 12)
        stream = io.BytesIO()
        metadata = {"Date": None} if form == "svg" else None
        figure.savefig(stream, format=form, dpi=150, metadata=metadata, facecolor="white")
    return stream.getvalue()


@dataclass
class _Box:
    """Where a cell is drawn."""

    left: float
    right: float
    top: float
    bottom: float


class _Plan:
    """Where everything of one diagram is drawn, in pixels from its own corner."""

    def __init__(self, diagram: Diagram) -> None:
        self.diagram = diagram
        self.weighted = any(x.weight is not None for x in diagram.arrows)
        self.gutter = 66.0 if self.weighted else 48.0
        numbers = rows([diagram])
        self.columns = sorted({c.column for c in diagram.cells})
        lines = {n: max(len(c.lines) for c in diagram.cells if c.row == n) for n in numbers}
        self.middles: dict[int, float] = {}
        y = TOP
        for n in numbers:
            size = lines[n] * LINE + 2 * PAD
            self.middles[n] = y + size / 2
            y += size + GAP
        self.tops = {n: self.middles[n] - (lines[n] * LINE + 2 * PAD) / 2 for n in numbers}
        self.bottoms = {n: 2 * self.middles[n] - self.tops[n] for n in numbers}
        self.height = y - GAP + 22
        self.lefts: dict[int, float] = {}
        x = LEFT
        for column in self.columns:
            self.lefts[column] = x
            x += max(_width(c) for c in diagram.cells if c.column == column) + self.gutter
        self.width = max(x - self.gutter + 14, LEFT + 14 + _text_width(diagram.title, 10.5, True))
        self.boxes = {id(c): self._box(c) for c in diagram.cells}
        self.lanes: dict[tuple[int, int], float] = {}  # row gap and lane in it -> how far to the right it is taken

    def _box(self, cell: Cell) -> _Box:
        left = self.lefts[cell.column]
        widest = max(_width(c) for c in self.diagram.cells if c.column == cell.column)
        half = (len(cell.lines) * LINE + 2 * PAD) / 2
        top, bottom = self.middles[cell.row] - half, self.middles[cell.row] + half
        if cell.part == "head":  # as tall as the levels that it reads
            read = {self.diagram.cell(a.source).row for a in self.diagram.arrows if self.diagram.cell(a.target) is cell}
            top = min([top, *(self.middles[n] - half for n in read)])
            bottom = max([bottom, *(self.middles[n] + half for n in read)])
        return _Box(left, left + widest, top, bottom)

    def line_y(self, cell: Cell, index: int) -> float:
        """Return the height of a layer's line; in a cell that goes up the first layer is the lowest."""
        box = self.boxes[id(cell)]
        k = next(i for i, line in enumerate(cell.lines) if line.index == index)
        if cell.direction > 0:
            k = len(cell.lines) - 1 - k
        middle = (box.top + box.bottom) / 2
        return middle + (k - (len(cell.lines) - 1) / 2) * LINE

    def draw(self, axes: Any, x: float, y: float) -> None:
        """Draw everything with its corner at a place."""
        from matplotlib.patches import FancyBboxPatch

        axes.text(x + LEFT, y + 14, self.diagram.title, fontsize=10.5, weight="bold", va="center")
        for column in self.columns:
            axes.text(x + self.lefts[column], y + 34, _heading(self.diagram, column), fontsize=8, color="#555555")
        for n, middle in self.middles.items():
            axes.text(x + 8, y + middle - 6, f"P{n}", fontsize=9.5, weight="bold", va="center")
            axes.text(x + 8, y + middle + 8, f"1/{2**n}", fontsize=7.5, color="#555555", va="center")
        for arrow in sorted(self.diagram.arrows, key=lambda a: -(a.weight or 0)):
            self._arrow(axes, x, y, arrow.source, arrow.target, arrow.weight)
        for cell in self.diagram.cells:
            box = self.boxes[id(cell)]
            corner, size = (x + box.left, y + box.top), (box.right - box.left, box.bottom - box.top)
            fill = {"backbone": "#f1f1f1", "neck": "white", "head": "#e2e2e2"}[cell.part]
            style = "round,pad=0,rounding_size=5"
            axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, fc=fill, ec="#777777", lw=0.9, zorder=3))
            for line in cell.lines:
                self._line(axes, x, y, cell, box, line)

    def _line(self, axes: Any, x: float, y: float, cell: Cell, box: _Box, line: Any) -> None:
        """Draw one layer in its cell."""
        from matplotlib.patches import FancyBboxPatch

        sign, fill, colour = _MARKS[line.mark]
        middle = y + self.line_y(cell, line.index)
        if line.mark:
            corner = (x + box.left + 24, middle - LINE / 2 + 1)
            style = "round,pad=0,rounding_size=3"
            size = (box.right - box.left - 27, LINE - 2)
            axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, fc=fill, ec=BLACK, lw=0.7, zorder=4))
        axes.text(x + box.left + 20, middle, line.index, fontsize=7, color="#666666", ha="right", va="center", zorder=5)
        text = f"{sign} {line.text}".strip()
        weight = "bold" if line.mark in ("fusion", "attention") else "normal"
        axes.text(x + box.left + 28, middle, text, fontsize=8, color=colour, weight=weight, va="center", zorder=5)

    def _arrow(self, axes: Any, x: float, y: float, source: int, target: int, weight: float | None) -> None:
        """Draw what one layer reads of another, thicker the more it weighs."""
        from matplotlib.patches import FancyArrowPatch
        from matplotlib.path import Path

        points, codes = self._route(source, target)
        points[-1], side = self._own_end(points[-1], source, target)
        if codes[-1] == Path.CURVE4:
            points[-2] = (points[-2][0], points[-1][1])
        path = Path([(x + a, y + b) for a, b in points], codes)
        width = 1.1 if weight is None else 0.5 + 4 * weight
        colour = "#aaaaaa" if self.weighted and weight is None else "#444444"
        line = "-" if weight is None or weight > 0 else ":"  # a dead one
        head = f"-|>,head_length={3 + width / 2},head_width={1.6 + width / 2}"
        axes.add_patch(
            FancyArrowPatch(
                path=path, arrowstyle=head, mutation_scale=1, lw=width, color=colour, linestyle=line, zorder=2,
                shrinkA=0, shrinkB=0, joinstyle="round",
            )
        )  # fmt: skip
        if weight is not None:
            (a, b), (c, d) = points[-1], points[-2]
            vertical = abs(a - c) < abs(b - d)
            aside = 0.45 * (d - b) if vertical else 5 * (side - 0.5) if side else 0
            place = (x + a + (14 if vertical else -14), y + b + aside)
            back = {"boxstyle": "round,pad=0.05", "fc": "white", "ec": "none", "alpha": 0.9}
            axes.text(*place, f"{weight:.2f}", fontsize=7.5, weight="bold", ha="left" if vertical else "right",
                      va="center", bbox=back, zorder=6)  # fmt: skip

    def _own_end(self, end: tuple[float, float], source: int, target: int) -> tuple[tuple[float, float], float]:
        """Move the end of an arrow aside where others end; return it, and how far it was moved."""
        rivals = [a.source for a in self.diagram.arrows if a.target == target]
        if not self.weighted or self.diagram.cell(target).part == "head" or len(rivals) < 2:
            return end, 0
        rivals.sort(key=lambda k: (-self.diagram.cell(k).row, self.diagram.cell(k).column))
        side = rivals.index(source) - (len(rivals) - 1) / 2
        return (end[0], end[1] + 9 * side), side

    def _route(self, source: int, target: int) -> tuple[list[tuple[float, float]], list[Any]]:
        """Lead an arrow from a layer to another, past the cells between them."""
        from matplotlib.path import Path

        go, line, curve = Path.MOVETO, Path.LINETO, Path.CURVE4
        start, end = self.diagram.cell(source), self.diagram.cell(target)
        a, b = self.boxes[id(start)], self.boxes[id(end)]
        y0 = self.line_y(start, source)
        y1 = self.line_y(end, target) if end.part != "head" else min(max(y0, b.top + 6), b.bottom - 6)
        if start.column == end.column:
            if self._stands_on(start, end, source, target):
                x = (a.left + a.right) / 2
                return [(x, a.top if b.top < a.top else a.bottom), (x, b.bottom if b.top < a.top else b.top)], [
                    go,
                    line,
                ]
            far = a.right + 0.6 * self.gutter
            return [(a.right, y0), (far, y0), (far, y1), (b.right, y1)], [go, curve, curve, curve]
        turn = b.left - self.gutter
        bend = b.left - 0.5 * self.gutter
        stop = [(bend, y1), (b.left, y1)]
        if not self._blocked(start, end, y0):
            return [(a.right, y0), (turn, y0), (bend, y0), *stop], [go, line, curve, curve, curve]
        numbers = list(self.middles)
        below = min(self.middles[end.row], self.middles[start.row]) == self.middles[start.row] != self.middles[end.row]
        place = numbers.index(start.row) - (not below)  # the gap under this row of the drawing
        number = next(n for n in itertools.count() if self.lanes.get((place, n), 0) <= a.right)
        self.lanes[place, number] = turn
        lane = (self.bottoms[numbers[place]] if place >= 0 else TOP - GAP / 2) + 10 + 6 * number
        out = a.right + 0.5 * self.gutter
        points = [
            (a.right, y0),
            (out, y0),
            (out, lane),
            (a.right + self.gutter, lane),
            (turn, lane),
            (bend, lane),
            *stop,
        ]
        return points, [go, curve, curve, curve, line, curve, curve, curve]

    def _blocked(self, start: Cell, end: Cell, y: float) -> bool:
        """Tell whether a cell stands in the way of a line straight to the right."""
        between = (c for c in self.diagram.cells if start.column < c.column < end.column)
        return any(self.boxes[id(c)].top - 4 < y < self.boxes[id(c)].bottom + 4 for c in between)

    def _stands_on(self, start: Cell, end: Cell, source: int, target: int) -> bool:
        """Tell whether an arrow can go straight up or down from the last line of a cell to the first of the next."""
        low, high = sorted((start.row, end.row))
        between = any(c.column == start.column and low < c.row < high for c in self.diagram.cells)
        flows = end.direction == (1 if end.row > start.row else -1) and start.direction in (0, end.direction)
        return flows and not between and source == start.lines[-1].index and target == end.lines[0].index


def _width(cell: Cell) -> float:
    """Return how wide a cell must be for its text."""
    texts = [
        (f"{_MARKS[line.mark][0]} {line.text}".strip(), line.mark in ("fusion", "attention")) for line in cell.lines
    ]
    return 40 + max(_text_width(text, 8, bold) for text, bold in texts)


@functools.cache
def _text_width(text: str, size: float, bold: bool) -> float:
    """Return how wide a text is, in pixels of the drawing."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text:  # of which matplotlib makes no path
        return 0.0
    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return float(TextPath((0, 0), text, size=size * 100 / 72, prop=font).get_extents().width)


def _heading(diagram: Diagram, column: int) -> str:
    """Name a column by what most of its cells are."""
    names = {-1: "top-down", 0: "lateral", 1: "bottom-up"}
    cells = [c for c in diagram.cells if c.column == column]
    return Counter(names[c.direction] if c.part == "neck" else c.part for c in cells).most_common(1)[0][0]


def _legend(axes: Any, diagrams: Sequence[Diagram], y: float) -> None:
    """Say what the marks mean that there are."""
    from matplotlib.patches import FancyBboxPatch

    marks = {line.mark for d in diagrams for cell in d.cells for line in cell.lines}
    x = LEFT
    for mark in (m for m in _LEGEND if m in marks):
        sign, fill, colour = _MARKS[mark]
        style = "round,pad=0,rounding_size=3"
        axes.add_patch(FancyBboxPatch((x, y - 8), 20, 15, boxstyle=style, fc=fill, ec=BLACK, lw=0.7))
        axes.text(x + 10, y - 0.5, sign, fontsize=8, color=colour, ha="center", va="center")
        axes.text(x + 26, y - 0.5, _LEGEND[mark], fontsize=8, va="center")
        x += 48 + _text_width(_LEGEND[mark], 8, False)
