"""Names of the models in tables, plots and folders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import CompareError

_CHECKPOINT_OF_RUN = re.compile(r"(?:best|last|epoch\d+)\.pt")


def label_models(models: Sequence[str], known: Mapping[str, str]) -> tuple[str, ...]:
    """Give each model a short, unique name.

    A checkpoint of a training is named after the folder of its run: runs/detect/train3/weights/best.pt becomes train3.
    Any other model is named after its file. Equal names are preceded by as many parent folders as needed: a-train,
    b-train. Files in one folder that differ only in their suffix keep it: x.yaml, x.pt.

    Args:
        models: Names or paths of YAMLs and checkpoints.
        known: Names that some models already have.

    Returns:
        The names, in the order of the models.

    Raises:
        CompareError: If a model is given twice, or if two paths give the same name.
    """
    refuse_twice(models)
    places = [_parts(x) for x in models]
    parts = {x: (*place, Path(x).name) if places.count(place) > 1 else place for x, place in zip(models, places)}
    depth = dict.fromkeys(models, 1)
    while True:
        labels = {x: known.get(x) or "-".join(parts[x][-depth[x] :]) for x in models}
        folders = [x.lower() for x in labels.values()]  # of Windows and macOS, where Best and best are one
        equal = [x for x in models if x not in known and folders.count(labels[x].lower()) > 1]
        if not equal:
            return tuple(labels.values())
        if all(depth[x] >= len(parts[x]) for x in equal):
            raise CompareError(f"models= has the name {labels[equal[0]]} twice; give each model a name with labels=")
        depth.update({x: depth[x] + 1 for x in equal})


def refuse_twice(models: Sequence[str]) -> None:
    """Raise a `CompareError` if a model is given twice."""
    twice = sorted({x for x in models if models.count(x) > 1})
    if twice:
        raise CompareError(f"models= names {', '.join(twice)} twice; give each model once, seeds= repeats it")


def _parts(model: str) -> tuple[str, ...]:
    """Return the folders above a model, followed by its default name."""
    path = Path(model)
    if path.parent.parent.name and path.parent.name == "weights" and _CHECKPOINT_OF_RUN.fullmatch(path.name):
        path = path.parent.parent
    else:
        path = path.with_suffix("")
    return path.relative_to(path.anchor).parts
