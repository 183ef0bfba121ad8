"""Arguments of the host's modes, read and checked as its command line does."""

from __future__ import annotations

from typing import Any


def read_arguments(given: dict[str, str]) -> dict[str, Any]:
    """Read arguments of the host.

    Args:
        given: Values by key, as written.

    Returns:
        The values.

    Raises:
        ValueError: If the host has no such argument, or does not take the value; the message is the host's first line.
    """
    from ultralytics.cfg import get_cfg, smart_value
    from ultralytics.utils import DEFAULT_CFG_DICT

    values = {key: smart_value(value) for key, value in given.items()}
    try:
        get_cfg(DEFAULT_CFG_DICT, values)
    except (SyntaxError, TypeError, ValueError, AssertionError) as error:
        raise ValueError(next(x for x in str(error).splitlines() if x.strip())) from error
    return values
