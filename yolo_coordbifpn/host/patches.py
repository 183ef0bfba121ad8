"""All patches of the host as one: either each of them holds, or none."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import HostError
from ..registry import TABLE, ChannelRule
from . import hook
from .names import names_hold, patch_names, shipped, split, unscaled
from .parser import check_names, expose, parser_holds, patch_parser
from .safe_load import allow, patch_safe_load, safe_load_holds
from .training_log import patch_training_log, training_log_holds
from .weights import patch_engine_load, patch_weights, weights_hold

_CALLBACKS = "ultralytics.utils.callbacks"
_undo: dict[str, Callable[[], None]] = {}  # patches that hold, by name
_failure: HostError | None = None  # why none holds


def install() -> None:
    """Patch Ultralytics so that its model YAMLs may name the registered blocks.

    Happens by itself at the start of Python, through the start-up hook, and by `import yolo_coordbifpn`; call it where
    you want an error now rather than when a model is built. Calling it again changes nothing.

    Raises:
        HostError: If Ultralytics is missing or cannot be patched; then nothing is changed.
    """
    hook.arm()
    try:
        importlib.import_module(hook.HOST)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "ultralytics":
            raise
        raise HostError(
            "Ultralytics is not installed: pip install ultralytics (or ultralytics-opencv-headless)"
        ) from error
    install_quietly()
    if _failure is not None:
        raise _failure


def install_quietly() -> None:
    """Patch the loaded host; where that fails, change nothing and let our models say why when they are built."""
    global _failure
    if _undo:
        return
    host, version = importlib.import_module(hook.HOST), host_version()
    try:
        for name, patch in (
            ("model YAML names", lambda: patch_names(host, version)),
            ("model parser", lambda: patch_parser(host, TABLE)),
            ("pretrained weights", lambda: patch_weights(host, TABLE)),
            ("safe loading", lambda: patch_safe_load(TABLE)),
        ):
            _undo[name] = patch()
        patch_engine()
        with contextlib.suppress(HostError, ModuleNotFoundError):  # a convenience, without which the rest still works
            _undo["training log"] = patch_training_log(importlib.import_module(_CALLBACKS))
        _failure = None
    except Exception as error:  # whatever it is, nothing may stay half done
        _undo_all()
        reason = str(error) if isinstance(error, HostError) else f"{type(error).__name__}: {error}"
        _failure = HostError(
            f"yolo_coordbifpn cannot work with ultralytics {version} at {host.__file__}: {reason}. "
            "Nothing was changed, and models without its blocks are not affected. Update both "
            "(pip install -U ultralytics yolo_coordbifpn); `yolo-coordbifpn check` shows the details."
        )
        _undo["error message"] = _patch_failure(host, _failure)


def patch_engine() -> None:
    """Patch what the host's `engine.model` needs, once that is loaded and the other patches hold."""
    engine = sys.modules.get("ultralytics.engine.model")
    if hasattr(engine, "Model") and "model parser" in _undo and "loaded weights" not in _undo:
        _undo["loaded weights"] = patch_engine_load(engine, TABLE)


def uninstall() -> None:
    """Undo every patch and stop waiting for the host; `install()` brings them back."""
    global _failure
    hook.disarm()
    _undo_all()
    _failure = None


def register(block: type[Any], channels: str | ChannelRule = "same") -> None:
    """Let model YAMLs name a block of your own, as `[from, repeats, ClassName, args]`.

    The block is built as `block(c1, *args)`: `c1` is the channels of its input, an int, or for a row with a list of
    layers the list of their channels; `args` is the row's last part. Its `forward` gets a tensor, or a list of them.

    Args:
        block: A subclass of `torch.nn.Module`; its class name is the name in the YAML.
        channels: How many channels come out: "same" as come in (several inputs must agree), the "sum" over the inputs,
            or a function `(c1, args) -> (c2, full_args)` that returns the output channels and all arguments of the
            block, `c1` included.

    Raises:
        TypeError: If `block` is not such a class, or `channels` neither a string nor callable.
        ValueError: If `channels` is an unknown string, or another block of this name is registered.
        HostError: If Ultralytics is missing, cannot be patched, or has something else under this name.
    """
    TABLE.check(block, channels)
    install()
    host = importlib.import_module(hook.HOST)
    check_names(host, [block])
    TABLE.add(block, channels)
    expose(host, block)
    allow(block)


def _register_comparator(name: str) -> None:
    """Register one of the attention blocks to compare with, which take long to import."""
    register(getattr(importlib.import_module(f"{__package__}.comparators"), name))


for _name in ("SE", "CBAM"):
    TABLE.add_later(_name, functools.partial(_register_comparator, _name))


def status() -> tuple[dict[str, bool], HostError | None]:
    """Look at the loaded host: which patches hold, and why they could not be made if they could not."""
    host = importlib.import_module(hook.HOST)
    holds = {
        "model YAML names": names_hold(host),
        "model parser": parser_holds(host),
        "pretrained weights": weights_hold(host),
        "safe loading": safe_load_holds(TABLE),
    }
    if "training log" in _undo:
        holds["training log"] = training_log_holds(importlib.import_module(_CALLBACKS))
    return holds, _failure


def host_version() -> str:
    """Return the version of the loaded host, "unknown" if it does not say."""
    return str(getattr(importlib.import_module("ultralytics"), "__version__", "unknown"))


def _undo_all() -> None:
    while _undo:
        _undo.popitem()[1]()


def _patch_failure(host: ModuleType, failure: HostError) -> Callable[[], None]:
    """Make the host raise `failure` where it would build one of our models, and nowhere else."""
    originals = {x: getattr(host, x) for x in ("parse_model", "check_yaml") if hasattr(host, x)}

    def parse_model(d: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        named = [row[2] for part in ("backbone", "head") for row in d.get(part, ()) if len(row) > 2]
        if any(block.__name__ in named and not hasattr(host, block.__name__) for block in TABLE):
            raise failure
        return originals["parse_model"](d, *args, **kwargs)

    def check_yaml(file: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return originals["check_yaml"](file, *args, **kwargs)
        except FileNotFoundError:
            if unscaled(str(file)) in shipped() or split(Path(str(file)).name) is not None:
                raise failure from None
            raise

    for name, replacement in (("parse_model", parse_model), ("check_yaml", check_yaml)):
        if name in originals:
            setattr(host, name, replacement)

    def undo() -> None:
        for name, original in originals.items():
            setattr(host, name, original)

    return undo
