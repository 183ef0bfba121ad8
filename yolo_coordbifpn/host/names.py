"""Patch: the bare name of a model YAML with our blocks is found from any folder, at any scale.

The host looks a model YAML up by `check_yaml`, twice: under the name as given and without its scale letter. The patched
look-up takes an existing local file first, then the host's own of that name, then a shipped one; a name that is a stock
model's with an arm behind it, such as `yolo12-pose-coordatt-bifpn`, is made from the stock file. So is the name of a
shipped file whose stock model is another one in the fork at hand.
"""

from __future__ import annotations

import atexit
import contextlib
import difflib
import functools
import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from ..errors import GraftError, HostError
from ..graph.graft import Arm

_PACKAGE = Path(__file__).resolve().parent.parent
_SCALE = re.compile(r"^(yolo(?:e-)?v?\d+)([nslmx])(?=[-.]|$)")
_ARM = re.compile(r"^(?P<stock>.+?)(?:-(?P<attention>coordatt|cbam|se))?(?:-(?P<neck>fpn|bifpn-add|bifpn))?\.yaml$")
_ATTENTION = {"coordatt": "CoordAtt", "cbam": "CBAM", "se": "SE"}
ARMS = [
    "-".join(x for x in (attention, neck) if x)
    for attention in ("", *_ATTENTION)
    for neck in ("", "bifpn", "bifpn-add", "fpn")
    if attention or neck
]
made: set[str] = set()  # names for which a model YAML was made in this process
_REQUIRES = re.compile(r"^# Requires ultralytics>=([\d.]+)", re.MULTILINE)
_MADE_FROM = re.compile(r"^# Fingerprint of \S+: (\w+)", re.MULTILINE)


def folder() -> Path:
    """Return the folder of the shipped model YAMLs: in the wheel inside the package, in a checkout beside it."""
    inside = _PACKAGE / "model_yamls"
    return inside if inside.is_dir() else _PACKAGE.parent / "model_yamls"


def shipped() -> list[str]:
    """Return the names of the shipped model YAMLs, sorted."""
    return sorted(x.name for x in folder().glob("*.yaml"))


def stock(host: ModuleType) -> list[Path]:
    """Return the host's own model YAMLs, sorted by name."""
    return sorted((Path(str(host.__file__)).parent.parent / "cfg" / "models").rglob("*.yaml"), key=lambda x: x.name)


def fingerprint(file: Path) -> str:
    """Hash what a model YAML says, whatever its comments and its form."""
    content = yaml.safe_load(file.read_text(encoding="utf-8", errors="ignore"))
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def split(name: str) -> tuple[str, Arm] | None:
    """Split the name of a model YAML into the stock model's and the arm behind it.

    Args:
        name: File name, such as `yolo12x-pose-coordatt-bifpn.yaml`.

    Returns:
        The stock model's file name and what to put into it, None if the name ends in no arm.
    """
    match = _ARM.match(name)
    if match is None or not (match["attention"] or match["neck"]):
        return None
    arm = Arm(
        coordatt="deepest" if match["attention"] else "none",
        attention=_ATTENTION.get(match["attention"], "CoordAtt"),
        bifpn={"bifpn": "concat", "bifpn-add": "add"}.get(match["neck"], "none"),
        neck="fpn" if match["neck"] == "fpn" else "pan",
    )
    return f"{match['stock']}.yaml", arm


def unscaled(name: str) -> str:
    """Take the scale letter out of a file name: yolo11n-bifpn.yaml becomes yolo11-bifpn.yaml."""
    return _SCALE.sub(r"\1", name)


def scaled(name: str, scale: str) -> str:
    """Put a scale letter into a file name: yolo11-bifpn.yaml becomes yolo11s-bifpn.yaml; yolov10n-bifpn.yaml stays."""
    return re.sub(r"^(yolo(?:e-)?v?\d+)(?=[-.])", rf"\g<1>{scale}", name)


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
    listed = "`yolo-coordbifpn models` lists them, `yolo-coordbifpn graft` writes one for any other model."
    raise FileNotFoundError(f"{name} is not one of the shipped model YAMLs. {suggestion(file) or listed}")


def find(name: str) -> Path:
    """Return the file of a model YAML as the host finds it: a path, a stock or shipped name, with or without a scale.

    Raises:
        GraftError: If there is no such file.
    """
    from ultralytics.nn import tasks

    for file in dict.fromkeys((name, str(Path(name).with_name(unscaled(Path(name).name))))):
        with contextlib.suppress(FileNotFoundError):
            found = tasks.check_yaml(file)  # type: ignore[attr-defined]
            if found:
                return Path(found)
    raise GraftError(f"there is no such model YAML. {suggestion(name, tasks)}".strip())


