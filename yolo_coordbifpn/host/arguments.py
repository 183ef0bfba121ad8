"""Arguments of the host's modes, parsed and checked as on its command line."""

from __future__ import annotations

from typing import Any

from ..errors import first_line
from .models import quiet


def read_arguments(given: dict[str, str]) -> dict[str, Any]:
    """Parse arguments of the host.

    Args:
        given: Values by key, as written on the command line.

    Returns:
        The values.

    Raises:
        ValueError: If the host has no such argument or refuses the value; the message is the first line of the host's.
    """
    from ultralytics.cfg import smart_value

    values = {key: smart_value(value) for key, value in given.items()}
    check_arguments(values)
    sizes = values.get("imgsz", 1)
    if not all(type(x) is int and x >= 1 for x in (sizes if isinstance(sizes, (list, tuple)) else [sizes])):
        raise ValueError(f"imgsz={given['imgsz']} is not a whole number of pixels, nor a list of them")
    classes = values.get("classes") or 0
    if not all(type(x) is int for x in (classes if isinstance(classes, (list, tuple)) else [classes])):
        raise ValueError(f"classes={given['classes']} is not a number of a class, nor a list of them")
    return values


def check_arguments(values: dict[str, Any]) -> None:
    """Check arguments of the host, whatever their mode.

    Raises:
        ValueError: If the host has no such argument or refuses the value; the message is the first line of the host's.
    """
    from ultralytics.cfg import get_cfg
    from ultralytics.utils import DEFAULT_CFG_DICT

    try:
        with quiet():  # it logs the whole help of its command line
            get_cfg(DEFAULT_CFG_DICT, values)
    except (SyntaxError, TypeError, ValueError, AssertionError) as error:
        raise ValueError(first_line(error)) from error


def check_device(device: Any) -> None:
    """Check that the host can use a device, such as `cpu`, `0` or `mps`.

    Raises:
        ValueError: If it cannot; the message is the first line of the host's.
    """
    from ultralytics.utils.torch_utils import select_device

    try:
        with quiet():
            select_device(device)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(f"device={device}: {first_line(error)}") from error
