"""The blocks of this package: every declared class in a module of `blocks`, and the attention modules of timm."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from .. import blocks
from ..blocks import timm_attention
from ..blocks.declaration import declared_in
from ..errors import HostError
from .discovery import asks_for


@functools.cache
def declared() -> list[type[nn.Module]]:
    """Return the declared classes of the package, by the names of their modules."""
    homes = [importlib.import_module(f"{blocks.__name__}.{x.name}") for x in pkgutil.iter_modules(blocks.__path__)]
    return [cls for home in homes for cls in declared_in(home)]


def seek(names: Collection[str] | None, later: list[type[nn.Module]], register: Callable[[Any], None]) -> list[str]:
    """Register blocks of this package that are registered only when they are named.

    Args:
        names: Names of modules or words of variants; None for all.
        later: These blocks.
        register: Registers a block, as `yolo_coordbifpn.register`.

    Returns:
        Why some of them could not be registered: this host has its own block of the name, which it keeps.
    """
    problems = []
    for cls in [x for x in later if asks_for(names, x.__name__)]:
        try:
            register(cls)
        except HostError as error:
            problems += [str(error)] if names is not None else []
    return problems


def seek_timm(names: Collection[str] | None, register: Callable[[Any], None]) -> list[str]:
    """Register the attention modules of timm that are asked for by name, such as `timm_eca` or `C3k2_timm_eca`.

    Args:
        names: Names of modules or words of variants; for None, nothing is registered.
        register: Registers a block, as `yolo_coordbifpn.register`.

    Returns:
        Why some of them could not be registered.
    """
    problems = []
    for name in {x[1] for x in (re.search(r"(?:^|_)(timm_[a-z0-9_]+)$", y) for y in names or ()) if x}:
        try:
            register(getattr(timm_attention, name))
        except AttributeError as error:
            kinds = ", ".join(f"timm_{x}" for x in timm_attention.kinds())
            problems.append(
                f"{error}; there are {kinds}" if kinds else f'{name} needs timm: pip install "yolo_coordbifpn[zoo]"'
            )
    return problems
