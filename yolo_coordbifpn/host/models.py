"""Models of the host: opened, read from a YAML, built and counted. Nothing of the host is changed here."""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import GraftError, HostError

_ENGINES = {  # heads whose models are not YOLO's own
    "RTDETRDecoder": "RTDETR",
    "WorldDetect": "YOLOWorld",
    "YOLOEDetect": "YOLOE",
    "YOLOESegment": "YOLOE",
    "YOLOESegment26": "YOLOE",
}
_CLASSES = {  # by task, for forks of the Ultralytics of spring 2023, which has no map of them
    "detect": "DetectionModel",
    "segment": "SegmentationModel",
    "pose": "PoseModel",
    "classify": "ClassificationModel",
}


def open_model(file: str | Path, name: str) -> Any:
    """Return the host's model object for a YAML or a checkpoint; the name of the model tells whether it is RT-DETR."""
    from ultralytics.models import RTDETR, YOLO

    return (RTDETR if Path(name).stem.startswith("rtdetr") else YOLO)(str(file))


def load(name: str | Path) -> dict[str, Any]:
    """Read a model YAML as the host does, by name or path."""
    from ultralytics.nn.tasks import yaml_model_load

    try:
        return yaml_model_load(name)
    except FileNotFoundError as error:
        raise GraftError(f"there is no model YAML {name}: {error}") from error


def build(cfg: dict[str, Any]) -> Any:
    """Build the model of a YAML dict, of the class that the host has for its head; scale as in `cfg`, else the first.

    Raises:
        GraftError: If the host cannot build it.
    """
    cfg = copy.deepcopy(cfg)
    with host_errors("build"), quiet():
        if cfg.get("scales") and not cfg.get("scale"):
            cfg["scale"] = next(iter(cfg["scales"]))
        return model_class(cfg)(cfg, ch=cfg.get("channels") or cfg.get("ch") or 3, verbose=False)


def model_class(cfg: dict[str, Any]) -> Any:
    """Return the host's class for the models of a YAML dict, which its head tells."""
    import ultralytics
    from ultralytics.nn import tasks

    engine: Any = getattr(ultralytics, _ENGINES.get(cfg["head"][-1][2], "YOLO"))
    task = tasks.guess_model_task(cfg) or "detect"
    if not hasattr(engine, "task_map"):
        return getattr(tasks, _CLASSES[task])
    return engine.task_map.fget(None)[task]["model"]


@contextlib.contextmanager
def host_errors(what: str) -> Iterator[None]:
    """Raise whatever the host stumbles on in a user's YAML as a `GraftError`."""
    try:
        yield
    except HostError:
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
