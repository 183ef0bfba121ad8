"""The text of a model YAML with changed rows; everything else in the file stays, comments too.

The parser's marks say where each row is in the text. `ruamel.yaml` is not used: it would be one more dependency, it
rewrites the spacing of rows and comments, and it does not know that the comments hold indices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ..errors import GraftError
from ..graph.rows import flow
from .row_graph import Node, Rows


@dataclass
class _Written:
    """One row as written in the file."""

    parts: list[str]  # text of from, repeats, module and args
    values: list[Any]
    lead: str  # the blank lines and comments before it
    comment: str


def rewrite(text: str, rows: Rows) -> str:
    """Write changed rows into the text of the model YAML from which they were read.

    A row that does not change keeps its text. The index of a row in its comment is updated.

    Args:
        text: The model YAML's text.
        rows: Its changed rows.

    Returns:
        The new text.

    Raises:
        GraftError: If the text is not a model YAML.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise GraftError(f"this is not valid YAML: {error}") from error
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    sections = {key.value: node for key, node in pairs if key.value in ("backbone", "head")}
    if len(sections) != 2 or not all(isinstance(x, yaml.SequenceNode) and x.value for x in sections.values()):
        raise GraftError("a model YAML has a list of rows under `backbone` and one under `head`; this one does not")
    written = [x for name in ("backbone", "head") for x in _read(text, sections[name])]
    cfg = rows.cfg()
    values, size = [*cfg["backbone"], *cfg["head"]], len(cfg["backbone"])
    span = {"backbone": range(size), "head": range(size, len(values))}
    for name, section in sorted(sections.items(), key=lambda x: -x[1].start_mark.index):  # the last first
        texts = {i: _row(values[i], None if (k := rows.nodes[i].origin) is None else written[k]) for i in span[name]}
        if section.flow_style:
            start, end, new = section.start_mark.index, section.end_mark.index, f"[{', '.join(texts.values())}]"
        else:
            start, end = _line_start(text, section.value[0].start_mark.index), _end(text, section.value[-1])
            new = "".join(_line(rows.nodes[i], i, row, written) for i, row in texts.items())
        text = text[:start] + new + text[end:]
    return _add_keys(text, root, rows.keys)


def put_scale_first(text: str, scale: str) -> str:
    """Move the line of a scale to the front of `scales`: the host takes the first if the file's name has none."""
    line = re.search(rf"^[ ]+{re.escape(scale)}: *\[.*\n", text, re.MULTILINE)
    start = re.search(r"^scales:.*\n(?:[ ]*#.*\n)*", text, re.MULTILINE)
    if line is None or start is None:
        return text
    rest = text[: line.start()] + text[line.end() :]
    return rest[: start.end()] + line[0] + rest[start.end() :]


def _add_keys(text: str, root: Any, keys: dict[str, Any]) -> str:
    """Write new top-level keys in front of the first one."""
    first = root.value[0][0].start_mark
    between = ", " if root.flow_style else "\n" + " " * first.column
    present = {key.value for key, _ in root.value}
    new = "".join(f"{key}: {flow(value)}{between}" for key, value in keys.items() if key not in present)
    return text[: first.index] + new + text[first.index :]


def _read(text: str, section: Any) -> list[_Written]:
    """Read the rows of one section as written in the text."""
    found: list[_Written] = []
    before = None  # end of the row before
    for row in section.value:
        parts = [text[x.start_mark.index : x.end_mark.index] for x in row.value]
        lead = comment = ""
        if row.flow_style and not section.flow_style:  # a row on a line of its own
            lead = "" if before is None else text[before : _line_start(text, row.start_mark.index)]
            comment = text[row.end_mark.index : _end(text, row)].partition("#")[2].strip()
        found.append(_Written(parts, [yaml.safe_load(x) for x in parts], lead, comment))
        before = _end(text, row)
    return found


def _line_start(text: str, index: int) -> int:
    return text.rfind("\n", 0, index) + 1


def _end(text: str, row: Any) -> int:
    """Return the end of a row's last line."""
    index = row.end_mark.index
    if not row.flow_style:  # a row in block style ends where the next node begins
        return index if index == len(text) else _line_start(text, index)
    return (text.find("\n", index) + 1) or len(text)


def _row(row: list[Any], old: _Written | None) -> str:
    """Write one row, with the original text of the parts that have not changed."""
    if old is None or any("\n" in x for x in old.parts):
        return f"[{', '.join(_text(x) for x in row)}]"
    return f"[{', '.join(x if value == was else _text(value) for x, value, was in zip(old.parts, row, old.values))}]"


def _line(node: Node, index: int, row: str, written: Sequence[_Written]) -> str:
    """Write the line of one row with its comment, after the blank lines and comments before it."""
    old = None if node.origin is None else written[node.origin]
    comment = str(index) if old is None else _renumbered(old.comment, node.origin, index)
    if node.module.startswith("BiFPN_"):
        comment = re.sub(r"^cat\b", "fuse", comment)
    if node.note:
        between = " " if node.note.startswith("(") else ", "
        comment = f"{comment}{between}{node.note}" if comment else node.note
    return f"{old.lead if old else ''}  - {row}{f' # {comment}' if comment else ''}\n"


def _text(value: Any) -> str:
    """Write one part of a row in the style of the host's files."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"[{', '.join(_quoted(x) for x in value)}]"
    return flow(value)


def _quoted(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_quoted(x) for x in value)}]"
    if isinstance(value, bool):
        return str(value)
    return f'"{value}"' if isinstance(value, str) and value not in ("None", "nc") else _text(value)


def _renumbered(comment: str, old: int | None, new: int) -> str:
    """Replace the row's own index in its comment, such as `7-P5/32`, `16 (P3/8-small)` or `X3 (21), fpn_blocks.1`."""
    return re.sub(rf"(?<![\w/.]){old}(?![\w.])", str(new), comment, count=1)
