"""Any model YAML of the host, or of a user, with blocks put into it: built, looked at, changed, built again."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ..errors import GraftError, HostError, host_needed
from ..graph.graft import Arm
from ..graph.graft import graft as graft_rows
from ..graph.layers import facts
from ..graph.rows import Rows, check_rows
from ..graph.text import rewrite
from .summary import Summary, annotate, count

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


def graft(
    cfg: dict[str, Any] | str | Path,
    coordatt: str = "P5",
    bifpn: str = "concat",
    *,
    neck: str = "pan",
    attention: str = "CoordAtt",
    edge: bool = True,
    repeats: int = 3,
    width: int = 256,
) -> dict[str, Any]:
    """Put the blocks into any model YAML; where they go is found from the model itself.

    Args:
        cfg: A model YAML: its name (`yolo12n.yaml`), its path, or its content as a dict.
        coordatt: Where attention goes: `P2`...`P5` for the end of that stage of the backbone (the deepest one ends
            before its pooling), `deepest`, `N3`...`N5` for the neck output of that level, `bottleneck` for the inside
            of the backbone's bottlenecks, several with commas between; `none`.
        bifpn: `concat` to weight every concatenation of the neck, `add` for the neck of the BiFPN paper, `none`.
        neck: `pan` to keep the neck's paths, `fpn` for its top-down path alone.
        attention: Class name of the attention block: `CoordAtt`, `CBAM`, `SE`, or one of your own that is registered.
        edge: With bifpn, whether the middle levels get the same-level edge from the backbone.
        repeats: With `bifpn="add"`, how many times the layer is repeated; 3 in EfficientDet-D0.
        width: With `bifpn="add"`, channels of all levels before the model's width multiple.

    Returns:
        A new YAML dict, of which a model has been built; `cfg` stays as it is.

    Raises:
        GraftError: If an option is unknown, there is no place for a block, it is there already, or the model cannot be
            built.
        HostError: If Ultralytics is missing or cannot be patched.
    """
    with host_needed():
        import ultralytics.nn.tasks  # noqa: F401 - patched as soon as it is imported
    arm = Arm(coordatt, bifpn, neck, attention, edge, repeats, width)
    given = cfg if isinstance(cfg, dict) else load(cfg)
    check_rows(given)
    before = build(given)
    with _told("run"):
        found = facts(before)
    rows = graft_rows(given, found, arm)
    verify(before, rows.cfg())
    return rows.cfg()


def graft_text(file: Path, arm: Arm) -> tuple[str, Rows]:
    """Put an arm into a model YAML file, and keep its text and comments.

    Args:
        file: The model YAML.
        arm: What to put in.

    Returns:
        The new text and its rows, of which no model has been built yet.

    Raises:
        GraftError: If there is no place for a block, or it is there already; the message names the file.
    """
    try:
        text = file.read_text(encoding="utf-8")
        cfg = yaml.safe_load(text)
        check_rows(cfg)
        model = build(cfg)
        with _told("run"):
            found = facts(model)
        rows = graft_rows(cfg, found, arm)
        return rewrite(text, rows), rows
    except yaml.YAMLError as error:
        raise GraftError(f"{file.name} is no YAML: {error}") from error
    except GraftError as error:
        raise GraftError(f"{arm.name} in {file.name}: {error}") from error


def graft_file(file: Path, arm: Arm) -> tuple[str, Rows, dict[str, tuple[Summary, Summary]]]:
    """Put an arm into a model YAML file as `graft_text` does, and build and count every scale.

    Returns:
        The new text with the sizes in its scale lines, its rows, and for each scale ("" if there are none) the size
        before and after.

    Raises:
        GraftError: As from `graft`; the message names the file.
    """
    text, rows = graft_text(file, arm)
    before, after = yaml.safe_load(file.read_text(encoding="utf-8")), yaml.safe_load(text)
    sizes = {}
    for scale in before.get("scales") or [""]:
        old = build({**before, "scale": scale})
        new = verify(old, {**after, "scale": scale})
        with _told("run"):
            sizes[scale] = (count(old), count(new))
    return annotate(text, {scale: size for scale, (_, size) in sizes.items()}), rows, sizes


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
    with _told("build"), _quiet():
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


def summarize(name: str) -> Summary:
    """Build a model from its YAML and count it.

    Args:
        name: Anything that `ultralytics.YOLO` takes, such as `yolo11n-coordatt.yaml`.
    """
    return count(build(load(name)))


def verify(old: Any, cfg: dict[str, Any]) -> Any:
    """Build the model with blocks beside the one without, and return it.

    Raises:
        GraftError: If it cannot be built, or its head reads other strides than before.
    """
    new = build(cfg)
    if old.stride.tolist() != new.stride.tolist():
        raise GraftError(f"the head would read strides {new.stride.tolist()} in place of {old.stride.tolist()}")
    return new


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Raise whatever the host stumbles on in a user's YAML as a `GraftError`."""
    try:
        yield
    except HostError:
        raise
    except Exception as error:
        raise GraftError(f"this Ultralytics cannot {what} the model: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the host from logging a model that is only looked at."""
    from ultralytics.utils import LOGGER

    level = LOGGER.level
    LOGGER.setLevel(logging.ERROR)
    try:
        yield
    finally:
        LOGGER.setLevel(level)
