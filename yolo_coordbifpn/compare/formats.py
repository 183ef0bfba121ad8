"""The forms that a report is written in: Markdown, LaTeX, and one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Table:
    """A table with a head, and a note below it."""

    title: str
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""


@dataclass
class Report:
    """What a comparison says, before it is written in one form or another."""

    title: str
    findings: list[str]
    notes: list[str]
    tables: list[Table]


def markdown(report: Report, pictures: Sequence[Path]) -> str:
    """Write the report as Markdown, the pictures by their names."""
    lines = [f"# {report.title}", "", *(f"- {x}" for x in report.findings)]
    for table in report.tables:
        lines += ["", f"## {table.title}", "", f"| {' | '.join(table.head)} |"]
        lines.append("|---" + "|--:" * (len(table.head) - 1) + "|")
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
        lines += ["", table.note] if table.note else []
    for picture in pictures:
        lines += ["", f"![{picture.stem}]({picture.name})"]
    return "\n".join([*lines, "", "## How it was run", "", *(f"- {x}" for x in report.notes)]) + "\n"


def latex(report: Report) -> str:
    """Write the tables in the style of the booktabs package."""
    lines = ["% \\usepackage{booktabs}", *(f"% {x}" for x in [*report.findings, *report.notes])]
    for table in report.tables:
        lines += [
            "",
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{_escape(table.title)}. {_escape(table.note)}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}",
            "\\toprule",
            " & ".join(map(_escape, table.head)) + " \\\\",
            "\\midrule",
            *(" & ".join(map(_escape, row)) + " \\\\" for row in table.rows),
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
        ]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    text = re.sub(r"([&%$#_{}])", r"\\\1", text)
    return text.replace("±", "$\\pm$").replace("...", "\\ldots{}")


def html(report: Report, pictures: Sequence[Path]) -> str:
    """Write one page with the pictures in it."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("yolo_coordbifpn.compare", "."), autoescape=True, trim_blocks=True)
    images = [(x.stem, base64.b64encode(x.read_bytes()).decode()) for x in pictures]
    return environment.get_template("report.html.j2").render(report=report, images=images)
