"""Names of model YAMLs: shipped, the host's own, and those of a stock model followed by a variant."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import re
from pathlib import Path
from types import ModuleType

import yaml

from ..errors import GraftError
from .variant import Variant

_PACKAGE = Path(__file__).resolve().parent.parent
_SCALE = re.compile(r"^(yolo(?:e-)?v?\d+)([nslmx])(?=[-.]|$)")
_VARIANT = re.compile(r"^(?P<stock>.+?)(?:-(?P<attention>coordatt|cbam|se))?(?:-(?P<neck>fpn|bifpn-add|bifpn))?\.yaml$")
_ATTENTION = {"coordatt": "CoordAtt", "cbam": "CBAM", "se": "SE"}
VARIANTS = [
    "-".join(x for x in (attention, neck) if x)
    for attention in ("", *_ATTENTION)
    for neck in ("", "bifpn", "bifpn-add", "fpn")
    if attention or neck
]


def folder() -> Path:
    """Return the folder of the shipped model YAMLs: inside the package in a wheel, beside it in a checkout."""
    inside = _PACKAGE / "model_yamls"
    return inside if inside.is_dir() else _PACKAGE.parent / "model_yamls"


def shipped() -> list[str]:
    """Return the names of the shipped model YAMLs, sorted."""
    return sorted(x.name for x in folder().glob("*.yaml"))


def stock(host: ModuleType) -> list[Path]:
    """Return the host's own model YAMLs, sorted by name."""
    return sorted((Path(str(host.__file__)).parent.parent / "cfg" / "models").rglob("*.yaml"), key=lambda x: x.name)


def fingerprint(file: Path) -> str:
    """Hash the content of a model YAML without its comments and layout."""
    content = yaml.safe_load(file.read_text(encoding="utf-8", errors="ignore"))
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def split(name: str) -> tuple[str, Variant] | None:
    """Split the name of a model YAML into the stock model's and the variant after it.

    Args:
        name: File name, such as `yolo12x-pose-coordatt-bifpn.yaml`.

    Returns:
        The stock model's file name and what to put into it, None if the name does not end in a variant.
    """
    match = _VARIANT.match(name)
    if match is None or not (match["attention"] or match["neck"]):
        return None
    variant = Variant(
        coordatt="deepest" if match["attention"] else "none",
        attention=_ATTENTION.get(match["attention"], "CoordAtt"),
        bifpn={"bifpn": "concat", "bifpn-add": "add"}.get(match["neck"], "none"),
        neck="fpn" if match["neck"] == "fpn" else "pan",
    )
    return f"{match['stock']}.yaml", variant


def unscaled(name: str) -> str:
    """Remove the scale letter from a file name: yolo11n-bifpn.yaml becomes yolo11-bifpn.yaml."""
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
        ValueError: If the name has a scale letter, which the file does not have.
        FileNotFoundError: If there is no such file; the message names the most similar ones.
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
    """Return the file of a model YAML as the host finds it.

    Args:
        name: A path, or a stock or shipped name, with or without a scale.

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
    """Suggest the model YAMLs with the most similar names, or return an empty string if there are none.

    Args:
        name: The name that was not found.
        host: `ultralytics.nn.tasks`, to search the names made from the stock models too.
    """
    plain = unscaled(Path(name).name)
    theirs = [x.name for x in stock(host)] if host else []
    known = [
        *shipped(),
        *theirs,
        *(f"{x.removesuffix('.yaml')}-{variant}.yaml" for x in theirs for variant in VARIANTS),
    ]
    near = difflib.get_close_matches(plain, dict.fromkeys(known), 3, 0.85)
    if set(near) <= set(theirs):  # no name of ours
        return ""
    scale = _SCALE.match(Path(name).name)
    if scale:
        near = [scaled(x, scale[2]) for x in near]
    return f"Did you mean {' or '.join(near)}?"
