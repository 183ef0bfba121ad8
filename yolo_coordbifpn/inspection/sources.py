"""Models and images of an inspection, by the names that a user gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import GraftError, InspectError
from ..grafting.names import find
from ..host.models import open_model


def built(name: str | Path) -> Any:
    """Return the torch model of a checkpoint or a model YAML.

    Raises:
        InspectError: If there is no such file, or if it holds no model.
    """
    return torch_model(opened(name))


def opened(model: Any) -> Any:
    """Return the host's model object for the name of a checkpoint or model YAML; any other object as it is.

    Raises:
        InspectError: If there is no such file, or if the host cannot open it.
    """
    if not isinstance(model, (str, Path)):
        return model
    from ultralytics.models import RTDETR
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    name = str(Path(model).expanduser())
    if not name.endswith((".pt", ".yaml", ".yml")):
        raise InspectError(
            f"model must be a checkpoint (.pt) or a model YAML, got {name!r}: other files have no blocks"
        )
    if name.endswith(".pt") and not Path(name).is_file() and name not in GITHUB_ASSETS_NAMES:
        raise InspectError(f"there is no checkpoint {name}")
    try:
        if not name.endswith(".pt"):
            find(name)
    except GraftError as error:
        raise InspectError(f"{name}: {error}") from error
    try:
        yolo = open_model(name, name)
        decodes = "RTDETR" in type(yolo.model.model[-1]).__name__ and not isinstance(yolo, RTDETR)
        return RTDETR(name) if decodes else yolo
    except Exception as error:  # the host raises many kinds for a user's file
        raise InspectError(f"{name}: this Ultralytics cannot open it: {error}") from error


def torch_model(model: Any) -> Any:
    """Return the torch model of a model object of the host; a torch model as it is.

    Raises:
        InspectError: If there is none, as in an exported model.
    """
    inner = getattr(model, "model", None)
    whole = inner if hasattr(inner, "model") else model
    if not hasattr(getattr(whole, "model", None), "named_modules"):
        raise InspectError(f"expected a model of Ultralytics with its layers, got {type(model).__name__}")
    return whole


def image_files(source: str | Path | list[str | Path]) -> list[Path]:
    """Return the images of a source.

    Args:
        source: An image, a folder of images, or a list of both.

    Raises:
        InspectError: If a file does not exist or is no image, or if a folder has none.
    """
    from ultralytics.data.utils import IMG_FORMATS

    files = []
    for path in [Path(x).expanduser() for x in (source if isinstance(source, (list, tuple)) else [source])]:
        if path.is_dir():
            found = sorted(x for x in path.iterdir() if x.suffix[1:].lower() in IMG_FORMATS)
            if not found:
                raise InspectError(f"source: there is no image in the folder {path} (its subfolders are not searched)")
            files += found
        elif not path.is_file():
            raise InspectError(f"source: there is no image or folder {path}")
        elif path.suffix[1:].lower() not in IMG_FORMATS:
            raise InspectError(f"source: {path} is no image; the formats are {', '.join(sorted(IMG_FORMATS))}")
        else:
            files.append(path)
    return files