def suggestion(name: str, host: ModuleType | None = None) -> str:
    """Name the model YAMLs that are nearest to a name that does not exist, or return an empty string.

    Args:
        name: The name that was not found.
        host: `ultralytics.nn.tasks`, to look among the names made from the stock models too.
    """
    plain = unscaled(Path(name).name)
    theirs = [x.name for x in stock(host)] if host else []
    known = [*shipped(), *theirs, *(f"{x.removesuffix('.yaml')}-{arm}.yaml" for x in theirs for arm in ARMS)]
    near = difflib.get_close_matches(plain, dict.fromkeys(known), 3, 0.85)
    if set(near) <= set(theirs):  # no name of ours
        return ""
    scale = _SCALE.match(Path(name).name)
    if scale:
        near = [scaled(x, scale[2]) for x in near]
    return f"Did you mean {' or '.join(near)}?"


def patch_names(
    host: ModuleType, version: str, graft_text: Callable[[Path, Arm], tuple[str, Any]]
) -> Callable[[], None]:
    """Make the host's look-up of model YAMLs find the shipped ones.

    Args:
        host: `ultralytics.nn.tasks`.
        version: Version of the host.
        graft_text: Puts an arm into a model YAML file and returns the new text first.

    Returns:
        A function that undoes the patch.

    Raises:
        HostError: If the host looks its YAMLs up another way.
    """
    original = getattr(host, "check_yaml", None)
    loader = getattr(host, "yaml_model_load", None)
    if not callable(original) or "check_yaml" not in getattr(getattr(loader, "__code__", None), "co_names", ()):
        raise HostError(f"{host.__name__}.yaml_model_load does not look model YAMLs up by check_yaml")

    @functools.cache
    def grafted(source: Path, arm: Arm) -> Path:
        """Put an arm into a stock model YAML, in a file that lives as long as this process."""
        place = Path(tempfile.mkdtemp(prefix="yolo_coordbifpn_"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        made_file = place / f"{source.stem}-{arm.name}.yaml"
        made_file.write_text(graft_text(source, arm)[0], encoding="utf-8")
        return made_file

    def check_yaml(file: str | Path, *args: Any, **kwargs: Any) -> Any:
        found = _find(file, host, version, grafted)
        if found is not None:
            return str(found)
        try:
            return original(file, *args, **kwargs)
        except FileNotFoundError as error:
            arm = split(Path(str(file)).name)
            if arm is not None:
                _check_family(Path(str(file)).name, version)
            hint = suggestion(str(file), host)
            if arm is not None and hint:
                hint = f"This Ultralytics ({version}) has no {arm[0]}. {hint}"
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


def _find(file: str | Path, host: ModuleType, version: str, grafted: Callable[[Path, Arm], Path]) -> Path | None:
    """Return the file for a name of ours, the user's own of that name before it; None for all other names.

    A fork's own file of that name is left to the fork.

    Args:
        file: The name.
        host: `ultralytics.nn.tasks`.
        version: Version of the host.
        grafted: Makes the file of a stock model YAML with an arm.

    Raises:
        HostError: If the host does not have the stock model yet.
    """
    path = Path(str(file).strip())
    if path.suffix != ".yaml" or path.exists():
        return None
    names = [path.name, unscaled(path.name)]  # some families have a file for each scale
    ours = next((folder() / x for x in names if (folder() / x).is_file()), None)
    arm = split(path.name)
    if ours is None and arm is None:
        return None
    theirs = {x.name: x for x in stock(host)}
    source = (theirs.get(arm[0]) or theirs.get(unscaled(arm[0]))) if arm else None
    if not theirs.keys().isdisjoint(names) or (ours is None and source is None):
        return None
    if path.with_name(names[1]).exists():
        return path.with_name(names[1])
    if path.parent.name not in ("", "model_yamls"):
        return None
    if ours is not None and source is None:
        _check_version(ours, version)
    if ours is not None and (source is None or _is_made_from(ours, source)):
        return ours
    made.add(path.name)
    return grafted(source, arm[1])  # type: ignore[arg-type, index]


def _is_made_from(ours: Path, source: Path) -> bool:
    """Tell whether a stock model YAML says what the one did that a shipped file was made from."""
    found = _MADE_FROM.search(ours.read_text(encoding="utf-8"))
    return found is not None and found[1] == fingerprint(source)


def _check_version(file: Path, version: str, name: str = "") -> None:
    """Refuse a shipped YAML, or a name without a file beside it, whose stock blocks this host does not have yet."""
    needs = _REQUIRES.search(file.read_text(encoding="utf-8"))
    if needs and _numbers(version) < _numbers(needs[1]):
        raise HostError(
            f"{name or file.name} needs ultralytics>={needs[1]}, this is {version}: "
            "pip install -U ultralytics, or take a model of an older family."
        )


def _check_family(name: str, version: str) -> None:
    """Refuse a name that nothing stands for if the shipped files of its family need a newer host."""
    family = re.match(r"[a-z]+\d+", name)
    for file in folder().glob(f"{family[0]}*.yaml") if family else ():
        _check_version(file, version, name)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(x) for x in re.findall(r"\d+", version)[:3])
