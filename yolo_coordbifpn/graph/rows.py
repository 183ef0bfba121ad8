"""Rows of a model YAML, `[from, repeats, module, args]`: their checks and their names in messages."""

from __future__ import annotations

from typing import Any

import yaml

from ..errors import GraftError, RowError

KEY = "yolo_coordbifpn"  # top-level key of a model YAML for what its rows do not say, see `grafting.necks` and `starts`
MOST_REPEATS = 1000  # more is a mistake, and the host would build for hours


def level(stride: float | None) -> str:
    """Name the level of the feature maps of a stride: P3 for 8."""
    return f"P{int(stride or 1).bit_length() - 1}"


def check_rows(cfg: Any, places: bool = True) -> list[Any]:
    """Check that a model YAML has rows of four parts that read layers before them.

    Args:
        cfg: The model YAML as a dict.
        places: Whether the layers that a row reads are counted in rows, as in Ultralytics.

    Returns:
        All rows, in the order of the layers.

    Raises:
        GraftError: If there is no backbone or head, or a row is malformed; the message names the row.
    """
    if not isinstance(cfg, dict) or not all(isinstance(cfg.get(x), list) and cfg[x] for x in ("backbone", "head")):
        raise GraftError("a model YAML has a list of rows under `backbone` and one under `head`; this one does not")
    others = other_sections(cfg)
    if others:
        raise GraftError(
            f"this model YAML has rows under {' and '.join(others)} too; blocks are put into those under backbone and "
            "head alone. Move the other rows to the end of the backbone or the beginning of the head"
        )
    rows: list[Any] = cfg["backbone"] + cfg["head"]
    for index, row in enumerate(rows):
        try:
            check_row(row, index, places)
        except RowError as error:
            raise GraftError(f"{where(cfg, index, row)}: {error}") from error
    return rows


def other_sections(cfg: dict[str, Any]) -> list[str]:
    """Return the keys of a model YAML, besides `backbone` and `head`, under which there are rows."""
    return [
        str(key)
        for key, rows in cfg.items()
        if key not in ("backbone", "head")
        and isinstance(rows, list)
        and rows
        and all(isinstance(row, list) and len(row) == 4 and isinstance(row[2], str) for row in rows)
    ]


def check_row(row: Any, index: int, places: bool = True) -> None:
    """Raise a `RowError` if `row` is malformed as row `index` of a model YAML; of `places` see `check_rows`."""
    if not isinstance(row, (list, tuple)) or len(row) != 4:
        parts = f"{len(row)} of them" if isinstance(row, (list, tuple)) else repr(row)
        raise RowError(f"a row has four parts, [from, repeats, module, args], got {parts}")
    sources, repeats, module, args = row
    if not isinstance(module, str):
        raise RowError(f"the module must be a name, got {module!r}; the parts are [from, repeats, module, args]")
    if type(repeats) is not int or not 1 <= repeats <= MOST_REPEATS:
        raise RowError(f"repeats must be a positive whole number up to {MOST_REPEATS}, got {repeats!r}")
    if not isinstance(args, (list, tuple)):
        raise RowError(f"the arguments must be a list, got {args!r}")
    for source in sources if isinstance(sources, (list, tuple)) and sources else [sources]:
        if places or type(source) is not int:
            check_source(source, index)


def check_source(source: Any, index: int) -> None:
    """Raise a `RowError` if row `index` cannot have `source` in its `from`."""
    if type(source) is not int:
        raise RowError(f"`from` must be a layer index or a list of them, got {source!r}")
    if not -max(index, 1) <= source < index:
        last = f"-1 to read the layer before, or 0...{index - 1}" if index else "-1, the image"
        raise RowError(f"`from` is {source}, but at this row there are {index} layers: use {last}")


def where(cfg: dict[str, Any], index: int, row: Any) -> str:
    """Name a row by its file, index, section and text, so that a user finds it."""
    first_head = len(cfg["backbone"])
    section = f"backbone row {index}" if index < first_head else f"head row {index - first_head}"
    file = f"{cfg['yaml_file']}, " if cfg.get("yaml_file") else ""
    return f"{file}layer {index} ({section}) {flow(row)}"


def flow(row: Any) -> str:
    """Write a row, or a part of one, on one line as YAML."""
    try:
        return yaml.safe_dump(row, default_flow_style=True, width=10000).strip().removesuffix("\n...")
    except yaml.YAMLError:  # a row made in Python may hold anything
        return str(row)
