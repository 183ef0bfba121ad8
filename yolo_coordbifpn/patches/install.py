"""All patches of the host as one: either every patch holds or none does."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from ..blocks.declaration import declaration
from ..errors import HostError, host_needed
from ..grafting.graft import graft_text
from ..registry import LATE, TABLE, ChannelRule, entry_points, environment, shipped
from . import hook
from .adaptive_nms import HOMES, nms_holds, patch_densities, patch_nms
from .block_losses import patch_block_losses
from .distillation import distillation_holds, patch_distillation
from .failure import raise_when_built
from .fusing import patch_fuse
from .grid_skipping import patch_grid_skipping
from .names import names_hold, patch_names, report_file
from .parser import check_names, expose, parser_holds, patch_parser
from .prototypes import patch_prototypes, prototypes_hold
from .replacement import Undo, are_replaced
from .safe_load import allow, patch_safe_load, safe_load_holds
from .trainer_callbacks import patch_trainer_callbacks, trainer_callbacks_hold
from .weights import engine_load_holds, patch_engine_load, patch_weights


def _is_ours(method: str, patch: Callable[..., Undo]) -> Callable[[ModuleType], bool]:
    """Return a function that says whether a method of the host's models, as it is now, is that of a patch."""
    return lambda host: are_replaced(host, method, patch.__module__)


# the patches that work together or not at all: name, whether it holds, and the patch
_REQUIRED: tuple[tuple[str, Callable[[ModuleType], bool], Callable[[ModuleType], Undo]], ...] = (
    ("model YAML names", names_hold, lambda host: patch_names(host, host_version(), graft_text)),
    ("model parser", parser_holds, lambda host: patch_parser(host, TABLE, functools.partial(report_file, host))),
    ("pretrained weights", _is_ours("load", patch_weights), lambda host: patch_weights(host, TABLE)),
    ("fusing", _is_ours("fuse", patch_fuse), lambda host: patch_fuse(host, TABLE)),
    ("losses of blocks", _is_ours("loss", patch_block_losses), lambda host: patch_block_losses(host, TABLE)),
    ("densities", _is_ours("predict", patch_densities), patch_densities),
    ("grid skipping", _is_ours("predict", patch_grid_skipping), patch_grid_skipping),
    ("safe loading", lambda host: safe_load_holds(host, TABLE), lambda host: patch_safe_load(host, TABLE)),
)
# what not every host has: without it the rest works; name, module, whether the patch holds, and the patch
_OPTIONAL: tuple[tuple[str, str, Callable[[Any], bool], Callable[[Any], Undo]], ...] = (
    ("trainer callbacks", "ultralytics.utils.callbacks", trainer_callbacks_hold, patch_trainer_callbacks),
    ("mask prototypes", "ultralytics.nn.modules.block", prototypes_hold, patch_prototypes),
    ("distillation", "ultralytics.nn.distill_model", distillation_holds, patch_distillation),
    *(("adaptive NMS", module, nms_holds, patch_nms) for module in HOMES),
)
_parts: set[tuple[str, str]] = set()  # names and modules of those that were made
_lacking: dict[tuple[str, str], str] = {}  # why others were not made
_undo: dict[str, list[Undo]] = {}  # patches that were made, by the module of the parser
_failures: dict[str, HostError] = {}  # why a parser could not be patched, by its module


def install(parser: str | None = None) -> None:
    """Patch Ultralytics, or a fork's parser, so that its model YAMLs may name the registered blocks.

    The start-up hook does this when Ultralytics is imported, and so does `import yolo_coordbifpn`. Call it to get an
    error now rather than when a model is built, or to make patches again that something else has undone. Patches that
    hold stay as they are.

    Args:
        parser: Name of the module that holds a fork's `parse_model`, such as `models.yolo`, to patch it alone;
            Ultralytics if not given. The environment variable `YOLO_COORDBIFPN_PARSERS`, a list of such names separated
            by commas, does the same without a line of code.

    Raises:
        HostError: If Ultralytics or the fork's module is missing or cannot be patched; then nothing is changed.
    """
    name = hook.HOST if parser is None else parser
    if name == hook.HOST:
        hook.arm()
        with host_needed():
            importlib.import_module(name)
        install_quietly()
    else:
        _import_parser(name)
        install_parser_quietly(name)
    if name in _failures:
        raise _failures[name]
    if name != hook.HOST:
        hook.wait_for(name)
        hook.arm()


def install_quietly() -> None:
    """Patch the loaded host; if that fails, change nothing and let our models say why when they are built."""
    host = importlib.import_module(hook.HOST)
    engine = sys.modules.get(hook.ENGINE)  # patched in a second call if it is not loaded yet
    _patch(
        hook.HOST,
        f"ultralytics {host_version()}",
        (
            *((holds(host), functools.partial(patch, host)) for _, holds, patch in _REQUIRED),
            (engine is None or engine_load_holds(engine), lambda: patch_engine_load(engine, TABLE)),
        ),
        " `yolo-coordbifpn check` shows the details. Newer versions may work together (pip install -U ultralytics "
        "yolo_coordbifpn; not over a fork).",
    )
    if hook.HOST in _failures:
        return
    for name, module, part_holds, patch in _OPTIONAL:
        try:
            part = importlib.import_module(module)
            if not part_holds(part):
                _undo[hook.HOST].append(patch(part))
                _parts.add((name, module))
        except Exception as error:  # whatever it is, the patches above hold
            _lacking[name, module] = str(error) if isinstance(error, HostError) else f"{type(error).__name__}: {error}"


