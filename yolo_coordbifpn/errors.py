"""The package's own errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class RowError(ValueError):
    """A row of a model YAML with a registered block cannot be built; the message names the row."""


class WeightsError(ValueError):
    """Pretrained weights do not fit the model that they are loaded into; the model is not changed."""


class GraftError(ValueError):
    """The blocks cannot be put into a model YAML; the message says where, and what is possible."""


class HostError(RuntimeError):
    """Ultralytics is missing, too old, not laid out as expected, or already has a block of the same name."""


class CompareError(ValueError):
    """A comparison cannot be run as requested; finished runs are kept."""


class InspectError(ValueError):
    """A model, an image, data or an argument is not what a command needs; the message says what was expected."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not empty, else the name of its type."""
    return next((x.strip() for x in str(error).splitlines() if x.strip()), type(error).__name__)


@contextlib.contextmanager
def host_needed() -> Iterator[None]:
    """Raise a missing Ultralytics as a `HostError` that says how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "ultralytics":
            raise
        raise HostError(
            "Ultralytics is not installed: pip install ultralytics (or ultralytics-opencv-headless)"
        ) from error
