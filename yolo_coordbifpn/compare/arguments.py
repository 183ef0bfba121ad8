"""Training arguments and models of a comparison, checked before anything is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import CompareError, GraftError
from ..grafting.names import find
from ..host.arguments import read_arguments


def train_arguments(given: dict[str, str]) -> dict[str, Any]:
    """Read training arguments as the host's command line does.

    Args:
        given: Values by key, as written.

    Returns:
        The values; files with absolute paths, since a run may start in another folder.

    Raises:
        CompareError: If the host does not accept an argument or its value, or if a file does not exist.
    """
    from ultralytics.utils.checks import check_file

    absolute = {
        key: _absolute(value) if key in {"data", "pretrained", "cfg"} else value for key, value in given.items()
    }
    try:
        values = read_arguments(absolute)
    except ValueError as error:
        raise CompareError(f"the host's train does not accept these arguments: {error}") from error
    data = str(values.get("data", ""))
    if data.endswith((".yaml", ".yml")) and "://" not in data and not check_file(data, download=False, hard=False):
        raise CompareError(f"data={data}: there is no such file, here or among the host's data sets")
    pretrained = values.get("pretrained")
    if isinstance(pretrained, str) and _is_missing(pretrained):
        raise CompareError(f"pretrained={pretrained}: there is no such file")
    return values


def checked_model(name: str) -> str:
    """Check that a model exists; return its absolute path if it is a file, otherwise its name.

    Raises:
        CompareError: If there is no such model YAML or checkpoint.
    """
    if name.endswith(".pt"):
        if _is_missing(name):
            raise CompareError(f"models=: there is no checkpoint {name}")
        return _absolute(name)
    try:
        find(name)
    except GraftError as error:
        raise CompareError(f"models=: {name}: {error}") from error
    return _absolute(name)


def _absolute(name: str) -> str:
    return str(Path(name).absolute()) if Path(name).exists() else name


def _is_missing(name: str) -> bool:
    """Return whether a checkpoint is neither a file nor one that the host downloads."""
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    return not Path(name).is_file() and name not in GITHUB_ASSETS_NAMES
