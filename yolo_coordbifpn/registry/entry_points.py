"""Blocks of installed packages, by the entry points of the group `yolo_coordbifpn.blocks`.

    [project.entry-points."yolo_coordbifpn.blocks"]
    MyBlock = "my_package.blocks:MyBlock"

The name is the class name, the name in model YAMLs. A package is imported when a model first names its block.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .discovery import asks_for

GROUP = "yolo_coordbifpn.blocks"


def seek(names: Collection[str] | None, register: Callable[[Any], None]) -> list[str]:
    """Register the blocks of installed packages that may have one of these names.

    Args:
        names: Names of modules or words of variants; None for all.
        register: Registers a block, as `yolo_coordbifpn.register`.

    Returns:
        Why some of them could not be registered; each sentence names the block and its package.
    """
    by_name: dict[str, dict[str, EntryPoint]] = {}
    for entry in found():
        if asks_for(names, entry.name):
            by_name.setdefault(entry.name, {})[entry.value] = entry
    problems = []
    for name, entries in by_name.items():
        if len(entries) > 1:
            packages = " and ".join(sorted(f"{package(x)} ({x.value})" for x in entries.values()))
            problems.append(f"{name} is a block of {packages}: uninstall one of them")
            continue
        problem = load(next(iter(entries.values())), register)
        problems += [problem] if problem else []
    return problems


def found() -> list[EntryPoint]:
    """Return the entry points of all installed packages."""
    return list(entry_points(group=GROUP))


def load(entry: EntryPoint, register: Callable[[Any], None]) -> str:
    """Register the block of an entry point; return why it could not be registered, an empty string if it was."""
    where = f"{entry.name} of {package(entry)} ({entry.value})"
    try:
        cls = entry.load()
        if getattr(cls, "__name__", "") != entry.name:
            return f"{where}: the name of the entry point must be that of the class, which is {cls!r}"
        register(cls)
    except Exception as error:  # of somebody's package; the error of the model's row reports it
        return f"{where}: {type(error).__name__}: {error}"
    return ""


def package(entry: EntryPoint) -> str:
    """Return the name and version of the distribution that an entry point is from."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"
