"""A diagram drawn with matplotlib: SVG for web pages, PDF for papers, PNG for everything else."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

from .diagram import Arrow, Cell, Diagram, Line
from .graph_layout import LEFT, LINE, SIGNS, Layout, line_text, text_width
from .labels import plain
from .palette import BLACK, BLUE, ORANGE

_COLOURS = {  # fill and text by the mark of a line, distinct in grey too
    "fusion": (BLUE, "white"),
    "attention": (ORANGE, BLACK),
    "block": ("#dddddd", BLACK),
    "": ("none", "#333333"),
}
_LEGEND = {"fusion": "weighted fusion", "attention": "attention", "block": "another registered block"}
_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, sharp and searchable
    "svg.hashsalt": "yolo_coordbifpn",  # the same model always gives the same file
    "font.family": ["DejaVu Sans"],
}


def draw(diagrams: Sequence[Diagram], form: str = "svg") -> bytes:
    """Draw one diagram, or several: side by side, or one above the other if they are too wide.

    Args:
        diagrams: The diagrams.
        form: `svg`, `png` or `pdf`.

    Returns:
        The contents of the file.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    layouts = [Layout(x) for x in diagrams]
    beside = sum(x.width for x in layouts) <= 1500
    width = sum(x.width for x in layouts) if beside else max(x.width for x in layouts)
    height = (max(x.height for x in layouts) if beside else sum(x.height for x in layouts)) + 26
    with rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width / 100, height / 100))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        x, y = 0.0, 0.0
        for layout in layouts:
            _draw_diagram(axes, layout, x, y)
            x, y = (x + layout.width, y) if beside else (x, y + layout.height)
        _legend(axes, diagrams, height - 12)
        stream = io.BytesIO()
        metadata = {"Date": None} if form == "svg" else None
        figure.savefig(stream, format=form, dpi=150, metadata=metadata, facecolor="white")
    return stream.getvalue()


def _draw_diagram(axes: Any, layout: Layout, x: float, y: float) -> None:
    """Draw a whole diagram with its upper left corner at a place."""
    from matplotlib.patches import FancyBboxPatch

    diagram = layout.diagram
    axes.text(x + LEFT, y + 14, plain(diagram.title), fontsize=10.5, weight="bold", va="center")
    for column in layout.columns:
        axes.text(x + layout.lefts[column], y + 34, _heading(diagram, column), fontsize=8, color="#555555")
    for n, middle in layout.middles.items():
        axes.text(x + 8, y + middle - 6, f"P{n}", fontsize=9.5, weight="bold", va="center")
        axes.text(x + 8, y + middle + 8, f"1/{2**n}", fontsize=7.5, color="#555555", va="center")
    for arrow in sorted(diagram.arrows, key=lambda a: -(a.weight or 0)):
        _draw_arrow(axes, layout, x, y, arrow)
    for cell in diagram.cells:
        box = layout.box(cell)
        corner, size = (x + box.left, y + box.top), (box.right - box.left, box.bottom - box.top)
        fill = {"backbone": "#f1f1f1", "neck": "white", "head": "#e2e2e2"}[cell.part]
        style = "round,pad=0,rounding_size=5"
        axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, fc=fill, ec="#777777", lw=0.9, zorder=3))
        for line in cell.lines:
            _draw_line(axes, layout, x, y, cell, line)


def _draw_line(axes: Any, layout: Layout, x: float, y: float, cell: Cell, line: Line) -> None:
    """Draw one layer in its cell."""
    from matplotlib.patches import FancyBboxPatch

    fill, colour = _COLOURS[line.mark]
    box = layout.box(cell)
    left = x + box.left + layout.indents[cell.column]
    middle = y + layout.line_y(cell, line.index)
    if line.mark:
        corner = (left + 24, middle - LINE / 2 + 1)
        style = "round,pad=0,rounding_size=3"
        size = (x + box.right - left - 27, LINE - 2)
        axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, fc=fill, ec=BLACK, lw=0.7, zorder=4))
    axes.text(left + 20, middle, line.index, fontsize=7, color="#666666", ha="right", va="center", zorder=5)
    weight = "bold" if line.mark in ("fusion", "attention") else "normal"
    axes.text(left + 28, middle, plain(line_text(line)), fontsize=8, color=colour, weight=weight, va="center", zorder=5)


def _draw_arrow(axes: Any, layout: Layout, x: float, y: float, arrow: Arrow) -> None:
    """Draw an arrow between two layers; its width grows with its weight."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    weight = arrow.weight
    points, codes = layout.route(arrow)
    path = Path([(x + a, y + b) for a, b in points], codes)
    width = 1.1 if weight is None else 0.5 + 4 * weight
    colour = "#aaaaaa" if layout.weighted and weight is None else "#444444"
    line = "-" if weight is None or weight > 0 else ":"  # a weight of 0
    head = f"-|>,head_length={3 + width / 2},head_width={1.6 + width / 2}"
    axes.add_patch(
        FancyArrowPatch(
            path=path, arrowstyle=head, mutation_scale=1, lw=width, color=colour, linestyle=line, zorder=2,
            shrinkA=0, shrinkB=0, joinstyle="round",
        )
    )  # fmt: skip
    if weight is not None:
        _draw_share(axes, layout, x, y, arrow, points)


def _draw_share(
    axes: Any, layout: Layout, x: float, y: float, arrow: Arrow, points: Sequence[tuple[float, float]]
) -> None:
    """Write the share of an input where no arrow passes: beside a straight arrow, else in the cell where it ends."""
    (_, y0), (x1, y1) = points[0], points[-1]
    if layout.is_straight(arrow):
        place = (x1 + 10, max(y0, y1) - 9)  # below the arrows that cross the gap between the two cells
    else:
        place = (layout.box(layout.diagram.cell(arrow.target)).left + 6, y1)
    axes.text(x + place[0], y + place[1], f"{arrow.weight:.2f}", fontsize=7.5, weight="bold", va="center", zorder=6)


def _heading(diagram: Diagram, column: int) -> str:
    """Return the heading of a column: the path or part of most of its cells."""
    names = {-1: "top-down", 0: "lateral", 1: "bottom-up"}
    cells = [c for c in diagram.cells if c.column == column]
    return Counter(names[c.direction] if c.part == "neck" else c.part for c in cells).most_common(1)[0][0]


def _legend(axes: Any, diagrams: Sequence[Diagram], y: float) -> None:
    """Explain the marks that the diagrams use."""
    from matplotlib.patches import FancyBboxPatch

    marks = {line.mark for d in diagrams for cell in d.cells for line in cell.lines}
    x = LEFT
    for mark in (m for m in _LEGEND if m in marks):
        fill, colour = _COLOURS[mark]
        style = "round,pad=0,rounding_size=3"
        axes.add_patch(FancyBboxPatch((x, y - 8), 20, 15, boxstyle=style, fc=fill, ec=BLACK, lw=0.7))
        axes.text(x + 10, y - 0.5, SIGNS[mark], fontsize=8, color=colour, ha="center", va="center")
        axes.text(x + 26, y - 0.5, _LEGEND[mark], fontsize=8, va="center")
        x += 48 + text_width(_LEGEND[mark], 8, False)
