"""Patch: the bare name of a model YAML with our blocks is found from any folder, at any scale.

The host looks a model YAML up with `check_yaml`, twice: under the name as given and without its scale letter. In the
patched look-up an existing local file takes precedence, then the host's own file of that name, then a shipped one. For
a stock model's name followed by a variant, such as `yolo12-pose-coordatt-bifpn`, a file is made from the stock one, and
so it is for a shipped name if the installed fork has changed the stock model.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml

from ..errors import GraftError, HostError
from ..grafting.names import canonical, fingerprint, folder, missed_blocks, split, stock, suggestion, unscaled
from ..grafting.variant import Variant
from ..registry import TABLE
from ..registry.row_builder import modules
from ..registry.table import clash
from .parser import parser_holds
from .replacement import Undo, is_replaced, replace

_REQUIRES = re.compile(r"^# Requires ultralytics>=([\d.]+)", re.MULTILINE)
_MADE_FROM = re.compile(r"^# Fingerprint of \S+: (\w+)", re.MULTILINE)


def patch_names(host: ModuleType, version: str, graft_text: Callable[[Path, Variant], tuple[str, Any]]) -> Undo:
    """Make the host's look-up of model YAMLs find the shipped ones.

    Args:
        host: `ultralytics.nn.tasks`.
        version: Version of the host.
        graft_text: Puts a variant into a model YAML file; returns the new text first.

    Returns:
        A function that undoes the patch.

    Raises:
        HostError: If the host does not look its YAMLs up with `check_yaml`.
    """
    original = getattr(host, "check_yaml", None)
    loader = getattr(host, "yaml_model_load", None)
    if not callable(original) or "check_yaml" not in getattr(getattr(loader, "__code__", None), "co_names", ()):
        raise HostError(f"{host.__name__}.yaml_model_load does not look model YAMLs up with check_yaml")

    files: dict[tuple[int, Path, Variant], Path] = {}

    def grafted(source: Path, variant: Variant) -> Path:
        """Put a variant into a stock model YAML, in a file that is deleted when this process ends."""
        key = os.getpid(), source, variant  # a forked process makes its own
        if key not in files or not files[key].is_file():
            with torch.random.fork_rng(devices=[]):  # the model of this name is not built yet
                text, _ = graft_text(source, variant)
            place = Path(tempfile.mkdtemp(prefix="yolo_coordbifpn_"))
            atexit.register(_delete, place, os.getpid())
            file = place / f"{source.stem}-{variant.name}.yaml"
            file.write_text(text, encoding="utf-8")
            files[key] = file
        return files[key]

    missed: list[Path] = []  # the name that was just looked for in vain

    def check_yaml(file: str | Path, *args: Any, **kwargs: Any) -> Any:
        path = Path(str(file))
        last = missed.pop() if missed else path
        if last.parent / unscaled(last.name) == path:  # newer hosts look for a name with its scale first
            path = last
        found = _find(file, host, version, grafted)
        if found is not None:
            return str(found)
        try:
            result = original(file, *args, **kwargs)
            if not result:
                missed.append(Path(str(file)))
            return result
        except FileNotFoundError as error:
            variant = split(path.name)
            if variant is not None and not _is_bare(path):
                raise FileNotFoundError(
                    f"{path} does not exist. For the model of this name, write {path.name} without a folder."
                ) from error
            if variant is not None:
                _check_family(path.name, version)
            hint = suggestion(str(path), host)
            if variant is not None and hint:
                hint = f"This Ultralytics ({version}) has no {variant[0]}. {hint}"
            hint = " ".join(x for x in (hint, *(f"{x}." for x in missed_blocks(path.name))) if x)
            if not hint:
                raise
            raise FileNotFoundError(f"{error}. {hint}") from error

    return replace(host, "check_yaml", check_yaml)


def names_hold(host: ModuleType) -> bool:
    """Return whether the host's look-up of model YAMLs, as it is now, is ours."""
    return is_replaced(host, "check_yaml", __name__)


def _delete(place: Path, process: int) -> None:
    """Delete a folder at the end of the process that made it, not at the end of one forked from it."""
    if os.getpid() == process:
        shutil.rmtree(place, ignore_errors=True)


def _find(file: str | Path, host: ModuleType, version: str, grafted: Callable[[Path, Variant], Path]) -> Path | None:
    """Return the file for one of our names, None for any other name.

    A user's own file of that name takes precedence. If the host has a file of that name, the name is the host's.

    Args:
        file: The name.
        host: `ultralytics.nn.tasks`.
        version: Version of the host.
        grafted: Makes the file of a stock model YAML with a variant.

    Raises:
        HostError: If the host does not have the stock model yet, or has its own block under the name of one of ours.
    """
    path = Path(str(file).strip())
    if path.suffix != ".yaml" or path.exists():
        return None
    variant = split(path.name)
    name = canonical(path.name)
    names = [path.name, unscaled(path.name), name, unscaled(name)]  # some families have a file for each scale
    ours = next((folder() / x for x in names if (folder() / x).is_file()), None)
    if ours is None and variant is None:
        return None
    if hasattr(host, "parse_model") and not parser_holds(host):
        raise HostError(
            f"{path.name}: other code has replaced {host.__name__}.parse_model since yolo_coordbifpn patched it, and "
            "the new function does not know the blocks"
        )
    theirs = {x.name: x for x in stock(host)}
    source = (theirs.get(variant[0]) or theirs.get(unscaled(variant[0]))) if variant else None
    if not theirs.keys().isdisjoint(names) or (ours is None and source is None):
        return None
    if path.with_name(names[1]).exists():
        return path.with_name(names[1])
    if not _is_bare(path):
        return None
    if ours is not None and source is None:
        _check_version(ours, version)
    if ours is not None and (source is None or _is_made_from(ours, source)):
        _check_blocks(ours, host)
        return ours
    return grafted(source, variant[1])  # type: ignore[arg-type, index]


