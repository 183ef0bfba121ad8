"""The table of blocks that a model YAML may name: the package's own and a user's, by name and by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from ..blocks.declaration import ChannelRule, declaration, variant_of
from ..graph.layers import parts
from .channel_rules import RULES
from .discovery import Discovery

_CHOICES = f"{' or '.join(map(repr, RULES))} or a callable"


def redefines(block: type, other: type) -> bool:
    """Return whether a class takes the place of another: it is defined again, as in a notebook or a reloaded module."""
    return "<locals>" not in block.__qualname__ and (block.__module__, block.__qualname__) == (
        other.__module__,
        other.__qualname__,
    )


def clash(block: type, host: Mapping[str, Any]) -> str:
    """Say what else a host has under the name of a block; an empty string if nothing.

    Args:
        block: The block.
        host: The names of the module that defines the host's parser.
    """
    other = host.get(block.__name__, block)
    if other is block or (isinstance(other, type) and redefines(block, other)):
        return ""
    module, name = getattr(other, "__module__", type(other)), block.__name__
    own = f" Its own as a variant: YOLO_COORDBIFPN_BLOCKS={module}:{name}" if declaration(block).library else ""
    return (
        f"{host['__name__']} already has a {name} ({module}); this host keeps its own, and {block.__module__}.{name} "
        f"cannot have that name.{own}".removesuffix(".")
    )


class BlockTable:
    """Blocks by name and by class, with the channel rule of each.

    Attributes:
        variants: Blocks by their word in model names.
        discovery: The blocks that are not in the table yet.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._by_name: dict[str, type[nn.Module]] = {}
        self._rules: dict[type[nn.Module], ChannelRule] = {}
        self.variants: dict[str, type[nn.Module]] = {}
        self.discovery = Discovery(lambda: self._by_name)

    def __contains__(self, block: object) -> bool:
        """Return whether a class is in the table."""
        return block in self._rules

    def __iter__(self) -> Iterator[type[nn.Module]]:
        """Iterate over the classes in the order of registration."""
        return iter(list(self._rules))  # while another thread registers a block

    def is_block(self, layer: nn.Module) -> bool:
        """Return whether a layer of a model is a registered block, or a sequence of one."""
        return any(type(m) in self for m in parts(layer))

    def in_model(self, model: Any) -> bool:
        """Return whether a model of the host has a registered block, as a layer or inside one."""
        return isinstance(getattr(model, "model", None), nn.Sequential) and any(
            type(m) in self for m in model.modules()
        )

    def check(self, block: type[nn.Module], channels: str | ChannelRule | None = None) -> ChannelRule:
        """Check the arguments of `register` and return the rule, without adding anything.

        Raises:
            TypeError: If `block` is not a subclass of `torch.nn.Module`, or `channels` neither a string nor callable.
            ValueError: If `channels` is an unknown string, or another block has this name or this variant.
        """
        if not (isinstance(block, type) and issubclass(block, nn.Module)):
            raise TypeError(f"register() takes a subclass of torch.nn.Module, got {block!r}.")
        rule = declaration(block).channels if channels is None else channels
        if isinstance(rule, str):
            if rule not in RULES:
                raise ValueError(f"register(): channels must be {_CHOICES}, got {rule!r}.")
            rule = RULES[rule]
        elif not callable(rule):
            raise TypeError(f"register(): channels must be {_CHOICES}, got {rule!r}.")
        variant = declaration(block).variant
        for what, known in (("block named", self._by_name.get(block.__name__)), ("variant", self._owner(variant))):
            if known is not None and known is not block and not redefines(block, known):
                name = block.__name__ if what == "block named" else variant
                raise ValueError(
                    f"a {what} {name} is already registered: {known.__module__}.{known.__qualname__}. "
                    f"Give yours another {'class name' if what == 'block named' else 'word'}."
                )
        return rule

    def add(self, block: type[nn.Module], channels: str | ChannelRule | None = None) -> None:
        """Add a block under its class name, or replace its rule if it is in the table.

        Args:
            block: The class.
            channels: How many channels it outputs; by default what its declaration says, else "same".
        """
        rule = self.check(block, channels)
        for old in [x for x in self._rules if x is not block and redefines(block, x)]:
            del self._rules[old]
            self.variants = {word: x for word, x in self.variants.items() if x is not old}
        self._by_name[block.__name__] = block
        self._rules[block] = rule
        variant = variant_of(block)
        if variant and self.keeps_channels(block):
            self.variants.setdefault(variant, block)

    def named(self, name: str) -> type[nn.Module] | None:
        """Return the block of a name, None if there is none."""
        return self._by_name.get(name)

    @property
    def names(self) -> list[str]:
        """Return the names of all blocks in the order of registration."""
        return list(self._by_name)

    def rule(self, block: type[nn.Module]) -> ChannelRule:
        """Return the channel rule of a registered block."""
        return self._rules[block]

    def keeps_channels(self, block: type[nn.Module]) -> bool:
        """Return whether a registered block outputs as many channels as it reads from one layer."""
        try:
            return self._rules[block] is not RULES["sum"] and self._rules[block](64, [])[0] == 64
        except Exception:  # of a user's function, which may need arguments or several inputs
            return False

    def word(self, name: str) -> str:
        """Return the word of a block in model names, by its class name or by that word itself."""
        return next((word for word, block in self.variants.items() if name in (word, block.__name__)), name.lower())

    def _owner(self, variant: str | None) -> type[nn.Module] | None:
        return self.variants.get(variant) if variant else None
