"""The data of a comparison, checked by the host without any download."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CompareError, first_line
from ..host.datasets import images_of, unfit
from ..host.models import quiet


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
        train, val = (list(images_of(content.get(x) or [])) for x in ("train", "val"))
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
    if split != "val" and not any(True for _ in images_of(content.get(split) or [])):
        raise CompareError(f"data={name}: split={split}, but it has no images of that name")
    problem = unfit(task, content, train)
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
