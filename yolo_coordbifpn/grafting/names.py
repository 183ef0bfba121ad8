"""Names of model YAMLs: shipped, the host's own, and those of a stock model followed by a variant."""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import yaml

from ..blocks.declaration import TAKEN
from ..blocks.timm_attention import PREFIX
from ..errors import GraftError
from ..registry import TABLE
from ..registry.environment import VARIABLE
from .variant import Variant

_PACKAGE = Path(__file__).resolve().parent.parent
_SCALE = re.compile(r"^(yolo(?:e-)?v?\d+)([nslmx])(?=[-.]|$)")
_ADAPTIVE, _GRID = "anms", "grid"
_NECKS = {
    "bifpn": ("concat", "pan"),
    "bifpn_add": ("add", "pan"),
    "fpn": ("none", "fpn"),
    "dualpath": ("concat", "dualpath"),
}
_LEVELS = ("p2-p3", "p2-p4", "p2-p5", "p3-p4", "p2")  # levels of a head as words of a name, the longer first


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
    return _hash(file.read_text(encoding="utf-8", errors="ignore"))


@functools.lru_cache
def _hash(text: str) -> str:
    """Hash a YAML document; reading it takes 0.02 s."""
    return hashlib.sha256(repr(yaml.safe_load(text)).encode()).hexdigest()[:16]


def split(name: str) -> tuple[str, Variant] | None:
    """Split the name of a model YAML into the stock model's and the variant in it.

    Args:
        name: File name, such as `yolo12x-pose-coordatt-bifpn.yaml`. The words of the variant may stand in any order and
            before the task, as in `yolo12x-bifpn-coordatt-pose.yaml`.

    Returns:
        The stock model's file name and what to put into it, None if the name has no variant. The levels of a stock
        model's own name, such as `yolov8-p2.yaml`, are no variant.
    """
    first, *words = _words(name)
    _discover(name)
    own = _own_words(name)
    attention = [x for x in words if x in TABLE.variants and x not in own]
    neck = [x for x in words if x in _NECKS]
    nms = [x for x in words if x == _ADAPTIVE]
    grid = [x for x in words if x == _GRID]
    groups = (attention, neck, nms, grid)
    stock, levels = _without_levels("-".join([first, *(x for x in words if not any(x in y for y in groups))]))
    if not name.endswith(".yaml") or not (any(groups) or levels) or max(map(len, groups)) > 1:
        return None
    bifpn, paths = _NECKS[neck[0]] if neck else ("none", "pan")
    variant = Variant(
        coordatt="deepest" if attention else "none",
        bifpn=bifpn,
        neck=paths,
        attention=TABLE.variants[attention[0]].__name__ if attention else "CoordAtt",
        levels=levels,
        nms="adaptive" if nms else "plain",
        grid="P3" if grid else "none",
    )
    return f"{stock}.yaml", variant


def _words(name: str) -> list[str]:
    """Return the words of a file name, with `bifpn_add` for the two of that neck."""
    return name.removesuffix(".yaml").replace("-bifpn-add", "-bifpn_add").split("-")


def _without_levels(stem: str) -> tuple[str, str | None]:
    """Take the levels from a name without its other variants, unless the host has a model of that name."""
    for words in _LEVELS:
        rest = f"{stem}-".replace(f"-{words}-", "-", 1).removesuffix("-")
        if rest != stem:
            for place in (stem, f"{rest}-{words}"):
                if unscaled(f"{place}.yaml") in _stock_names():
                    return place, None
            return rest, words.upper()
    return stem, None


def missed_blocks(name: str) -> list[str]:
    """Say why blocks that the words of a file name may ask for could not be registered; nothing for a usual name."""
    problems = _discover(name)
    if not problems and unscaled(f"{_words(name)[0]}.yaml") in _stock_names():
        problems = [f"No block {x} is known; if it is your own, name its module in {VARIABLE}" for x in _unknown(name)]
    return problems


def _discover(name: str) -> list[str]:
    """Register the blocks that a file name asks for; a word without another meaning may be that of any block.

    Returns:
        Why blocks could not be registered, if a word is still unknown.
    """
    if not _unknown(name):
        return []
    TABLE.discovery.find(_unknown(name))
    missed = TABLE.discovery.missed
    if not _unknown(name):
        return []
    TABLE.discovery.find_all()
    return list(dict.fromkeys([*missed, *TABLE.discovery.missed])) if _unknown(name) else []


def _unknown(name: str) -> list[str]:
    """Return the words of a file name that are neither a known variant, nor the stock model's, nor a task or level."""
    own = _own_words(name)
    return [x for x in _words(name)[1:] if x not in TABLE.variants and x not in own and not TAKEN.fullmatch(x)]


@functools.cache
def _stock_names() -> set[str]:
    """Return the file names of the installed host's own models."""
    with contextlib.suppress(ModuleNotFoundError):
        spec = importlib.util.find_spec("ultralytics")
        folders = [Path(x) / "cfg" / "models" for x in (spec and spec.submodule_search_locations) or ()]
        return {file.name for x in folders for file in x.rglob("*.yaml")}
    return set()


@functools.cache
def _stock_words() -> list[set[str]]:
    """Return the words of each name of the installed host's own models, the longer names and those of a task first."""
    names = [{*_words(unscaled(x))} for x in sorted(_stock_names())]
    return sorted(names, key=lambda words: (-len(words), not any(map(TAKEN.fullmatch, words))))


def _own_words(name: str) -> set[str]:
    """Return the words of a file name that are the stock model's own, such as `tiny` in yolov3-tiny-bifpn.yaml."""
    given = {*_words(unscaled(name))}
    return next((x for x in _stock_words() if x <= given), set())


def variants() -> list[str]:
    """Return the usual variants: attention blocks that are known so far, necks, both, some with P2, A-NMS and grid."""
    words = [x for x in TABLE.variants if not x.startswith(PREFIX)]
    necks = ("", "bifpn", "bifpn-add", "fpn", "dualpath")
    found = [[attention, neck, ""] for attention in ("", *words) for neck in necks]
    found += [[attention, neck, "p2"] for attention in ("", *words[:1]) for neck in ("", "bifpn", "dualpath")]
    return ["-".join(filter(None, x)) for x in [*found, [_ADAPTIVE], [_GRID]] if any(x)]


def canonical(name: str) -> str:
    """Return a name with its variant at the end and in the usual order, another name as it is."""
    found = split(name)
    return f"{found[0].removesuffix('.yaml')}-{found[1].name}.yaml" if found else name


def scale_of(name: str) -> str:
    """Return the scale letter in a file name, such as x in yolo11x-bifpn.yaml, or an empty string."""
    match = _SCALE.match(Path(name).name)
    return match[2] if match else ""


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
            f"{file} is scale {scale_of(file)} of the file {plain}. "
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
        *(f"{x.removesuffix('.yaml')}-{variant}.yaml" for x in theirs for variant in variants()),
    ]
    words = {_sorted(x): x for x in reversed(known)}  # whatever the order of the words
    near = [words[x] for x in difflib.get_close_matches(_sorted(plain), words, 3, 0.85)]
    if set(near) <= set(theirs):  # no name of ours
        return ""
    scale = scale_of(name)
    if scale:
        near = [scaled(x, scale) for x in near]
    return f"Did you mean {' or '.join(near)}?"


def _sorted(name: str) -> str:
    """Return the words of a file name, sorted."""
    return "-".join(sorted(re.split("[-_]", name.removesuffix(".yaml"))))
