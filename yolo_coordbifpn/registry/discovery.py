"""Blocks that are registered when a model YAML, a model name or a checkpoint first names them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from ..blocks.declaration import is_declared

Source = Callable[["Collection[str] | None"], list[str]]


def asks_for(names: Collection[str] | None, block: str) -> bool:
    """Return whether some names ask for a block.

    Args:
        names: Class names, stock blocks with a class inside (`C3k2_CoordAtt`), or words of variants; None for all.
        block: Class name of the block.
    """
    return names is None or any(x in (block, block.lower()) or x.endswith(f"_{block}") for x in names)


class Discovery:
    """The places where blocks that are not registered yet may be found.

    Attributes:
        missed: Why blocks could not be registered in the last search.
    """

    def __init__(self, known: Callable[[], Collection[str]]) -> None:
        """Start without any source.

        Args:
            known: Returns the names of the blocks that are registered.
        """
        self.missed: list[str] = []
        self._known = known
        self._sources: list[Source] = []

    def add_source(self, source: Source) -> None:
        """Add a function that takes the names, registers the blocks that it finds, and returns why others failed.

        Sources are asked in the order in which they are added. For None a source registers all its blocks.
        """
        self._sources.append(source)

    def find(self, names: Collection[str], host: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Register the blocks among some names that are not registered yet and not the host's.

        Args:
            names: Names of modules, such as `SE` or `C3k2_CoordAtt`, or words of variants.
            host: The names that the host's parser knows, with what they stand for. A declared block that a fork imports
                there is no module of the host.
        """
        self.missed = []
        names = [x for x in names if (x not in host or is_declared(host[x])) and "." not in x]
        for source in self._sources:
            known = list(self._known())
            names = [
                x
                for x in names
                if x not in known and not any(x.endswith(f"_{y}") and x.removesuffix(f"_{y}") in host for y in known)
            ]
            if names:
                self.missed += source(names)

    def find_all(self) -> None:
        """Register the blocks of every source."""
        self.missed = [problem for source in self._sources for problem in source(None)]
