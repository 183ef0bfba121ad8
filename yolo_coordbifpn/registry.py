"""The table of blocks that a model YAML may name, and what a row of each means.

The host's model parser asks this table for one row at a time: which channels come out, which arguments the block is
built with. The package's own blocks and a user's are entries of the same table.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from typing import Any, NoReturn

from torch import nn

from .blocks import BiFPN_Add, BiFPN_Concat, CoordAtt, SeparableConv
from .errors import RowError
from .graph.bottleneck import attend_inside
from .graph.layers import parts
from .graph.rows import check_row, where

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
        self._later: dict[str, Callable[[], None]] = {}
        self._seek: Callable[[Collection[str]], list[str]] = lambda names: []
        self._missed: list[str] = []  # why declared blocks could not be had

    def __contains__(self, block: object) -> bool:
        """Tell whether a class is in the table."""
        return block in self._rules

    def __iter__(self) -> Iterator[type[nn.Module]]:
        """Iterate over the classes, in the order of their registration."""
        return iter(self._rules)

    def is_block(self, layer: nn.Module) -> bool:
        """Tell whether a layer of a model is a registered block, or several of one."""
        return any(type(m) in self for m in parts(layer))

    def in_model(self, model: Any) -> bool:
        """Tell whether a model of the host has a registered block, as a layer or inside one."""
        return isinstance(getattr(model, "model", None), nn.Sequential) and any(
            type(m) in self for m in model.modules()
        )

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

    def add_later(self, name: str, register: Callable[[], None]) -> None:
        """Have a block registered when a model YAML first names it, and the host has nothing of this name."""
        self._later[name] = register

    def seek_by(self, seek: Callable[[Collection[str]], list[str]]) -> None:
        """Have names that nobody knows sought, by a function that registers what it finds and returns problems."""
        self._seek = seek

    def find(self, names: Collection[str], host: Container[str] = ()) -> None:
        """Register those blocks of some names that are registered when they are first named.

        Args:
            names: Names that are not known, of blocks or such as `C3k2_CoordAtt`.
            host: Names that the host's parser knows.
        """
        for name in [x for x in self._later if x not in host]:
            if any(x == name or x.endswith(f"_{name}") for x in names):
                self._later[name]()
                del self._later[name]
        rest = [x for x in names if not any(x == y or x.endswith(f"_{y}") for y in self._by_name)]
        self._missed = self._seek(rest) if rest else []

    # What the patched parser calls -----------------------------------------------------------------------------------

    def stock(self, cfg: dict[str, Any], host: Container[str]) -> dict[str, Any]:
        """Check the rows of registered blocks, and give those such as `C3k2_CoordAtt` the stock block's name.

        Blocks that are registered when they are first named are registered here.

        Args:
            cfg: The model YAML; stays as it is.
            host: Names that the host's parser knows.

        Returns:
            A model YAML for the host to build, with copies of the rows of registered blocks; `cfg` if there are none.

        Raises:
            RowError: If a row of a registered block is not as a row must be.
        """
        rows = _rows(cfg)
        modules = [row[2] for row in rows if isinstance(row, (list, tuple)) and len(row) > 2]
        self.find({x for x in modules if isinstance(x, str) and x not in host and "." not in x}, host)
        found = self._mentions(cfg, host)
        for index, (stock, block) in found.items():
            row = rows[index]
            try:
                check_row(row, index)
                if stock not in host and stock is not None:
                    raise RowError(f"there is no stock block {stock} for {block.__name__} to go into")
            except RowError as error:
                self._fail(error, cfg, index, row, _usage(block, stock, host))
            source = [*row[0]] if isinstance(row[0], (list, tuple)) else row[0]
            rows[index] = [source, row[1], stock or row[2], [*row[3]]]  # the host writes into the arguments
        if not found:
            return cfg
        size = len(cfg["backbone"])
        return {**cfg, "backbone": rows[:size], "head": rows[size:]}

    def finish(self, layers: nn.Sequential, cfg: dict[str, Any], host: Container[str]) -> nn.Sequential:
        """Put the registered block of rows such as `C3k2_CoordAtt` into the stock layers that the host has built.

        Args:
            layers: The model's layers, changed in place.
            cfg: The model YAML as it was given.
            host: Names that the host's parser knows.

        Raises:
            RowError: If a stock block has no bottleneck for it.
        """
        for index, (name, block) in self._mentions(cfg, host).items():
            if name is None:
                continue
            layer: Any = layers[index]
            try:
                count = attend_inside(layer, lambda c1, block=block: self._inside(block, c1))  # type: ignore[misc]
                if not count:
                    raise RowError(f"{name} has no bottleneck with a k x k convolution for {block.__name__} to follow")
            except ValueError as error:
                raise RowError(f"{where(cfg, index, _rows(cfg)[index])}: {error}") from error
            layer.np = sum(x.numel() for x in layer.parameters())
        return layers

    def _mentions(self, cfg: dict[str, Any], host: Container[str]) -> dict[int, tuple[str | None, type[nn.Module]]]:
        """Find the rows that name a registered block; return with it the stock block that it goes into, if it does."""
        found = {index: self._mention(row, host) for index, row in enumerate(_rows(cfg))}
        return {index: mention for index, mention in found.items() if mention is not None}

    def _mention(self, row: Any, host: Container[str]) -> tuple[str | None, type[nn.Module]] | None:
        """Find the registered block that a row names, wherever it stands in the row."""
        words = row if isinstance(row, (list, tuple, dict)) else [row]
        for word in (x for x in words if isinstance(x, str)):
            if word in self._by_name:
                return None, self._by_name[word]
            for name, block in self._by_name.items():
                if word.endswith(f"_{name}") and word not in host:
                    return word.removesuffix(f"_{name}"), block
        return None

    def _inside(self, block: type[nn.Module], c1: int) -> nn.Module:
        """Build a block that follows a convolution of `c1` channels."""
        c2, args = self._rules[block](c1, [])
        if c2 != c1:
            raise RowError(f"{block.__name__} makes {c2} channels of {c1}; inside a block they must stay")
        return block(*args)

    def resolve(
        self, block: type[nn.Module], cfg: dict[str, Any], ch: Sequence[int], index: int, source: Any, args: list[Any]
    ) -> tuple[int, list[Any]]:
        """Work out one row of a registered block.

        Args:
            block: The class that the row names.
            cfg: The model YAML.
            ch: Output channels of the layers so far; for the first row, of the image, which old parsers keep in front.
            index: Index of the row, counted through backbone and head.
            source: The row's `from`.
            args: The row's arguments.

        Returns:
            Output channels of the layer, and the full arguments of the block.

        Raises:
            RowError: If a block with several inputs is repeated, or the arguments are too many or too few.
        """
        repeats = _rows(cfg)[index][1]
        if isinstance(source, list) and repeats != 1:
            raise RowError(f"a block with several inputs cannot be repeated; repeats must be 1, got {repeats}")
        front = 1 if len(ch) > index > 0 else 0  # in the YOLOv5 of 2020, and what was forked from it
        read = [ch[x + front if x >= 0 else x] for x in (source if isinstance(source, list) else [source])]
        c1: Channels = read if isinstance(source, list) else read[0]
        c2, full = self._rules[block](c1, args)
        signature = _signature(block)
        try:
            if signature is not None:
                signature.bind(*full)
        except TypeError as error:
            raise RowError(f"got {len(args)} arguments, which are too many or too few") from error
        return c2, full

    def explain(
        self, error: BaseException, cfg: dict[str, Any], scope: dict[str, Any], host: Container[str] = ()
    ) -> None:
        """Raise `error` again as a `RowError` that names the row, if it came from a row of a registered block.

        Args:
            error: What the host's parser raised.
            cfg: The model YAML.
            scope: Local variables of the host's parser at that moment.
            host: Names that the host's parser knows.

        Raises:
            RowError: For a row that names a registered block, alone or inside a stock one, or a misspelled one.
        """
        if "layers" not in scope:
            return
        index = len(scope["layers"])
        try:
            row = _rows(cfg)[index]
        except (KeyError, IndexError, TypeError):
            return
        mention = self._mention(row, host)
        if mention is not None:
            stock, block = mention
            self._fail(error, cfg, index, row, _usage(block, stock, host))
        if isinstance(error, (KeyError, NameError)) and isinstance(row, (list, tuple)) and len(row) == 4:
            near = difflib.get_close_matches(str(row[2]).lower(), [x.lower() for x in self._by_name], 1, 0.8)
            name = next((x for x in self._by_name if [x.lower()] == near), None)
            if name:
                raise RowError(f"{where(cfg, index, row)}: unknown module {row[2]}. Did you mean {name}?") from error
            if isinstance(row[2], str) and row[2] not in host:
                _note(
                    error, f"{where(cfg, index, row)}: {_OWN.format(row[2])}{''.join(f' {x}.' for x in self._missed)}"
                )

    def _fail(self, error: BaseException, cfg: dict[str, Any], index: int, row: Any, usage: str) -> NoReturn:
        """Raise the error of a row, with what a row of this block looks like."""
        if isinstance(error, ValueError):
            reason = str(error).rstrip(".")
        elif isinstance(error, SyntaxError):  # of the host, which reads texts among the arguments as Python's values
            reason = f"an argument is a text that stands for no value ({error.msg})"
        else:
            reason = f"{type(error).__name__}: {error}"
        raise RowError(f"{where(cfg, index, row)}: {reason}. {usage}".rstrip()) from error


_OWN = (
    "there is no module {0} here. A newer Ultralytics may have it. If it is a block of your own, this process does not "
    "know it: yolo_coordbifpn.register() holds where it is called, and in processes started from there if the class "
    "can be imported. Put it into a module on Python's path and name that: "
    "YOLO_COORDBIFPN_BLOCKS=my_package.blocks:{0}."
)


def _note(error: BaseException, text: str) -> None:
    """Add a text to an error of the host, which stays of its type."""
    if hasattr(error, "add_note"):  # Python 3.11
        error.add_note(text)
    else:
        error.args = (*error.args, text)


def _rows(cfg: dict[str, Any]) -> list[Any]:
    """Return all rows of a model YAML in the order of the layers."""
    return [*(cfg.get("backbone") or ()), *(cfg.get("head") or ())]


def _signature(block: type[nn.Module]) -> inspect.Signature | None:
    """Return what a block is built with, None if it does not say."""
    try:
        return inspect.signature(block)
    except (TypeError, ValueError):
        return None


def _usage(block: type[nn.Module], stock: str | None, host: Container[str]) -> str:
    """Say which arguments a row takes: the stock block's, or those of the block's constructor less the channels."""
    if stock is not None:
        return f"Its arguments are those of {stock}." if stock in host else ""
    signature = _signature(block)
    if signature is None:
        return ""
    texts = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in signature.parameters.values()]
    return f"The arguments of {block.__name__} are [{', '.join(texts[1:])}]; the channels are filled in."


def _choices(options: Sequence[str] | dict[str, Any]) -> str:
    return " or ".join(repr(x) for x in options)


TABLE = BlockTable()
TABLE.add(CoordAtt, "same")
TABLE.add(BiFPN_Concat, "sum")
TABLE.add(BiFPN_Add, "same")
TABLE.add(SeparableConv, "same")