def install_parser_quietly(name: str) -> None:
    """Patch the loaded parser of a fork; if that fails, change nothing and let our models say why when built."""
    host = importlib.import_module(name)
    _patch(name, f"the parser {name}", [(parser_holds(host), lambda: patch_parser(host, TABLE))])


def uninstall() -> None:
    """Undo every patch and stop waiting for the host; `install()` makes them again.

    What another package has replaced since is left as it is and named in a warning of the host's log.
    """
    hook.disarm()
    for name in list(_undo):
        _undo_all(name)


def _import_parser(name: str) -> None:
    """Import the module of a fork's parser.

    Raises:
        HostError: If this is no name of a module, or there is no such module.
    """
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


def _patch(name: str, what: str, patches: Iterable[tuple[bool, Callable[[], Undo]]], advice: str = "") -> None:
    """Make the patches of a module that do not hold; if one fails, undo them all and keep the reason.

    Args:
        name: The loaded module that defines `parse_model`.
        what: Name of the host for the message.
        patches: For each patch whether it holds, and the function that makes it.
        advice: Last part of the message.
    """
    if name in _failures:
        _undo_all(name)
    done = _undo.setdefault(name, [])
    try:
        for holds, patch in patches:
            if not holds:
                done.append(patch())
    except Exception as error:  # whatever it is, nothing may stay half done; install() raises it
        _undo_all(name)
        host = sys.modules[name]
        reason = str(error) if isinstance(error, HostError) else f"{type(error).__name__}: {error}"
        failure = HostError(
            f"yolo_coordbifpn cannot work with {what} at {host.__file__}: {reason}. "
            f"Nothing was changed, and models without its blocks are not affected.{advice}"
        )
        failure.__cause__ = error
        _failures[name] = failure
        _undo.setdefault(name, []).extend(raise_when_built(host, failure))


def _undo_all(module: str) -> None:
    """Undo the patches made with a parser, the last one first; keep those that still have an effect."""
    _failures.pop(module, None)
    kept = [undo for undo in reversed(_undo.pop(module)) if not undo()]
    if kept:
        _undo[module] = kept[::-1]


def register(block: type[Any], channels: str | ChannelRule | None = None) -> None:
    """Let model YAMLs name a block of your own, as `[from, repeats, ClassName, args]`.

    The block is built as `block(c1, *args)`: `c1` is the channels of its input, an int, or for a row with a list of
    layers the list of their channels; `args` is the row's last part. Its `forward` gets a tensor, or a list of them.

    Processes started from this one, such as the workers of several GPUs, know the block too if they can import its
    class. Without a line of code, in the shell: `YOLO_COORDBIFPN_BLOCKS=my_package.blocks:MyBlock`. If the block keeps
    its channels, model names may have its class name in lower case as a variant, `yolo11n-myblock.yaml`; the decorator
    `yolo_coordbifpn.block` sets another word.

    Args:
        block: A subclass of `torch.nn.Module`; its class name is the name in the YAML.
        channels: How many channels come out: "same" as come in (several inputs must agree), the "sum" over the inputs,
            or a function `(c1, args) -> (c2, full_args)` that returns the output channels and all arguments of the
            block, `c1` included. By default what the class is declared with, else "same".

    Raises:
        TypeError: If `block` is not such a class, or `channels` neither a string nor callable.
        ValueError: If `channels` is an unknown string, or another block of this name is registered.
        HostError: If Ultralytics is missing, cannot be patched, or has something else under this name, or if a package
            that the block is made of is missing.
    """
    TABLE.check(block, channels)
    library = declaration(block).library
    if library and importlib.util.find_spec(library) is None:
        raise HostError(f"{block.__name__} needs {library}, which is not installed")
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
    return [sys.modules[x] for x in {hook.HOST, *_undo} if parser_holds(sys.modules.get(x))]


TABLE.discovery.add_source(functools.partial(environment.seek, register=register))  # a user's own SE comes first
TABLE.discovery.add_source(functools.partial(shipped.seek, later=LATE, register=register))
TABLE.discovery.add_source(functools.partial(shipped.seek_timm, register=register))
TABLE.discovery.add_source(functools.partial(entry_points.seek, register=register))


def status() -> tuple[dict[str, bool], HostError | None]:
    """Return which patches of the loaded host hold, and why it could not be patched, if so."""
    host = importlib.import_module(hook.HOST)
    holds = {
        **{name: holds(host) for name, holds, _ in _REQUIRED},
        **{f"parser {name}": parser_holds(sys.modules.get(name)) for name in _undo if name != hook.HOST},
    }
    for name, module, part_holds, _ in _OPTIONAL:
        if (name, module) in _parts:
            holds[name] = part_holds(sys.modules[module])
    return holds, _failures.get(hook.HOST)


def lacking() -> dict[str, str]:
    """Return the patches that this host cannot take, by name, with the reason; the others work without them."""
    made = {name for name, _ in _parts}
    return {name: reason for (name, _), reason in _lacking.items() if name not in made}


def host_version() -> str:
    """Return the version of the loaded host, "unknown" if it does not say."""
    return str(getattr(importlib.import_module("ultralytics"), "__version__", "unknown"))
