"""What the patched parser calls: it checks and resolves rows of registered blocks, and explains their errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from .. import blocks
from ..blocks.declaration import Channels
from ..errors import HostError, RowError
from ..graph.bottleneck import attend_inside
from ..graph.rows import KEY, check_row, other_sections, where
from ..graph.starts import wrap
from .messages import explain_unknown, fail, signature, usage
from .probe import origin, probe
from .table import BlockTable, clash


class RowBuilder:
    """The rows of registered blocks in the models that the host builds."""

    def __init__(self, table: BlockTable, report: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Build rows of the blocks of a table.

        Args:
            table: The registered blocks.
            report: Called with each model YAML that is built with `verbose`.
        """
        self._table = table
        self._report = report

    def __contains__(self, block: object) -> bool:
        """Return whether a class is a registered block."""
        return block in self._table

    def stock(self, cfg: dict[str, Any], host: Mapping[str, Any], verbose: bool = False) -> dict[str, Any]:
        """Check the rows of registered blocks, and rename modules such as `C3k2_CoordAtt` to the stock block.

        Blocks that are registered when they are first named are registered here.

        Args:
            cfg: The model YAML; it is not changed. What is not a dict, in a fork, is returned as it is.
            host: The names that the host's parser knows, with what they stand for.
            verbose: Whether the host logs the model.

        Returns:
            A model YAML for the host to build, with copies of the rows of registered blocks; `cfg` if there are none.

        Raises:
            RowError: If a row of a registered block is malformed, or a model with one has rows in other sections.
        """
        if not isinstance(cfg, dict):
            return cfg
        if verbose and self._report is not None:
            self._report(cfg)
        rows = all_rows(cfg)
        self._table.discovery.find(modules(cfg), host)
        found, others = self._mentions(cfg, host), other_sections(cfg)
        beside = [self._mention(row, host) for section in others for row in cfg[section]]
        mention = next(filter(None, (*found.values(), *beside)), None)
        if others and mention is not None:
            raise RowError(
                f"there are rows under `{'` and `'.join(others)}`: {mention[1].__name__} is built where all rows are "
                "under `backbone` and `head`; move the others to the end of the backbone or the beginning of the head"
            )
        for index, (stock, block) in found.items():
            row = rows[index]
            try:
                check_row(row, index)
                if stock not in host and stock is not None:
                    missed = "".join(f". {x}" for x in self._table.discovery.missed)
                    raise RowError(f"there is no stock block {stock} for {block.__name__} to go into{missed}")
            except RowError as error:
                fail(error, cfg, index, row, usage(block, stock, host))
            source = [*row[0]] if isinstance(row[0], (list, tuple)) else row[0]
            rows[index] = [source, row[1], stock or row[2], [*row[3]]]  # the host writes into the arguments
        if not found:
            return cfg
        size = len(cfg["backbone"])
        return {**cfg, "backbone": rows[:size], "head": rows[size:]}

    def finish(self, layers: nn.Sequential, cfg: dict[str, Any], host: Mapping[str, Any]) -> nn.Sequential:
        """Complete the layers that the host has built.

        The registered block of rows such as `C3k2_CoordAtt` is put into the stock layer. The blocks that a
        trained model has inside a `ReZero` are put inside one, see `graph.starts`.

        Args:
            layers: The model's layers, changed in place.
            cfg: The model YAML as it was given.
            host: The names that the host's parser knows, with what they stand for.

        Raises:
            RowError: If a stock block has no bottleneck for the registered one, or that fails on small feature maps.
        """
        if not isinstance(cfg, dict):
            return layers
        for index, (name, block) in self._mentions(cfg, host).items():
            if name is None or index >= len(layers):  # a fork may return the first layers alone
                continue
            layer: Any = layers[index]
            try:
                count = attend_inside(layer, lambda c1, block=block: self._inside(block, c1))  # type: ignore[misc]
                if not count:
                    raise RowError(f"{name} has no bottleneck with a k x k convolution for {block.__name__} to follow")
            except ValueError as error:
                raise RowError(f"{where(cfg, index, all_rows(cfg)[index])}: {error}") from error
            layer.np = sum(x.numel() for x in layer.parameters())
        for path in (cfg.get(KEY) or {}).get("rezero", ()):
            wrap(layers, path)
        return layers

    def _mentions(self, cfg: dict[str, Any], host: Mapping[str, Any]) -> dict[int, tuple[str | None, type[nn.Module]]]:
        """Find the rows that name a registered block.

        Returns:
            By index of the row, the stock block that the registered one goes into, None if it stands alone, and the
            registered block.
        """
        found = {index: self._mention(row, host) for index, row in enumerate(all_rows(cfg))}
        return {index: mention for index, mention in found.items() if mention is not None}

    def _mention(self, row: Any, host: Mapping[str, Any]) -> tuple[str | None, type[nn.Module]] | None:
        """Find the registered block that a row names, in whichever part of the row."""
        words = row if isinstance(row, (list, tuple, dict)) else [row]
        for word in (x for x in words if isinstance(x, str)):
            block = self._table.named(word)
            if block is not None and not clash(block, host):
                return None, block
            if word not in host:
                ends = [
                    (word.removesuffix(f"_{x.__name__}"), x) for x in self._table if word.endswith(f"_{x.__name__}")
                ]
                if ends:  # a stock block is more likely the first part, then the longer name the last
                    return max(ends, key=lambda end: (end[0] in host, len(end[1].__name__)))
        return None

    def _inside(self, block: type[nn.Module], c1: int) -> nn.Module:
        """Build a block that follows a convolution of `c1` channels."""
        c2, args = self._table.rule(block)(c1, [])
        if c2 != c1:
            raise RowError(f"{origin(block)} makes {c2} channels out of {c1}; inside a stock block it must keep them")
        if not is_own(block):
            probe(block, args, c1)
        return block(*args)

    def resolve(
        self, block: type[nn.Module], cfg: dict[str, Any], ch: Sequence[int], index: int, source: Any, args: list[Any]
    ) -> tuple[int, list[Any]]:
        """Resolve one row of a registered block.

        Args:
            block: The class that the row names.
            cfg: The model YAML.
            ch: Output channels of the layers so far; for the first row, of the image, which old parsers keep as first.
            index: Index of the row, counted through backbone and head.
            source: The row's `from`.
            args: The row's arguments.

        Returns:
            Output channels of the layer, and the full arguments of the block.

        Raises:
            RowError: If a block with several inputs is repeated, the arguments are too many or too few, or a block from
                elsewhere fails on small feature maps.
            HostError: If the parser of a fork gets its model as something else than a dict.
        """
        if not isinstance(cfg, dict):
            raise HostError(f"{block.__name__} needs a model YAML as a dict, this parser got {type(cfg).__name__}")
        repeats = all_rows(cfg)[index][1]
        if isinstance(source, list) and repeats != 1:
            raise RowError(f"a block with several inputs cannot be repeated; repeats must be 1, got {repeats}")
        # `ch` begins with the image in the YOLOv5 of 2020 and its forks; in other forks a row may have several outputs
        front = 1 if len(ch) == index + 1 > 1 else 0
        read = [ch[x + front if x >= 0 else x] for x in (source if isinstance(source, list) else [source])]
        c1: Channels = read if isinstance(source, list) else read[0]
        c2, full = self._table.rule(block)(c1, args)
        takes = signature(block)
        try:
            if takes is not None:
                takes.bind(*full)
        except TypeError as error:
            raise RowError(f"got {len(args)} arguments, which are too many or too few for {origin(block)}") from error
        if isinstance(c1, int) and not is_own(block):
            probe(block, full, c1)
        return c2, full

    def explain(
        self, error: BaseException, cfg: dict[str, Any], scope: dict[str, Any], host: Mapping[str, Any]
    ) -> None:
        """Raise a `RowError` that names the row if an error came from a row of a registered block.

        Args:
            error: What the host's parser raised.
            cfg: The model YAML.
            scope: Local variables of the host's parser at that moment.
            host: The names that the host's parser knows, with what they stand for.

        Raises:
            RowError: For a row that names a registered block, alone or inside a stock one, or a misspelled one.
        """
        if "layers" not in scope:
            return
        index = len(scope["layers"])
        try:
            row = all_rows(cfg)[index]
        except (KeyError, IndexError, TypeError):
            return
        mention = self._mention(row, host)
        if mention is not None:
            stock, block = mention
            fail(error, cfg, index, row, usage(block, stock, host))
        if isinstance(error, (KeyError, NameError)) and isinstance(row, (list, tuple)) and len(row) == 4:
            explain_unknown(error, cfg, index, row, self._table, host)


def is_own(block: type[nn.Module]) -> bool:
    """Return whether a block is one of this package, which its tests run on small feature maps."""
    return block.__module__.startswith(f"{blocks.__name__}.")


def all_rows(cfg: dict[str, Any]) -> list[Any]:
    """Return all rows of a model YAML in the order of the layers, none of what is not a dict."""
    if not isinstance(cfg, dict):
        return []
    return [*(cfg.get("backbone") or ()), *(cfg.get("head") or ())]


def modules(cfg: dict[str, Any]) -> set[str]:
    """Return the names of the modules in a model YAML, whose rows may be malformed."""
    rows = [row for row in all_rows(cfg) if isinstance(row, (list, tuple)) and len(row) > 2]
    return {row[2] for row in rows if isinstance(row[2], str)}
