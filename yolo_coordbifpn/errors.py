"""The package's own errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class RowError(ValueError):
    """A row of a model YAML that holds one of the registered blocks cannot be built; the message names the row."""


class WeightsError(ValueError):
    """Pretrained weights do not belong to the model that they are loaded into; the model is left as it was."""


class GraftError(ValueError):
    """The blocks cannot be put into a model YAML; the message says where and what is possible."""


class HostError(RuntimeError):
    """The Ultralytics in hand is missing, too old, of another shape, or already has a block of the same name."""


class CompareError(ValueError):
    """A comparison cannot be run as asked; what has been run is kept."""


class InspectError(ValueError):
    """There is no such model or picture to look at; the message says what was expected."""


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