def _check_blocks(ours: Path, host: ModuleType) -> None:
    """Raise a `HostError` if the host has something else under the name of a block in a shipped YAML."""
    clashes = {block.__name__: clash(block, vars(host)) for block in TABLE}
    if any(clashes.values()):
        for name in modules(yaml.safe_load(ours.read_text(encoding="utf-8"))):
            if clashes.get(name):
                raise HostError(f"{ours.name}: {clashes[name]}")


def _is_bare(path: Path) -> bool:
    """Return whether a name has no folder, or only that of the shipped files."""
    return path.parent.name in ("", "model_yamls")


def report_file(host: ModuleType, cfg: dict[str, Any]) -> None:
    """Log which file one of our names stands for; warn if a local file has the name of a model that is not the same.

    Args:
        host: `ultralytics.nn.tasks`.
        cfg: The model YAML that is built, with its name as `yaml_file`.
    """
    path = Path(str(cfg.get("yaml_file") or ""))
    names = (path.name, unscaled(path.name))
    ours = next((folder() / x for x in (unscaled(canonical(path.name)), path.name) if (folder() / x).is_file()), None)
    variant = split(path.name)
    if ours is None and (variant is None or unscaled(variant[0]) not in {unscaled(x.name) for x in stock(host)}):
        return
    try:
        found = host.check_yaml(str(path), hard=False) or host.check_yaml(str(path.with_name(names[1])), hard=False)
        file = Path(str(found))
        if not file.is_file() or not _has_rows_of(cfg, file):  # from a checkpoint, or a dict of the user's own
            return
    except (OSError, ValueError, GraftError, HostError, yaml.YAMLError):  # from a checkpoint of a newer host, say
        return
    local = next((x for x in map(path.with_name, names) if x.exists()), None)
    theirs = file if file in stock(host) else None
    other = local or theirs
    if other is not None and (ours is None or fingerprint(other) != fingerprint(ours)):
        whose = "the local file" if local else "this Ultralytics' own file"
        host.LOGGER.warning(
            f"yolo_coordbifpn: {path.name} is {whose} {other.absolute()}, which takes precedence over the model "
            "of this name; rename the file to get that model"
        )
    else:
        host.LOGGER.info(f"yolo_coordbifpn: {path.name} is {file.absolute()}")


def _has_rows_of(cfg: dict[str, Any], file: Path) -> bool:
    """Return whether a model YAML has the layers of a file; arguments may differ, such as a gain."""
    there = yaml.safe_load(file.read_text(encoding="utf-8", errors="ignore"))  # as the host reads it
    given, written = ([_modules(x.get(part)) for part in ("backbone", "head")] for x in (cfg, there))
    return given == written


def _modules(rows: Any) -> Any:
    """Return rows without their arguments; what is malformed as it is, for the parser to refuse."""
    return [row[:3] if isinstance(row, list) else row for row in rows] if isinstance(rows, list) else rows


def _is_made_from(ours: Path, source: Path) -> bool:
    """Return whether a shipped file was made from a stock model YAML with this content."""
    found = _MADE_FROM.search(ours.read_text(encoding="utf-8"))
    return found is not None and found[1] == fingerprint(source)


def _check_version(file: Path, version: str, name: str = "") -> None:
    """Check that the host is new enough for a shipped YAML.

    Args:
        file: The shipped YAML.
        version: Version of the host.
        name: Name for the message, if it is not the file's.

    Raises:
        HostError: If the host does not have the stock blocks yet.
    """
    needs = _REQUIRES.search(file.read_text(encoding="utf-8"))
    if needs and _numbers(version) < _numbers(needs[1]):
        raise HostError(
            f"{name or file.name} needs ultralytics>={needs[1]}, this is {version}: "
            "pip install -U ultralytics (in a fork, merge that version), or use a model of an older family."
        )


def _check_family(name: str, version: str) -> None:
    """Check that the host is new enough for the family of a name that has no file.

    Raises:
        HostError: If it is not.
    """
    family = re.match(r"[a-z]+\d+", name)
    for file in folder().glob(f"{family[0]}*.yaml") if family else ():
        _check_version(file, version, name)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(x) for x in re.findall(r"\d+", version)[:3])
