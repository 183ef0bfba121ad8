"""The declaration of a block: one decorator, from which its name in model YAMLs and everything else follows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from torch import nn

Channels = int | list[int]
ChannelRule = Callable[[Channels, list[Any]], "tuple[int, list[Any]]"]
Class = TypeVar("Class", bound=type[nn.Module])

_ATTRIBUTE = "_yolo_coordbifpn"  # of a declared class
_WORD = re.compile(r"[a-z][a-z0-9_]*")
TAKEN = re.compile(  # words of model names that are no attention block
    r"(seg|pose|obb|cls|sem|world\w*|p\d+|r\d+|w\d+|[pn]\d|bifpn|bifpn_add|add|fpn|pan|dualpath|anms|grid|noedge|[nslmx])"
)


@dataclass(frozen=True)
class Declaration:
    """What is declared of a block.

    Attributes:
        channels: How many channels it outputs: `same`, `sum`, or a function, see `block`.
        variant: Its word in model names; None for the class name in lower case.
        paper: Number of its paper on arXiv.
        aliases: Other names under which YAMLs of the field know it, for error messages.
        library: The package whose modules it is made of, if not torch.
    """

    channels: str | ChannelRule = "same"
    variant: str | None = None
    paper: str = ""
    aliases: tuple[str, ...] = ()
    library: str = ""


def block(
    channels: str | ChannelRule = "same",
    *,
    variant: str | None = None,
    paper: str = "",
    aliases: tuple[str, ...] = (),
    library: str = "",
) -> Callable[[Class], Class]:
    """Declare a block: a class that model YAMLs may name as `[from, repeats, ClassName, args]`.

    The block is built as `ClassName(c1, *args)`: `c1` is the channels of its input, an int, or for a row with a list of
    layers the list of their channels; `args` is the row's last part. Its `forward` gets a tensor (N, C, H, W), or a
    list of them.

    A block may bring a loss: a method `loss(batch)` that returns a dict of scalar tensors by name. In training it is
    called after the forward pass with the host's batch, in which `assigned` has what the host's assigner has found
    (`positive` and `index`, shape (N, A); `boxes`, `labels` and `valid`, shape (N, M, ...)), and is added to the loss.

    A declared class is found in a module that `YOLO_COORDBIFPN_BLOCKS` names, and in an installed package with the
    entry point `ClassName = "package.module:ClassName"` in the group `yolo_coordbifpn.blocks`. In a script, call
    `yolo_coordbifpn.register(ClassName)`.

    Args:
        channels: How many channels come out: "same" as come in (several inputs must agree), the "sum" over the inputs,
            or a function `(c1, args) -> (c2, full_args)` that returns the output channels and all arguments of the
            block, `c1` included.
        variant: The word for the block in model names, such as `eca` in `yolo11n-eca-bifpn.yaml`: lower-case letters,
            digits and `_`. By default it is the class name in lower case if the block keeps the channels; "" for none.
        paper: Number of its paper on arXiv, such as "1910.03151".
        aliases: Other names under which YAMLs of the field know it, for error messages.
        library: The package whose modules it is made of, if not torch; checkpoints with these modules may be loaded
            under `ULTRALYTICS_SAFE_LOAD=1`.

    Returns:
        The decorator, which returns the class itself.

    Raises:
        TypeError: If the decorated object is not a subclass of `torch.nn.Module`.
        ValueError: If `variant` is not such a word, or has another meaning in model names.
    """
    if isinstance(channels, type):
        raise TypeError(f"@block needs parentheses: write @block() above class {channels.__name__}.")
    if variant and (not _WORD.fullmatch(variant) or TAKEN.fullmatch(variant)):
        raise ValueError(
            f"block(): variant must be a word of lower-case letters, digits and _, and none that model names use for "
            f"something else, such as bifpn or seg; got {variant!r}."
        )
    declared = Declaration(channels, variant, paper, tuple(aliases), library)

    def declare(cls: Class) -> Class:
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            raise TypeError(f"@block() stands above a subclass of torch.nn.Module, got {cls!r}.")
        setattr(cls, _ATTRIBUTE, declared)
        return cls

    return declare


def is_declared(cls: object) -> bool:
    """Return whether a class is declared with `block`; a subclass of such a class is not."""
    return isinstance(cls, type) and _ATTRIBUTE in vars(cls)


def defines(module: ModuleType, cls: type[Any]) -> bool:
    """Return whether a class is written in a module, or in a module inside that one."""
    return f"{cls.__module__}.".startswith(f"{module.__name__}.")


def declared_in(module: ModuleType) -> list[type[nn.Module]]:
    """Return the classes that a module declares, without those that it imports from elsewhere than its own modules."""
    return [x for x in vars(module).values() if is_declared(x) and defines(module, x)]


def declaration(cls: type[nn.Module]) -> Declaration:
    """Return the declaration of a class, the defaults if it has none."""
    return vars(cls).get(_ATTRIBUTE) or Declaration()


def variant_of(cls: type[nn.Module]) -> str:
    """Return the declared word of a class, else its name in lower case, an empty string if that cannot be a word."""
    declared = declaration(cls).variant
    if declared is not None:
        return declared
    word = cls.__name__.lower()
    return word if _WORD.fullmatch(word) and not TAKEN.fullmatch(word) else ""
