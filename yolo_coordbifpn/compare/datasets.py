"""The data of a comparison, checked by the host without any download."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CompareError, first_line
from ..host.models import quiet

_LABELS_READ = 100  # at most, to find the number of columns


class Dataset(NamedTuple):
    """A checked data set.

    Attributes:
        content: The host's description of it: `nc`, `names`, `train`, `val`, `channels`, ...
        train: Number of training images.
        val: Number of validation images.
    """

    content: dict[str, Any]
    train: int
    val: int


def check_data(args: Any, task: str) -> Dataset:
    """Check the data with the host's own check, and check that its labels fit a task.

    Args:
        args: Arguments of the host's `train`; `data`, `split`, `single_cls` and `fraction` are read.
        task: Task of the models: `detect`, `classify`, ...

    Raises:
        CompareError: If the data is missing, incomplete, or for another task.
    """
    name = str(args.data)
    try:
        with quiet():
            content = _folder(name) if task == "classify" else _yaml(name)
        train, val = (list(_images(content.get(x) or [])) for x in ("train", "val"))
    except CompareError:
        raise
    except Exception as error:  # the host raises many types for a user's file
        raise CompareError(f"data={name}: {first_line(error)}") from error
    if not train:
        raise CompareError(f"data={name}: there are no training images in {content['train']}")
    if not val:
        raise CompareError(
            f"data={name}: there are no validation images" + (f" in {content['val']}" if content.get("val") else "")
        )
    split = getattr(args, "split", None) or "val"
    if split != "val" and not any(True for _ in _images(content.get(split) or [])):
        raise CompareError(f"data={name}: split={split}, but it has no images of that name")
    problem = _unfit(task, content, train)
    if problem:
        raise CompareError(f"data={name}: {problem}")
    content.setdefault("channels", 3)  # older versions of the host do not set it
    if args.single_cls:
        content |= {"nc": 1, "names": {0: "item"}}
    part = args.fraction[0] if isinstance(args.fraction, list) else args.fraction
    return Dataset(content, min(len(train), int(part)) if part > 1 else round(len(train) * part), len(val))


def _yaml(name: str) -> dict[str, Any]:
    from ultralytics.data.utils import check_det_dataset
    from ultralytics.utils.checks import check_file

    if "://" in name or (Path(name).is_file() and not name.endswith((".yaml", ".yml"))):
        raise CompareError(f"data={name}: a comparison needs a data YAML on this machine; nothing is downloaded")
    if name.endswith((".yaml", ".yml")) and not check_file(name, download=False, hard=False):
        raise CompareError(f"data={name}: there is no such file, here or among the host's data sets")
    return check_det_dataset(name, autodownload=False)


def _folder(name: str) -> dict[str, Any]:
    from ultralytics.data.utils import check_cls_dataset
    from ultralytics.utils import DATASETS_DIR

    if not any((x / "train").is_dir() for x in (Path(name), Path(DATASETS_DIR) / name)):
        raise CompareError(f"data={name}: classification needs a folder with train/CLASS/IMAGE in it")
    content = check_cls_dataset(name)
    return {**content, "val": content["val"] or content["test"]}


def _images(places: Any) -> Iterator[Path]:
    """Find the images of folders and of text files that list them."""
    from ultralytics.data.utils import IMG_FORMATS

    for place in map(Path, places if isinstance(places, list) else [places]):
        if place.is_dir():
            files = place.rglob("*.*")
        else:
            files = (place.parent / x for x in place.read_text(encoding="utf-8-sig").splitlines())
        yield from (x for x in files if x.suffix[1:].lower() in IMG_FORMATS)


def _unfit(task: str, content: dict[str, Any], images: list[Path]) -> str:
    """Return why the data does not fit a task, or an empty string if it does."""
    if task == "pose" and "kpt_shape" not in content:
        return "it has no kpt_shape, which models of the task pose need"
    if task in ("segment", "obb"):
        columns = _columns(images)
        needed = "9 (corners)" if task == "obb" else "at least 7 (a polygon)"
        if columns and (columns != 9 if task == "obb" else columns < 7):
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
