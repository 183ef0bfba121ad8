"""Blocks that are registered no sooner than a model YAML, or a checkpoint that is loaded safely, names them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container


class Discovery:
    """What is known of blocks that are not registered yet.

    Attributes:
        missed: Why declared blocks that were looked for last could not be had.
    """

    def __init__(self, known: Callable[[], Collection[str]]) -> None:
        """Start with nothing to find.

        Args:
            known: Gives the names of the blocks that are registered.
        """
        self.missed: list[str] = []
        self._known = known
        self._later: dict[str, Callable[[], None]] = {}
        self._seek: Callable[[Collection[str]], list[str]] = lambda names: []

    def add_later(self, name: str, register: Callable[[], None]) -> None:
        """Have a block registered when a model YAML first names it, and the host has nothing of this name."""
        self._later[name] = register

    def seek_by(self, seek: Callable[[Collection[str]], list[str]]) -> None:
        """Have names that nobody knows sought, by a function that registers what it finds and returns problems."""
        self._seek = seek

    def find(self, names: Collection[str], host: Container[str] = ()) -> None:
        """Register those blocks of some names that are registered when they are first named.

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
