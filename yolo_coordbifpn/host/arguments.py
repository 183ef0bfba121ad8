"""Arguments of the host's modes, parsed and checked as on its command line."""

from __future__ import annotations

from typing import Any

from ..errors import InspectError, first_line
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
    from ultralytics.cfg import get_cfg, smart_value
    from ultralytics.utils import DEFAULT_CFG_DICT

    values = {key: smart_value(value) for key, value in given.items()}
    try:
        with quiet():  # it logs the whole help of its command line
            get_cfg(DEFAULT_CFG_DICT, values)
    except (SyntaxError, TypeError, ValueError, AssertionError) as error:
        raise ValueError(first_line(error)) from error
    sizes = values.get("imgsz", 1)
    if not all(type(x) is int and x >= 1 for x in (sizes if isinstance(sizes, (list, tuple)) else [sizes])):
        raise ValueError(f"imgsz={given['imgsz']} is not a whole number of pixels, nor a list of them")
    return values


def check_data(data: str) -> None:
    """Open a data YAML for detection, segmentation, poses or oriented boxes as the host does.

    Args:
        data: Its name, as the host takes it.

    Raises:
        InspectError: If the host cannot open it.
    """
    from ultralytics.data.utils import check_det_dataset

    try:
        check_det_dataset(data)
    except Exception as error:  # the host raises many kinds for a user's file
        raise InspectError(f"data={data}: {first_line(error)}") from error
