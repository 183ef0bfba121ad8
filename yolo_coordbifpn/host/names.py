"""Patch: the bare name of a shipped model YAML is found from any folder, at any scale.

The host looks a model YAML up by `check_yaml`, twice: under the name as given and without its scale letter. The patched
look-up takes an existing local file first, then ours, then the host's.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import HostError

_PACKAGE = Path(__file__).resolve().parent.parent
_SCALE = re.compile(r"^(yolo(?:e-)?v?\d+)([nslmx])(?=[-.]|$)")
_REQUIRES = re.compile(r"^# Requires ultralytics>=([\d.]+)", re.MULTILINE)


def folder() -> Path:
    """Return the folder of the shipped model YAMLs: in the wheel inside the package, in a checkout beside it."""
    inside = _PACKAGE / "model_yamls"
    return inside if inside.is_dir() else _PACKAGE.parent / "model_yamls"


def shipped() -> list[str]:
    """Return the names of the shipped model YAMLs, sorted."""
    return sorted(x.name for x in folder().glob("*.yaml"))


def unscaled(name: str) -> str:
    """Take the scale letter out of a file name: yolo11n-bifpn.yaml becomes yolo11-bifpn.yaml."""
    return _SCALE.sub(r"\1", name)


def model_yaml(name: str) -> Path:
    """Return the path of a shipped model YAML, for reading or copying.

    Args:
        name: File name without a scale letter, with or without `.yaml`, such as `yolo11-coordatt-bifpn`.

    Returns:
        Path of the existing file.

    Raises:
        ValueError: If the name holds a scale letter, which the file does not.
        FileNotFoundError: If there is no such file; the message names the nearest.
    """
    file = name if name.endswith(".yaml") else f"{name}.yaml"
    if (folder() / file).is_file():
        return folder() / file
    plain = unscaled(file)
    if (folder() / plain).is_file():
        raise ValueError(
            f"{file} is scale {_SCALE.match(file)[2]} of the file {plain}. "  # type: ignore[index]
            f'For the model write YOLO("{file}"), for the file model_yaml("{plain}").'
        )
    raise FileNotFoundError(f"{name} is not one of the shipped model YAMLs. {suggestion(file) or _listing()}")


def suggestion(name: str) -> str:
    """Name the shipped model YAMLs that are nearest to a name that does not exist, or return an empty string."""
    plain = unscaled(Path(name).name)
    near = difflib.get_close_matches(plain, shipped(), 3, 0.8)
    if not near:
        return ""
    scale = _SCALE.match(Path(name).name)
    if scale:
        near = [re.sub(r"(\d)(?=-)", rf"\g<1>{scale[2]}", x, count=1) for x in near]
    return f"Did you mean {' or '.join(near)}?"


def _listing() -> str:
    return f"There are {', '.join(shipped())}."


def patch_names(host: ModuleType, version: str) -> Callable[[], None]:
    """Make the host's look-up of model YAMLs find the shipped ones.

    Args:
        host: `ultralytics.nn.tasks`.
        version: Version of the host.

    Returns:
        A function that undoes the patch.

    Raises:
        HostError: If the host looks its YAMLs up another way.
    """
    original = getattr(host, "check_yaml", None)
    loader = getattr(host, "yaml_model_load", None)
    if not callable(original) or "check_yaml" not in getattr(getattr(loader, "__code__", None), "co_names", ()):
        raise HostError(f"{host.__name__}.yaml_model_load does not look model YAMLs up by check_yaml")

    def check_yaml(file: str | Path, *args: Any, **kwargs: Any) -> Any:
        found = _find(file)
        if found is not None:
            _check_version(found, version)
            return str(found)
        try:
            return original(file, *args, **kwargs)
        except FileNotFoundError as error:
            hint = suggestion(str(file))
            if not hint:
                raise
            raise FileNotFoundError(f"{error}. {hint}") from error

    host.check_yaml = check_yaml  # type: ignore[attr-defined]

    def undo() -> None:
        host.check_yaml = original  # type: ignore[attr-defined]

    return undo


def names_hold(host: ModuleType) -> bool:
    """Tell whether the host's look-up of model YAMLs, as it is now, is ours."""
    return getattr(getattr(host, "check_yaml", None), "__module__", None) == __name__


def _find(file: str | Path) -> Path | None:
    """Return the file for a shipped name, the user's own of that name before ours; None for all other names."""
    path = Path(str(file).strip())
    plain = path.with_name(unscaled(path.name)) if path.name else path
    ours = folder() / plain.name
    if plain.suffix != ".yaml" or not ours.is_file() or path.exists():
        return None
    if plain.exists():
        return plain
    return ours if path.parent.name in ("", "model_yamls") else None


def _check_version(file: Path, version: str) -> None:
    """Refuse a shipped YAML whose stock blocks this host does not have yet."""
    needs = _REQUIRES.search(file.read_text(encoding="utf-8"))
    if needs and _numbers(version) < _numbers(needs[1]):
        raise HostError(
            f"{file.name} needs ultralytics>={needs[1]}, this is {version}: "
            "pip install -U ultralytics, or take a model of an older family."
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(x) for x in re.findall(r"\d+", version)[:3])
