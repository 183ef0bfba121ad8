"""The table of blocks that a model YAML may name, and what a row of each means.

The host's model parser asks this table for one row at a time: which channels come out, which arguments the block is
built with. The package's own blocks and a user's are entries of the same table.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import yaml
from torch import nn

from .blocks import BiFPN_Add, BiFPN_Concat, CoordAtt
from .errors import RowError
from .graph.layers import parts

Channels = int | list[int]
ChannelRule = Callable[[Channels, list[Any]], "tuple[int, list[Any]]"]


def _same(c1: Channels, args: list[Any]) -> tuple[int, list[Any]]:
    """Output channels are those of the input; of several inputs, which then must agree."""
    if isinstance(c1, int):
        return c1, [c1, *args]
    if len(set(c1)) > 1:
        raise RowError(
            f"the inputs have {', '.join(map(str, c1))} channels and must have equal ones; bring them to one width "
            "with a 1x1 Conv each, or use BiFPN_Concat"
        )
    return c1[0], [c1, *args]


def _sum(c1: Channels, args: list[Any]) -> tuple[int, list[Any]]:
    """Output channels are the sum over the inputs, as in a concatenation."""
    return c1 if isinstance(c1, int) else sum(c1), [c1, *args]


RULES: dict[str, ChannelRule] = {"same": _same, "sum": _sum}


class BlockTable:
    """Blocks by name and by class, with the channel rule of each."""

    def __init__(self) -> None:
        """Start empty."""
        self._by_name: dict[str, type[nn.Module]] = {}
        self._rules: dict[type[nn.Module], ChannelRule] = {}

    def __contains__(self, block: object) -> bool:
        """Tell whether a class is in the table."""
        return block in self._rules

    def __iter__(self) -> Iterator[type[nn.Module]]:
        """Iterate over the classes, in the order of their registration."""
        return iter(self._rules)

    def is_block(self, layer: nn.Module) -> bool:
        """Tell whether a layer of a model is a registered block, or several of one."""
        return any(type(m) in self for m in parts(layer))

    def check(self, block: type[nn.Module], channels: str | ChannelRule) -> ChannelRule:
        """Check what `register` was given and return the rule, without entering anything.

        Raises:
            TypeError: If `block` is not a class of modules, or `channels` neither a string nor callable.
            ValueError: If `channels` is an unknown string, or another block has this name.
        """
        if not (isinstance(block, type) and issubclass(block, nn.Module)):
            raise TypeError(f"register() takes a subclass of torch.nn.Module, got {block!r}.")
        if isinstance(channels, str):
            if channels not in RULES:
                raise ValueError(f"register(): channels must be {_choices(RULES)} or a callable, got {channels!r}.")
            channels = RULES[channels]
        elif not callable(channels):
            raise TypeError(f"register(): channels must be {_choices(RULES)} or a callable, got {channels!r}.")
        known = self._by_name.get(block.__name__)
        if known is not None and known is not block:
            raise ValueError(
                f"a block named {block.__name__} is already registered: {known.__module__}.{known.__qualname__}. "
                "Give yours another class name."
            )
        return channels

    def add(self, block: type[nn.Module], channels: str | ChannelRule) -> None:
        """Enter a block under its class name; again with the same class, its rule is replaced."""
        rule = self.check(block, channels)
        self._by_name[block.__name__] = block
        self._rules[block] = rule

    # What the patched parser calls -----------------------------------------------------------------------------------

    def resolve(
        self, block: type[nn.Module], cfg: dict[str, Any], ch: Sequence[int], index: int, source: Any, args: list[Any]
    ) -> tuple[int, list[Any]]:
        """Work out one row of a registered block.

        Args:
            block: The class that the row names.
            cfg: The model YAML.
            ch: Output channels of the layers so far; for the first row, of the image.
            index: Index of the row, counted through backbone and head.
            source: The row's `from`.
            args: The row's arguments.

        Returns:
            Output channels of the layer, and the full arguments of the block.

        Raises:
            RowError: If `from` or the number of repeats is not usable.
        """
        repeats = _rows(cfg)[index][1]
        if type(repeats) is not int or repeats < 1:
            raise RowError(f"repeats must be a positive whole number, got {repeats!r}")
        if isinstance(source, list) and repeats != 1:
            raise RowError(f"a block with several inputs cannot be repeated; repeats must be 1, got {repeats}")
        c1: Channels
        if isinstance(source, list):
            c1 = [_channels(ch, index, x) for x in source]
        else:
            c1 = _channels(ch, index, source)
        return self._rules[block](c1, args)

    def explain(self, error: BaseException, cfg: dict[str, Any], scope: dict[str, Any]) -> None:
        """Raise `error` again as a `RowError` that names the row, if it came from a row of a registered block.

        Args:
            error: What the host's parser raised.
            cfg: The model YAML.
            scope: Local variables of the host's parser at that moment.

        Raises:
            RowError: For a row that names a registered block, or a misspelled one.
        """
        if "layers" not in scope:
            return
        index = len(scope["layers"])
        try:
            row = _rows(cfg)[index]
        except (KeyError, IndexError, TypeError):
            return
        names = [x for x in row if isinstance(x, str)] if isinstance(row, (list, tuple)) else []
        block = next((self._by_name[x] for x in names if x in self._by_name), None)
        if block is not None:
            self._fail(error, cfg, index, row, block)
        if isinstance(error, (KeyError, NameError)) and len(row) == 4:
            near = difflib.get_close_matches(str(row[2]).lower(), [x.lower() for x in self._by_name], 1, 0.8)
            name = next((x for x in self._by_name if [x.lower()] == near), None)
            if name:
                raise RowError(f"{_where(cfg, index, row)}: unknown module {row[2]}. Did you mean {name}?") from error

    def _fail(
        self, error: BaseException, cfg: dict[str, Any], index: int, row: Sequence[Any], block: type[nn.Module]
    ) -> NoReturn:
        """Raise the error of a row, with what a row of this block looks like."""
        if len(row) != 4:
            reason = f"a row has four parts, [from, repeats, module, args], got {len(row)}"
        elif not isinstance(row[3], (list, tuple)):
            reason = f"the arguments must be a list, got {row[3]!r}"
        elif isinstance(error, RowError):
            reason = str(error)
        elif isinstance(error, ValueError):
            reason = str(error).rstrip(".")
        elif isinstance(error, TypeError) and (type(row[1]) is not int or row[1] < 1):
            reason = f"repeats must be a positive whole number, got {row[1]!r}"
        else:
            reason = f"{type(error).__name__}: {error}"
        raise RowError(f"{_where(cfg, index, row)}: {reason}. {_usage(block)}") from error


def _rows(cfg: dict[str, Any]) -> list[Any]:
    """Return all rows of a model YAML in the order of the layers."""
    return cfg["backbone"] + cfg["head"]


def _channels(ch: Sequence[int], index: int, source: Any) -> int:
    """Return the output channels of one layer that row `index` reads."""
    if type(source) is not int:
        raise RowError(f"`from` must be a layer index or a list of them, got {source!r}")
    if not -len(ch) <= source < (index if index else 0):
        last = f"-1 to read the layer before, or 0...{index - 1}" if index else "-1, the image"
        raise RowError(f"`from` is {source}, but at this row there are {index} layers: use {last}")
    return ch[source]


def _where(cfg: dict[str, Any], index: int, row: Any) -> str:
    """Name a row as a user finds it: its index, its section and its text."""
    first_head = len(cfg["backbone"])
    section = f"backbone row {index}" if index < first_head else f"head row {index - first_head}"
    file = f"{cfg['yaml_file']}, " if cfg.get("yaml_file") else ""
    try:
        text = yaml.safe_dump(row, default_flow_style=True, width=1000).strip()
    except yaml.YAMLError:  # a row made in Python may hold anything
        text = str(row)
    return f"{file}layer {index} ({section}) {text}"


def _usage(block: type[nn.Module]) -> str:
    """Say which arguments the rows of a block take: those of its constructor, less the channels."""
    try:
        parameters = list(inspect.signature(block).parameters.values())[1:]
    except (TypeError, ValueError):
        return ""
    texts = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    return f"The arguments of {block.__name__} are [{', '.join(texts)}]; the channels are filled in."


def _choices(options: Sequence[str] | dict[str, Any]) -> str:
    return " or ".join(repr(x) for x in options)


TABLE = BlockTable()
TABLE.add(CoordAtt, "same")
TABLE.add(BiFPN_Concat, "sum")
TABLE.add(BiFPN_Add, "same")
