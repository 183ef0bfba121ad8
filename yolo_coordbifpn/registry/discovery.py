"""Blocks that are registered when a model YAML, or a checkpoint, first names them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container


class Discovery:
    """The blocks that are not registered yet.

    Attributes:
        missed: Why declared blocks could not be registered in the last search.
    """

    def __init__(self, known: Callable[[], Collection[str]]) -> None:
        """Start without any block.

        Args:
            known: Returns the names of the blocks that are registered.
        """
        self.missed: list[str] = []
        self._known = known
        self._later: dict[str, Callable[[], None]] = {}
        self._seek: Callable[[Collection[str]], list[str]] = lambda names: []

    def add_later(self, name: str, register: Callable[[], None]) -> None:
        """Add a block that is registered when a model YAML first names it, unless the host has something of that name.

        Args:
            name: Name of the block.
            register: Registers it.
        """
        self._later[name] = register

    def seek_by(self, seek: Callable[[Collection[str]], list[str]]) -> None:
        """Set the function that searches for unknown names.

        Args:
            seek: Takes the names, registers the blocks that it finds, and returns why others could not be registered.
        """
        self._seek = seek

    def find(self, names: Collection[str], host: Container[str] = ()) -> None:
        """Register the blocks among some names that are not registered yet and not the host's.

        Args:
            names: Names of modules, such as `SE` or `C3k2_CoordAtt`.
            host: Names that the host's parser knows.
        """
        unknown = [x for x in names if x not in host and "." not in x]
        for name, register in list(self._later.items()):
            if name not in host and any(x == name or x.endswith(f"_{name}") for x in unknown):
                register()
                self._later.pop(name, None)  # another thread may have done the same
        rest = [x for x in unknown if not any(x == y or x.endswith(f"_{y}") for y in list(self._known()))]
        self.missed = self._seek(rest) if rest else []
