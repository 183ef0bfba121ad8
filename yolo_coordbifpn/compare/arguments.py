"""Arguments of the host's `train`, checked before anything is run."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from ..host.arguments import check_arguments, read_arguments
from ..host.models import is_missing
from .plan import FILES

_COUNTS = ("epochs", "imgsz", "batch")  # whole numbers of at least 1: a batch that the host chooses may differ by model


def train_arguments(given: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Read training arguments as the host's command line does.

    Args:
        given: Values by key, as written.

    Returns:
        The valid values, with absolute paths for files because a run may start in another folder; and a line for each
        value that is not valid.
    """
    values: dict[str, Any] = {}
    problems = []
    for key, text in given.items():
        try:
            value = read_arguments({key: absolute(text) if key in FILES else text})[key]
        except ValueError as error:
            problems.append(f"the host's train does not accept {key}={text}: {error}")
            continue
        if key in FILES[1:] and isinstance(value, str) and is_missing(value):
            problems.append(f"{key}={value}: there is no such file")
        else:
            values[key] = value
    try:
        found = given_arguments(values)
    except (OSError, ValueError, yaml.YAMLError) as error:
        return values, [*problems, f"cfg={values['cfg']} is not a YAML file of arguments: {error}"]
    try:
        check_arguments(found)
    except ValueError as error:
        problems.append(f"cfg={values.get('cfg')}: the host's train does not accept it: {error}")
    if found.pop("time", None) is not None:
        values.pop("time", None)
        problems.append("time= ends each run by the clock, so that they differ; give epochs= alone")
    for key in _COUNTS:
        if key in found and not (type(found[key]) is int and found[key] >= 1):
            problems.append(f"{key}= must be a whole number of at least 1, got {found[key]!r}")
    return values, problems


def all_arguments(train: dict[str, Any]) -> SimpleNamespace:
    """Return all arguments of the host's `train`: those given, those of the file `cfg=`, and the host's defaults."""
    from ultralytics.utils import DEFAULT_CFG_DICT

    return SimpleNamespace(**{**DEFAULT_CFG_DICT, **given_arguments(train)})


def given_arguments(train: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that are given, in the file `cfg=` or themselves.

    Raises:
        ValueError: If the file contains something else.
    """
    file = yaml.safe_load(Path(train["cfg"]).read_text(encoding="utf-8")) if train.get("cfg") else None
    if not isinstance(file or {}, dict):
        raise ValueError(f"it contains a {type(file).__name__}")
    return {**(file or {}), **train}


def image_size(args: Any) -> int:
    """Return the height and width of the images in pixels, as the host rounds them to a multiple of 32."""
    return math.ceil(args.imgsz / 32) * 32


def absolute(name: str) -> str:
    """Return the absolute path of an existing file, and anything else unchanged."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name
