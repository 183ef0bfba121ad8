"""Models of the host: opened, read from a YAML and built."""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import GraftError, HostError

_ENGINES = {  # heads of models that are not of the class YOLO
    "RTDETRDecoder": "RTDETR",
    "WorldDetect": "YOLOWorld",
    "YOLOEDetect": "YOLOE",
    "YOLOESegment": "YOLOE",
    "YOLOESegment26": "YOLOE",
}
_CLASSES = {  # by task, for forks of the Ultralytics of spring 2023, which has no such map
    "detect": "DetectionModel",
    "segment": "SegmentationModel",
    "pose": "PoseModel",
    "classify": "ClassificationModel",
}


def open_model(file: str | Path) -> Any:
    """Return the host's model object for a model YAML or a checkpoint; RT-DETR is recognised by its head."""
    from ultralytics.models import RTDETR, YOLO

    name = str(file)
    if not name.endswith(".pt"):
        return (RTDETR if "RTDETRDecoder" in str(load(name).get("head")) else YOLO)(name)
    model: Any = YOLO(name)
    decodes = "RTDETR" in type(model.model.model[-1]).__name__ and not isinstance(model, RTDETR)
    return RTDETR(name) if decodes else model  # some versions of the host do so themselves


def is_missing(checkpoint: str) -> bool:
    """Return whether a checkpoint is neither a file nor one that the host downloads."""
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    return not Path(checkpoint).is_file() and checkpoint not in GITHUB_ASSETS_NAMES


def load(name: str | Path) -> dict[str, Any]:
    """Read a model YAML as the host does, by name or path.

    Raises:
        GraftError: If there is no such file.
    """
    from ultralytics.nn.tasks import yaml_model_load

    try:
        return yaml_model_load(name)
    except FileNotFoundError as error:
        raise GraftError(f"there is no model YAML {name}: {error}") from error


def build(cfg: dict[str, Any]) -> Any:
    """Build the model of a YAML dict, with the host's class for its head.

    Args:
        cfg: The model YAML; it is not changed. Without a `scale`, the first of its `scales` is built.

    Raises:
        GraftError: If the host cannot build it.
    """
    cfg = copy.deepcopy(cfg)
    with host_errors("build"), quiet():
        if cfg.get("scales") and not cfg.get("scale"):
            cfg["scale"] = next(iter(cfg["scales"]))
        return model_class(cfg)(cfg, ch=cfg.get("channels") or cfg.get("ch") or 3, verbose=False)


def model_class(cfg: dict[str, Any]) -> Any:
    """Return the host's class for the model of a YAML dict, by its head."""
    import ultralytics
    from ultralytics.nn import tasks

    engine: Any = getattr(ultralytics, _ENGINES.get(cfg["head"][-1][2], "YOLO"))
    task = tasks.guess_model_task(cfg) or "detect"
    if not hasattr(engine, "task_map"):
        return getattr(tasks, _CLASSES[task])
    return engine.task_map.fget(None)[task]["model"]


@contextlib.contextmanager
def host_errors(what: str) -> Iterator[None]:
    """Raise any error of the host on a user's YAML as a `GraftError`."""
    try:
        yield
    except (GraftError, HostError):
        raise
    except Exception as error:
        raise GraftError(f"this Ultralytics cannot {what} the model: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the host from logging anything below an error in this thread."""
    from ultralytics.utils import LOGGER

    thread = threading.get_ident()

    def passes(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or threading.get_ident() != thread

    LOGGER.addFilter(passes)
    try:
        yield
    finally:
        LOGGER.removeFilter(passes)
