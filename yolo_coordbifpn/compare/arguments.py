"""Arguments of the host's `train`, checked before anything is run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from ..host.arguments import read_arguments

_FILES = ("data", "pretrained", "cfg")
_COUNTS = ("epochs", "imgsz")  # whole numbers of at least 1, which older versions of the host do not check


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
            value = read_arguments({key: absolute(text) if key in _FILES else text})[key]
        except ValueError as error:
            problems.append(f"the host's train does not accept {key}={text}: {error}")
            continue
        if key in _COUNTS and not (type(value) is int and value >= 1):
            problems.append(f"{key}= must be a whole number of at least 1, got {text!r}")
        elif key in ("pretrained", "cfg") and isinstance(value, str) and is_missing(value):
            problems.append(f"{key}={value}: there is no such file")
        else:
            values[key] = value
    return values, problems


def all_arguments(train: dict[str, Any]) -> SimpleNamespace:
    """Return all arguments of the host's `train`: those given, those of the file `cfg=`, and the host's defaults."""
    from ultralytics.utils import DEFAULT_CFG_DICT

    file = yaml.safe_load(Path(train["cfg"]).read_text(encoding="utf-8")) if train.get("cfg") else {}
    return SimpleNamespace(**{**DEFAULT_CFG_DICT, **file, **train})


def absolute(name: str) -> str:
    """Return the absolute path of an existing file, and anything else unchanged."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


def is_missing(name: str) -> bool:
    """Return whether a file is missing and is not a checkpoint that the host downloads."""
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    return not Path(name).is_file() and name not in GITHUB_ASSETS_NAMES
