"""Rows of a CSV that grows run by run, for the scripts that go on where they stopped."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def read(file: Path) -> list[dict[str, str]]:
    """Read all rows; none if there is no such file."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def append(file: Path, fields: Sequence[str], row: Mapping[str, object]) -> None:
    """Add a row, and the header before the first one."""
    new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fields)
        if new:
            writer.writeheader()
        writer.writerow(row)
