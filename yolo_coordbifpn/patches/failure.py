"""A host that cannot be patched raises the reason when one of our models is built; other models are not affected."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import HostError
from ..grafting.names import shipped, split, unscaled
from ..registry import TABLE
from ..registry.row_builder import modules
from .replacement import Undo, replace


def raise_when_built(host: ModuleType, failure: HostError) -> list[Undo]:
    """Make the host raise an error where it would build a model with registered blocks.

    Args:
        host: The module that defines `parse_model`.
        failure: Why the host could not be patched.

    Returns:
        Functions that undo it.
    """
    originals = {x: getattr(host, x) for x in ("parse_model", "check_yaml") if hasattr(host, x)}

    def parse_model(d: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if any(block.__name__ in modules(d) and not hasattr(host, block.__name__) for block in TABLE):
            raise failure
        return originals["parse_model"](d, *args, **kwargs)

    def check_yaml(file: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return originals["check_yaml"](file, *args, **kwargs)
        except FileNotFoundError:
            if unscaled(str(file)) in shipped() or split(Path(str(file)).name) is not None:
                raise failure from None
            raise

    ours = {"parse_model": parse_model, "check_yaml": check_yaml}
    return [replace(host, name, ours[name]) for name in originals]
