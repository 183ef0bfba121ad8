"""One attribute of the host replaced, and put back unless something else has replaced it since."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from ..errors import HostError

Undo = Callable[[], bool]  # undoes a patch; returns whether it has no effect any more


def model_method(host: ModuleType, name: str) -> tuple[type[Any], Callable[..., Any]]:
    """Return the base class of the host's models, and a method of it.

    Args:
        host: `ultralytics.nn.tasks`.
        name: Name of the method.

    Raises:
        HostError: If the host has no such class or method.
    """
    base = getattr(host, "BaseModel", None)
    method = getattr(base, name, None)
    if base is None or method is None:
        raise HostError(f"{host.__name__}.BaseModel has no method {name}")
    return base, method


def replace(owner: Any, name: str, ours: Any) -> Undo:
    """Replace an attribute.

    Args:
        owner: A module, class or function of the host.
        name: Name of the attribute.
        ours: The new value.

    Returns:
        A function that puts the original back. If something else has replaced the attribute meanwhile, it leaves it
        alone and logs a warning.
    """
    original = getattr(owner, name)
    setattr(owner, name, ours)

    def undo() -> bool:
        current = getattr(owner, name, None)
        if current is ours:
            setattr(owner, name, original)
        elif current is not original:
            logging.getLogger("ultralytics").warning(
                f"yolo_coordbifpn: {getattr(owner, '__qualname__', owner.__name__)}.{name} has been replaced since by "
                f"{current!r}; it is left as it is"
            )
            return all(x is not ours for x in _unwrapped(current))
        return True

    return undo


def replace_methods(host: ModuleType, base: type[Any], name: str, wrap: Callable[[Any], Any]) -> Undo:
    """Replace a method of the host's models in each class of a module that defines it."""
    undos = [replace(x, name, wrap(vars(x)[name])) for x in _defining(host, base, name)]

    def undo() -> bool:
        undone = [x() for x in undos]
        return all(undone)

    return undo


def _defining(host: ModuleType, base: type[Any], name: str) -> list[type[Any]]:
    """Return the classes of models in a module that define a method."""
    classes = [x for x in vars(host).values() if isinstance(x, type) and issubclass(x, base) and name in vars(x)]
    return list(dict.fromkeys(classes))


@contextlib.contextmanager
def marked(model: Any, mark: str) -> Iterator[None]:
    """Set an attribute of a model while a method of ours runs, since one `loss` or `load` may call another."""
    setattr(model, mark, True)
    try:
        yield
    finally:
        delattr(model, mark)


def are_replaced(host: ModuleType, name: str, module: str) -> bool:
    """Return whether a method of the host's models, in each class that defines it, is one that a module defines.

    Args:
        host: `ultralytics.nn.tasks`.
        name: Name of the method.
        module: Name of a module of this package.
    """
    base = getattr(host, "BaseModel", None)
    classes = _defining(host, base, name) if base is not None else []
    return bool(classes) and all(is_replaced(x, name, module) for x in classes)


def is_replaced(owner: Any, name: str, module: str) -> bool:
    """Return whether an attribute is a function that a module defines, wrapped by others or not.

    Args:
        owner: A module or class of the host.
        name: Name of the attribute.
        module: Name of a module of this package.
    """
    functions = _unwrapped(getattr(owner, name, None))
    return any(getattr(x, "__globals__", {}).get("__name__") == module for x in functions)


def _unwrapped(function: Any) -> Iterator[Any]:
    """Give a function, the one that it wraps, and so on."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)
