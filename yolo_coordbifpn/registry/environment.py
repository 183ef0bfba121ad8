"""A user's own blocks in other processes: DDP workers, and commands such as `yolo train`.

A block is known in the process that registered it. `register()` also writes where the class can be imported from into
an environment variable, which child processes inherit; in a shell, users set the variable themselves. An entry is a
Python name, never code: `package.module`, whose declared classes are registered (of a package also those that it
imports from its own modules), or `package.module:Class`, for a class that is not declared followed by `:sum` or by the
name of a function of that module for the channels. A module is imported when a model YAML, a model name or a checkpoint
first names an unknown block.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any

from ..blocks.declaration import ChannelRule, declaration, declared_in, defines
from . import TABLE
from .channel_rules import RULES
from .discovery import asks_for

VARIABLE = "YOLO_COORDBIFPN_BLOCKS"
_HERE = __name__.partition(".")[0]


def entries() -> list[str]:
    """Return the entries of the environment variable."""
    return os.environ.get(VARIABLE, "").replace(",", " ").split()


def declare(block: type[Any], channels: str | ChannelRule | None) -> None:
    """Write where a registered block can be imported from into the environment.

    A class of a script or a notebook, or one made inside a function, cannot be imported and is not written. If the
    function for the channels is not in the class's module, the entry is that module, which has to register the block.
    """
    module, name = block.__module__, block.__name__
    if module == "__main__" or module.partition(".")[0] == _HERE or _find(module, name) is not block:
        return
    rule = channels if isinstance(channels, str) else getattr(channels, "__name__", "")
    if channels in (None, declaration(block).channels):  # it comes with the class
        entry = f"{module}:{name}"
    elif isinstance(channels, str) or (rule not in RULES and _find(module, rule) is channels):
        entry = f"{module}:{name}:{rule}"
    else:
        entry = module
    others = [x for x in entries() if x != entry and not f"{x}:".startswith(f"{module}:{name}:")]
    os.environ[VARIABLE] = ",".join([*others, entry])


def seek(names: Collection[str] | None, register: Callable[..., None]) -> list[str]:
    """Register the declared blocks that may have one of these names.

    Args:
        names: Unknown names of modules or words of variants; None for all.
        register: Registers a block, as `yolo_coordbifpn.register`.

    Returns:
        Why some of them could not be registered.
    """
    problems = []
    for entry in entries():
        name = entry.partition(":")[2].partition(":")[0]
        if name and not asks_for(names, name):
            continue
        problem = load(entry, register)
        if problem:
            problems.append(problem)
    return problems


def load(entry: str, register: Callable[..., None]) -> str:
    """Register the blocks of one entry.

    Args:
        entry: An entry of the environment variable, `package.module:Class:rule`.
        register: Registers a block, as `yolo_coordbifpn.register`.

    Returns:
        Why they could not be registered, an empty string if they were.
    """
    module, _, rest = entry.partition(":")
    name, _, rule = rest.partition(":")
    try:
        home = _module(module)
        classes = [x for x, value in vars(home).items() if isinstance(value, type) and defines(home, value)]
        there = f"its classes are {', '.join(classes) or 'none'}"
        for word in filter(None, (name, rule if rule not in RULES else "")):
            if not hasattr(home, word):
                return f"{VARIABLE} names {entry}: {module} has no {word}; {there}"
        for cls in [getattr(home, name)] if name else declared_in(home):
            register(cls, rule if rule in RULES else getattr(home, rule) if rule else None)
    except Exception as error:  # of a user's module; the error of the model's row reports it
        return f"{VARIABLE} names {entry}: {type(error).__name__}: {error}"
    if name or any(_is_from(home, x) for x in TABLE):
        return ""
    return f"{VARIABLE} names {entry}, which declares no block with @block() and registers none; {there}"


def _is_from(home: ModuleType, block: type[Any]) -> bool:
    """Return whether a registered block is a user's that a module defines, or has imported and registered itself."""
    imported = vars(home).get(block.__name__) is block and block.__module__.partition(".")[0] != _HERE
    return imported or defines(home, block)


def _module(name: str) -> ModuleType:
    """Import a module, from the working folder too, where a console script such as `yolo` does not search."""
    top, here = name.partition(".")[0], os.getcwd()
    if top not in sys.modules and importlib.util.find_spec(top) is None and here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == top:
            error.args = (f"{error}, neither on Python's path nor in {here}",)
        raise


def _find(module: str, name: str) -> Any:
    """Return an attribute of a loaded module, None if there is none."""
    return getattr(sys.modules.get(module), name, None)
