"""The outcomes of fuzzing, and their table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from markdown_table import markdown

BUILT, OURS, THEIRS, FINDING = "built and ran", "our error", "the host's own error", "finding"
FIELDS = ("ultralytics", "seed", "cases", "outcome", "error", "count")


def table(rows: Iterable[Mapping[str, object]]) -> str:
    """Write how many cases of each kind had each outcome."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for kind in (str(row["cases"]), "all"):
            counts[kind, str(row["outcome"])] += int(str(row["count"]))
    kinds = sorted({kind for kind, _ in counts}, key=lambda kind: (kind == "all", -counts[kind, BUILT], kind))
    outcomes = (BUILT, OURS, THEIRS, FINDING)
    lines = [[kind, sum(counts[kind, x] for x in outcomes), *(counts[kind, x] for x in outcomes)] for kind in kinds]
    return markdown(["cases", "all", *outcomes], lines, 5)
