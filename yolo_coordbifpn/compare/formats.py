"""The formats of a report: Markdown, LaTeX, and one HTML page without external resources.

The tables are written here because tabulate escapes neither Markdown nor the text around a table.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LATEX = {
    **{x: f"\\{x}" for x in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "±": "$\\pm$",
    "...": "\\ldots{}",
}


@dataclass
class Table:
    """A table with a header row and a note below it, all in plain text."""

    title: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""


@dataclass
class Report:
    """The contents of a report, in plain text that each format escapes."""

    title: str
    findings: list[str]
    notes: list[str]
    tables: list[Table]


def markdown(report: Report, plots: Sequence[Path]) -> str:
    """Write the report as Markdown that refers to its plots by their file names."""
    lines = [f"# {_markdown(report.title)}", "", *(f"- {_markdown(x)}" for x in report.findings)]
    for table in report.tables:
        lines += ["", f"## {_markdown(table.title)}", "", _markdown_row(table.header)]
        lines.append("|---" + "|--:" * (len(table.header) - 1) + "|")
        lines += map(_markdown_row, table.rows)
        lines += ["", _markdown(table.note)] if table.note else []
    for plot in plots:
        lines += ["", f"![{plot.stem}]({plot.name})"]
    return "\n".join([*lines, "", "## How it was run", "", *(f"- {_markdown(x)}" for x in report.notes)]) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_markdown, cells))} |"


def _markdown(text: str) -> str:
    """Escape what Markdown or HTML would interpret; an underscore inside a word is safe and stays readable."""
    text = " ".join(text.split()).replace("&", "&amp;")
    text = re.sub(r"[\\`*\[\]|~^#]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)
    return text.replace("<", "&lt;").replace(">", "&gt;")


def latex(report: Report) -> str:
    """Write the tables in the style of the booktabs package, the findings and notes as comments."""
    lines = ["% \\usepackage{booktabs}", *(f"% {' '.join(x.split())}" for x in [*report.findings, *report.notes])]
    for table in report.tables:
        lines += [
            "",
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{_latex(table.title)}. {_latex(table.note)}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            "\\toprule",
            _latex_row(table.header),
            "\\midrule",
            *map(_latex_row, table.rows),
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
        ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    first = "{}" if cells[0].startswith(("[", "*")) else ""  # which the end of the row before would take as its option
    return first + " & ".join(map(_latex, cells)) + " \\\\"


def _latex(text: str) -> str:
    """Escape what LaTeX would interpret, in one pass so that nothing is escaped twice."""
    return re.sub("|".join(map(re.escape, _LATEX)), lambda x: _LATEX[x[0]], " ".join(text.split()))


def html(report: Report, plots: Sequence[Path]) -> str:
    """Write one page with the plots embedded."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("yolo_coordbifpn.compare", "."), autoescape=True, trim_blocks=True)
    images = [(x.stem, base64.b64encode(x.read_bytes()).decode()) for x in plots]
    return environment.get_template("report.html.j2").render(report=report, images=images)
