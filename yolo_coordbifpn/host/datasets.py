"""Data sets as the host opens them, their images, and whether their labels fit a task."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InspectError, first_line

_LABELS_READ = 100  # at most, to find the number of columns


def check_data(data: str, task: str, split: str = "val") -> None:
    """Open a data YAML as the host does, and check that its labels fit a task.

    Args:
        data: Its name, as the host takes it.
        task: `detect`, `segment`, `pose` or `obb`.
        split: The images whose labels are read.

    Raises:
        InspectError: If the host cannot open it, or its labels are for another task.
    """
    from ultralytics.data.utils import check_det_dataset

    try:
        content = check_det_dataset(data)
        images = list(itertools.islice(images_of(content.get(split) or []), _LABELS_READ))
    except Exception as error:  # the host raises many kinds for a user's file
        raise InspectError(f"data={data}: {first_line(error)}") from error
    problem = unfit(task, content, images)
    if problem:
        raise InspectError(f"data={data}: {problem}")


def images_of(places: Any) -> Iterator[Path]:
    """Find the images of folders and of text files that list them."""
    from ultralytics.data.utils import IMG_FORMATS

    for place in map(Path, places if isinstance(places, list) else [places]):
        if place.is_dir():
            files = place.rglob("*.*")
        else:
            files = (place.parent / x for x in place.read_text(encoding="utf-8-sig").splitlines())
        yield from (x for x in files if x.suffix[1:].lower() in IMG_FORMATS)


def unfit(task: str, content: dict[str, Any], images: list[Path]) -> str:
    """Return why the data does not fit a task, or an empty string if it does."""
    if task == "pose" and "kpt_shape" not in content:
        return "it has no kpt_shape, which models of the task pose need"
    if task in ("segment", "obb"):
        columns = _columns(images)
        needed = "9 (corners)" if task == "obb" else "at least 7 (a polygon)"
        if columns and columns < 7:  # of more than four corners the host makes the smallest rotated box
            return f"its labels have {columns} columns, models of the task {task} need {needed}"
    return ""


def _columns(images: list[Path]) -> int:
    """Return the number of columns of the first label, or 0 if there is none."""
    from ultralytics.data.utils import img2label_paths

    for label in map(Path, img2label_paths([str(x) for x in images[:_LABELS_READ]])):
        words = label.read_text(encoding="utf-8").split("\n")[0].split() if label.is_file() else []
        if words:
            return len(words)
    return 0
