"""Read and write the CSV files in which the scripts keep their results."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def read(file: Path) -> list[dict[str, str]]:
    """Read all rows; none if there is no such file."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write(file: Path, fields: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write these rows, in place of what the file holds; its folder is made if it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def append(file: Path, fields: Sequence[str], row: Mapping[str, object]) -> None:
    """Add a row, and the header before the first one."""
    if not file.exists():
        write(file, fields, [])
    with file.open("a", newline="", encoding="utf-8") as stream:
        csv.DictWriter(stream, fields, lineterminator="\n").writerow(row)
