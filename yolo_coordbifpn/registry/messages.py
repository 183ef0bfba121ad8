"""Error messages for rows that cannot be built."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Container
from typing import Any, NoReturn

from torch import nn

from ..blocks.declaration import declaration
from ..errors import RowError
from ..graph.rows import where
from .table import BlockTable

_OWN = (
    "there is no module {0} here. A newer Ultralytics may have it. If it is a block of your own, it is not registered "
    "in this process: yolo_coordbifpn.register() is valid in the process that calls it, and in its child processes if "
    "they can import the class. Put the class into a module on Python's path and name it: "
    "YOLO_COORDBIFPN_BLOCKS=my_package.blocks:{0}."
)


def explain_unknown(
    error: BaseException, cfg: dict[str, Any], index: int, row: Any, table: BlockTable, host: Container[str]
) -> None:
    """Explain a row with an unknown module.

    Args:
        error: The host's error; its message becomes the explanation, unless a `RowError` is raised.
        cfg: The model YAML.
        index: Index of the row, counted through backbone and head.
        row: The row.
        table: The registered blocks.
        host: Names that the host's parser knows.

    Raises:
        RowError: If a registered block has a similar name.
    """
    word = str(row[2]).lower()
    near = difflib.get_close_matches(word, [x.lower() for x in table.names], 1, 0.8)
    aliases = {x.lower(): block.__name__ for block in table for x in declaration(block).aliases}
    name = aliases.get(word) or next((x for x in table.names if [x.lower()] == near), None)
    stock, _, inside = str(row[2]).partition("_")
    if not name and stock in host and inside:  # such as C3k2_CoordAt
        name = next((f"{stock}_{x}" for x in difflib.get_close_matches(inside, table.names, 1, 0.8)), None)
    if name:
        raise RowError(f"{where(cfg, index, row)}: unknown module {row[2]}. Did you mean {name}?") from error
    if isinstance(row[2], str) and row[2] not in host:
        missed = "".join(f" {x}." for x in table.discovery.missed)
        error.args = (f"{where(cfg, index, row)}: {_OWN.format(row[2])}{missed}",)


def fail(error: BaseException, cfg: dict[str, Any], index: int, row: Any, usage: str) -> NoReturn:
    """Raise the error of a row as a `RowError` that names the row and ends with the usage of its block."""
    if isinstance(error, ValueError):
        reason = str(error).rstrip(".")
    elif isinstance(error, SyntaxError):  # of the host, which reads strings among the arguments as Python literals
        reason = f"an argument is a string that Python cannot read as a value ({error.msg})"
    else:
        reason = f"{type(error).__name__}: {error}"
    raise RowError(f"{where(cfg, index, row)}: {reason}. {usage}".rstrip()) from error


def signature(block: type[nn.Module]) -> inspect.Signature | None:
    """Return the signature of a block's constructor, None if it has none or an annotation cannot be evaluated."""
    try:
        return inspect.signature(block)
    except (TypeError, ValueError, NameError):
        return None


def usage(block: type[nn.Module], stock: str | None, host: Container[str]) -> str:
    """Describe the arguments of a row: the stock block's, or those of the block's constructor without the channels.

    Args:
        block: The registered block.
        stock: Name of the stock block that it goes into, None if it stands alone.
        host: Names that the host's parser knows.
    """
    if stock is not None:
        return f"Its arguments are those of {stock}." if stock in host else ""
    takes = signature(block)
    if takes is None:
        return ""
    texts = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in takes.parameters.values()]
    return f"The arguments of {block.__name__} are [{', '.join(texts[1:])}]; the channels are filled in."
