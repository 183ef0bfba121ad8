"""A user's own blocks in other processes: workers of several GPUs, and commands such as `yolo train`.

A block is known in the process that registered it. `register()` also writes where the class is found into an
environment variable, which the processes started from there inherit; in the shell a user sets it himself. An entry is a
Python name, never code: `package.module`, which registers its blocks when it is imported, or `package.module:Class`,
with `:sum` or the name of a function of that module behind it for the channels. A module is imported when a model YAML,
or a checkpoint that is loaded safely, first names a block that nobody knows.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Collection
from typing import Any

from .channel_rules import RULES, ChannelRule

VARIABLE = "YOLO_COORDBIFPN_BLOCKS"
_HERE = __name__.partition(".")[0]


def entries() -> list[str]:
    """Return what the environment declares."""
    return os.environ.get(VARIABLE, "").replace(",", " ").split()


def declare(block: type[Any], channels: str | ChannelRule) -> None:
    """Write where a registered block is found into the environment, if other processes can import it.

    A class of a script or a notebook, or one made inside a function, has no place to import it from. A function for
    the channels that is none of the class's module is left to that module, to register its block itself.
    """
    module, name = block.__module__, block.__name__
    if module == "__main__" or module.partition(".")[0] == _HERE or _find(module, name) is not block:
        return
    rule = channels if isinstance(channels, str) else getattr(channels, "__name__", "")
    if isinstance(channels, str) or (rule not in RULES and _find(module, rule) is channels):
        entry = f"{module}:{name}" if rule == "same" else f"{module}:{name}:{rule}"
    else:
        entry = module
    others = [x for x in entries() if x != entry and not f"{x}:".startswith(f"{module}:{name}:")]
    os.environ[VARIABLE] = ",".join([*others, entry])


def seek(names: Collection[str], register: Callable[..., None]) -> list[str]:
    """Register the declared blocks that may go by one of these names.

    Args:
        names: Names of modules in a model YAML that nobody knows.
        register: Enters a block, as `yolo_coordbifpn.register`.

    Returns:
        Why some of them could not be had.
    """
    problems = []
    for entry in entries():
        module, _, rest = entry.partition(":")
        name, _, rule = rest.partition(":")
        if name and not any(x == name or x.endswith(f"_{name}") for x in names):
            continue
        try:
            home = importlib.import_module(module)
            if name:
                register(getattr(home, name), rule if rule in RULES else getattr(home, rule) if rule else "same")
        except Exception as error:  # whatever a user's module does, the model's own error is told with it
            problems.append(f"{VARIABLE} names {entry}: {type(error).__name__}: {error}")
    return problems


def _find(module: str, name: str) -> Any:
    """Return what a loaded module has under a name."""
    return getattr(sys.modules.get(module), name, None)
