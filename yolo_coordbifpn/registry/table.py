"""The table of blocks that a model YAML may name: the package's own and a user's, by name and by class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from ..graph.layers import parts
from .channel_rules import RULES, ChannelRule
from .discovery import Discovery

_CHOICES = f"{' or '.join(map(repr, RULES))} or a callable"


class BlockTable:
    """Blocks by name and by class, with the channel rule of each.

    Attributes:
        discovery: The blocks that are not in the table yet.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._by_name: dict[str, type[nn.Module]] = {}
        self._rules: dict[type[nn.Module], ChannelRule] = {}
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

    def check(self, block: type[nn.Module], channels: str | ChannelRule) -> ChannelRule:
        """Check the arguments of `register` and return the rule, without adding anything.

        Raises:
            TypeError: If `block` is not a subclass of `torch.nn.Module`, or `channels` neither a string nor callable.
            ValueError: If `channels` is an unknown string, or another block has this name.
        """
        if not (isinstance(block, type) and issubclass(block, nn.Module)):
            raise TypeError(f"register() takes a subclass of torch.nn.Module, got {block!r}.")
        if isinstance(channels, str):
            if channels not in RULES:
                raise ValueError(f"register(): channels must be {_CHOICES}, got {channels!r}.")
            channels = RULES[channels]
        elif not callable(channels):
            raise TypeError(f"register(): channels must be {_CHOICES}, got {channels!r}.")
        known = self._by_name.get(block.__name__)
        if known is not None and known is not block:
            raise ValueError(
                f"a block named {block.__name__} is already registered: {known.__module__}.{known.__qualname__}. "
                "Give yours another class name."
            )
        return channels

    def add(self, block: type[nn.Module], channels: str | ChannelRule) -> None:
        """Add a block under its class name, or replace its rule if it is in the table."""
        rule = self.check(block, channels)
        self._by_name[block.__name__] = block
        self._rules[block] = rule

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
