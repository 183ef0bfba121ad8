"""How many channels a block outputs, and which arguments it is built with, given its input channels."""

from __future__ import annotations

from typing import Any

from ..blocks.declaration import ChannelRule, Channels
from ..errors import RowError


def _same(c1: Channels, args: list[Any]) -> tuple[int, list[Any]]:
    """Output channels are those of the input; several inputs must have equal ones."""
    if isinstance(c1, int):
        return c1, [c1, *args]
    if len(set(c1)) > 1:
        raise RowError(
            f"the inputs have {', '.join(map(str, c1))} channels and must have equal ones; bring them to one width "
            "with a 1x1 Conv each, or use BiFPN_Concat"
        )
    return c1[0], [c1, *args]


def _sum(c1: Channels, args: list[Any]) -> tuple[int, list[Any]]:
    """Output channels are the sum over the inputs, as in a concatenation."""
    return c1 if isinstance(c1, int) else sum(c1), [c1, *args]


RULES: dict[str, ChannelRule] = {"same": _same, "sum": _sum}
