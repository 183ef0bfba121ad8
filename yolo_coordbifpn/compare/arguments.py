"""What a comparison is given, the host's training arguments and models, checked before anything is run."""

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
        The values, files with their whole paths, since runs are started from elsewhere.

    Raises:
        CompareError: If the host has no such argument, or does not take the value.
    """
    from ultralytics.utils.checks import check_file

    whole = {key: _whole(value) if key in {"data", "pretrained", "cfg"} else value for key, value in given.items()}
    try:
        values = read_arguments(whole)
    except ValueError as error:
        raise CompareError(f"the host's train does not take these arguments: {error}") from error
    data = str(values.get("data", ""))
    if data.endswith((".yaml", ".yml")) and "://" not in data and not check_file(data, download=False, hard=False):
        raise CompareError(f"data={data}: there is no such file, neither here nor among the host's own data sets")
    pretrained = values.get("pretrained")
    if isinstance(pretrained, str) and _is_missing(pretrained):
        raise CompareError(f"pretrained={pretrained}: there is no such file")
    return values


def model_exists(name: str) -> str:
    """Return a model's name as the runs are given it: a file by its whole path, a stock name as it is.

    Raises:
        CompareError: If there is no such model YAML or checkpoint.
    """
    if name.endswith(".pt"):
        if _is_missing(name):
            raise CompareError(f"models=: there is no checkpoint {name}")
        return _whole(name)
    try:
        find(name)
    except GraftError as error:
        raise CompareError(f"models=: {name}: {error}") from error
    return _whole(name)


def _whole(name: str) -> str:
    return str(Path(name).absolute()) if Path(name).exists() else name


def _is_missing(name: str) -> bool:
    """Tell whether a checkpoint is neither here nor one that the host would fetch."""
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    return not Path(name).is_file() and name not in GITHUB_ASSETS_NAMES
