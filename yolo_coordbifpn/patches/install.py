"""All patches of the host as one: either each of them holds, or none."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..blocks.cbam import CBAM
from ..blocks.se import SE
from ..errors import HostError, host_needed
from ..grafting.graft import graft_text
from ..grafting.names import shipped, split, unscaled
from ..registry import TABLE, ChannelRule, environment
from . import hook
from .fusing import fuse_holds, patch_fuse
from .names import names_hold, patch_names
from .parser import check_names, expose, parser_holds, patch_parser
from .safe_load import allow, patch_safe_load, safe_load_holds
from .training_log import patch_training_log, training_log_holds
from .weights import patch_engine_load, patch_weights, weights_hold

_CALLBACKS = "ultralytics.utils.callbacks"
_undo: dict[str, Callable[[], None]] = {}  # patches that hold, by name
_failure: HostError | None = None  # why none holds
_undo_forks: dict[str, Callable[[], None]] = {}  # parsers of forks, by module
_fork_failures: dict[str, HostError] = {}  # why a fork's parser could not be patched, by module


def install(parser: str | None = None) -> None:
    """Patch Ultralytics, or a fork's parser, so that its model YAMLs may name the registered blocks.

    Happens by itself at the start of Python, through the start-up hook, and by `import yolo_coordbifpn`; call it where
    you want an error now rather than when a model is built. Calling it again changes nothing.

    Args:
        parser: Name of the module that holds a fork's `parse_model`, such as `models.yolo`, to patch it alone;
            Ultralytics if not given. The environment variable `YOLO_COORDBIFPN_PARSERS`, such names with commas
            between, does the same without a line of code.

    Raises:
        HostError: If Ultralytics or the fork's module is missing or cannot be patched; then nothing is changed.
    """
    if parser not in (None, hook.HOST):
        _install_parser(parser)
        return
    hook.arm()
    with host_needed():
        importlib.import_module(hook.HOST)
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
            ("model YAML names", lambda: patch_names(host, version, graft_text)),
            ("model parser", lambda: patch_parser(host, TABLE)),
            ("pretrained weights", lambda: patch_weights(host, TABLE)),
            ("fusing", lambda: patch_fuse(host, TABLE)),
            ("safe loading", lambda: patch_safe_load(host, TABLE)),
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


def _install_parser(name: str) -> None:
    """Patch the parser of a fork."""
    if not isinstance(name, str) or not all(x.isidentifier() for x in name.split(".")):
        raise HostError(f"install(): parser is the name of a module to import, such as 'models.yolo', got {name!r}")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise HostError(
            f"there is no module {error.name} on Python's path, so install(parser={name!r}) has nothing to patch: "
            "run it where the fork's own `train.py` runs"
        ) from error
    install_parser_quietly(name)
    if name in _fork_failures:
        raise _fork_failures[name]
    hook.wait_for(name)
    hook.arm()


def install_parser_quietly(name: str) -> None:
    """Patch the loaded parser of a fork; where that fails, change nothing and let our models say why when built."""
    if name in _undo_forks:
        return
    host = importlib.import_module(name)
    try:
        _undo_forks[name] = patch_parser(host, TABLE)
        _fork_failures.pop(name, None)
    except HostError as error:
        failure = HostError(
            f"yolo_coordbifpn cannot work with the parser {name} at {host.__file__}: {error}. "
            "Nothing was changed, and models without its blocks are not affected."
        )
        _fork_failures[name], _undo_forks[name] = failure, _patch_failure(host, failure)


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
    while _undo_forks:
        _undo_forks.popitem()[1]()
    _failure = None
    _fork_failures.clear()


def register(block: type[Any], channels: str | ChannelRule = "same") -> None:
    """Let model YAMLs name a block of your own, as `[from, repeats, ClassName, args]`.

    The block is built as `block(c1, *args)`: `c1` is the channels of its input, an int, or for a row with a list of
    layers the list of their channels; `args` is the row's last part. Its `forward` gets a tensor, or a list of them.

    Processes started from this one, such as the workers of several GPUs, know the block too if they can import its
    class. Without a line of code, in the shell: `YOLO_COORDBIFPN_BLOCKS=my_package.blocks:MyBlock`.

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
    if not hook.forks() or importlib.util.find_spec("ultralytics") is not None:  # a fork may stand alone
        install()
    hosts = _patched()
    for host in hosts:
        check_names(host, [block])
    TABLE.add(block, channels)
    for host in hosts:
        expose(host, block)
    allow(block)
    environment.declare(block, channels)


def _patched() -> list[ModuleType]:
    """Return the modules whose parsers ask the block table."""
    return [sys.modules[x] for x in (hook.HOST, *_undo_forks) if parser_holds(sys.modules.get(x))]


def _register_compared(block: type[Any]) -> None:
    """Register one of the attention blocks to compare with, and allow what is inside it to be loaded safely."""
    try:
        allow(block.module())
    except ModuleNotFoundError as error:
        raise HostError(f"{block.__name__} needs {error.name}, which is not installed") from error
    register(block)


for _block in (SE, CBAM):  # when they are first named, so that a host that has its own keeps it
    TABLE.discovery.add_later(_block.__name__, functools.partial(_register_compared, _block))
TABLE.discovery.seek_by(functools.partial(environment.seek, register=register))


def status() -> tuple[dict[str, bool], HostError | None]:
    """Look at the loaded host: which patches hold, and why they could not be made if they could not."""
    host = importlib.import_module(hook.HOST)
    holds = {
        "model YAML names": names_hold(host),
        "model parser": parser_holds(host),
        "pretrained weights": weights_hold(host),
        "fusing": fuse_holds(host),
        "safe loading": safe_load_holds(TABLE),
        **{f"parser {name}": parser_holds(sys.modules[name]) for name in _undo_forks},
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
