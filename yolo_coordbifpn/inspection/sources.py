"""Models and images of an inspection, found by the names that a user gives."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import GraftError, InspectError
from ..grafting.names import find
from ..host.models import is_missing, open_model


def built(name: str | Path) -> Any:
    """Return the torch model of a checkpoint or a model YAML.

    Raises:
        InspectError: If there is no such file, or if it contains no model.
    """
    return torch_model(opened(name))


def opened(model: Any) -> Any:
    """Return the host's model object for the name of a checkpoint or model YAML; return any other object unchanged.

    Raises:
        InspectError: If there is no such file, or if the host cannot open it.
    """
    if not isinstance(model, (str, Path)):
        return model
    name = str(Path(model).expanduser())
    if not name.endswith((".pt", ".yaml", ".yml")):
        hint = f": did you mean {name}.yaml?" if not Path(name).suffix else ": other files have no blocks"
        raise InspectError(f"model must be a checkpoint (.pt) or a model YAML, got {name!r}{hint}")
    if name.endswith(".pt") and is_missing(name):
        raise InspectError(f"there is no checkpoint {name}")
    try:
        if not name.endswith(".pt"):
            find(name)
    except GraftError as error:
        raise InspectError(f"{name}: {error}") from error
    try:
        return open_model(name)
    except Exception as error:  # the host raises many kinds for a user's file
        raise InspectError(f"{name}: this Ultralytics cannot open it: {error}") from error


def torch_model(model: Any) -> Any:
    """Return the torch model of the host's model object; return a torch model unchanged.

    Raises:
        InspectError: If there is none, as for an exported model.
    """
    inner = getattr(model, "model", None)
    whole = inner if hasattr(inner, "model") else model
    if not hasattr(getattr(whole, "model", None), "named_modules"):
        raise InspectError(f"expected a model of Ultralytics with its layers, got {type(model).__name__}")
    return whole


def split_sources(text: str) -> list[str | Path]:
    """Split sources that are separated by commas, unless the text as a whole is the name of a file or folder."""
    return [text] if text and Path(text).exists() else [x.strip() for x in text.split(",") if x.strip()]


def image_files(source: str | Path | Sequence[str | Path], reader: str = "inspect") -> list[Path]:
    """Return the images of a source, each once.

    Args:
        source: An image, a folder of images, a pattern with `*`, or a list of these.
        reader: The command that reads them, for the message.

    Raises:
        InspectError: If a file does not exist or is not an image, if a folder or a pattern has none, or for a URL.
    """
    given = [source] if isinstance(source, (str, Path)) else source
    files = [file for x in given for file in _matches(str(x), reader)]
    return list({x.absolute(): x for x in files}.values())


def _matches(source: str, reader: str) -> list[Path]:
    """Return the images of one image, folder or pattern."""
    from ultralytics.data.utils import IMG_FORMATS

    if "://" in source:
        raise InspectError(f"source: {source} is a URL, which {reader} does not read; download the image first")
    path = Path(source).expanduser()
    is_image = lambda x: x.suffix[1:].lower() in IMG_FORMATS  # noqa: E731
    if path.is_file() and not is_image(path):
        raise InspectError(f"source: {path} is not an image; the formats are {', '.join(sorted(IMG_FORMATS))}")
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(filter(is_image, path.iterdir()))
        missing = f"there is no image in the folder {path} (its subfolders are not searched)"
    else:
        found = sorted(filter(is_image, map(Path, glob.glob(str(path), recursive=True)))) if "*" in source else []
        missing = f"no image matches {path}" if "*" in source else f"there is no image or folder {path}"
    if not found:
        raise InspectError(f"source: {missing}")
    return found


def is_readable(file: Path) -> bool:
    """Return whether the host can read an image."""
    import cv2
    from ultralytics.utils.patches import imread

    with contextlib.suppress(cv2.error):
        return imread(str(file)) is not None
    return False


def distinct_names(files: Sequence[Path]) -> list[str]:
    """Name files without their extensions, and those of the same name by their folders too, as far as needed.

    Args:
        files: Different files; those that differ in nothing but the extension keep it.
    """
    whole = [x.absolute() for x in files]
    bare = [x.with_suffix("") for x in whole]
    paths = [b if bare.count(b) == 1 else w for b, w in zip(bare, whole)]

    def name(path: Path) -> str:
        tails = (path.parts[-n:] for n in range(1, len(path.parts)))
        alone = (x for x in tails if sum(p.parts[-len(x) :] == x for p in paths) == 1)
        return "/".join(next(alone, path.parts[1:]))

    return [name(path) for path in paths]
