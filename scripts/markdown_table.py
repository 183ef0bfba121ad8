"""Tables in Markdown, and the numbers in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from yolo_coordbifpn.compare.statistics import Interval


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: int = 0) -> str:
    """Write a table.

    Args:
        head: Titles of the columns.
        rows: Cells of each row.
        numbers: How many columns, counted from the right, are aligned to the right.
    """
    lines = [f"| {' | '.join(head)} |", "|---" * (len(head) - numbers) + "|--:" * numbers + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, cells))} |" for cells in rows)])


def plus_minus(found: Interval, digits: int = 4, sign: str = "") -> str:
    """Write a mean and half the width of its 95 % interval; one value has no interval."""
    mean = f"{found.mean:{sign}.{digits}f}"
    return mean if found.count < 2 else f"{mean} ± {found.half:.{digits}f}"


def with_bounds(found: Interval) -> str:
    """Write a difference and the bounds of its 95 % interval; one value has no interval."""
    return f"{found.mean:+.4f}" if found.count < 2 else f"{found.mean:+.4f} ({found.low:+.4f} ... {found.high:+.4f})"


def change(new: float, old: float) -> str:
    """Write in percent by how much a number is larger than another."""
    return f"{new / old - 1:+.2%}".replace("%", " %")
