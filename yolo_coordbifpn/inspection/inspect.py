"""Inspection of a trained model: the weights of its fusions, and its gates for given images."""

from __future__ import annotations

import copy
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InspectError
from ..graph.paths import Fusion, fusions
from .capture import attention_names, capture
from .gates import InspectedImage, attention, spatial_gates
from .sources import distinct_names, image_files, is_readable, opened, torch_model

_FEW = 3  # images that need no progress bar
_Item = TypeVar("_Item")


@dataclass(frozen=True, repr=False)
class Inspection:
    """What the blocks of a model learned.

    Attributes:
        name: Name of the model as given, such as `runs/detect/train/weights/best.pt`; for a model object its checkpoint
            or its YAML.
        model: A copy of the model as it was loaded, not fused for inference.
        fusions: Its weighted fusions.
        images: Each image with its detections and gates.
        skipped: Images that the host cannot read.
        settings: Arguments of the host's `predict`: those given, and the size of the images and the confidence used.
        against: The same for the model that this one is compared with, on the same images.
    """

    name: str
    model: Any
    fusions: list[Fusion]
    images: list[InspectedImage]
    skipped: list[Path]
    settings: dict[str, Any]
    against: Inspection | None = None

    @property
    def attention(self) -> list[str]:
        """Return the names of its CoordAtt blocks."""
        return list(attention(self.model))

    @property
    def spatial_gates(self) -> dict[str, float]:
        """Return the gamma of its SpatialGate blocks, by name."""
        return {name: float(m.weight.detach()) for name, m in spatial_gates(self.model).items()}

    def __repr__(self) -> str:
        counts = f"{len(self.attention)} CoordAtt, {len(self.fusions)} fusions, {len(self.images)} images"
        return f"Inspection({_architecture(self.model)}, {counts})"

    def _repr_html_(self) -> str:
        """Return the page for a notebook, in a frame, so that its styles do not change the notebook."""
        from .page import page

        return f'<iframe srcdoc="{html.escape(page(self))}" style="width: 100%; height: 50rem; border: 0"></iframe>'


def fusion_weights(model: Any) -> list[Fusion]:
    """Return how the weighted fusions of a model weight their inputs.

    Args:
        model: A YOLO object, its torch model, or the name of a checkpoint or model YAML.

    Returns:
        For each BiFPN_Concat and BiFPN_Add its place, the names of its inputs, and `weights`: the normalised weights,
        shape (inputs,), no unit, 0...1, sum just under 1. Empty for a stock model.

    Raises:
        InspectError: If the model is none of these, such as an exported model.
    """
    return fusions(torch_model(opened(model)))


def inspect(
    model: Any, source: str | Path | list[str | Path] | None = None, against: Any = None, **arguments: Any
) -> Inspection:
    """Show what the blocks of a model learned, on given images.

    The gates are those of the forward pass of the host's own prediction. Its letterbox is undone: `Gates.region` says
    where on the image a map lies. Images that the host cannot read are skipped with a warning. A notebook shows the
    result as a page.

    Args:
        model: A YOLO object, or the name of a checkpoint or model YAML.
        source: An image, a folder of images, a pattern such as `images/*.jpg`, or a list of these; None for the fusions
            alone.
        against: A second model to compare with, given like `model`.
        arguments: Arguments of the host's `predict`, such as `imgsz`, `conf` and `device`.

    Returns:
        The fusions with their weights, shape (inputs,); for each image its pixels, shape (height, width, 3), and for
        each CoordAtt the height gate, shape (C, H), the width gate, shape (C, W), and their product, shape (H, W), and
        for each SpatialGate its map, shape (H, W), and its gamma.

    Raises:
        InspectError: If the model or an image does not exist, or if the model or all images cannot be opened.
    """
    from ultralytics.utils import LOGGER

    models = [opened(x) for x in (model, against) if x is not None]
    files = [] if source is None else image_files(source)
    skipped = [x for x in files if not is_readable(x)]
    for file in skipped:
        LOGGER.warning(f"yolo_coordbifpn: {file} is skipped: it cannot be read as an image")
    if files and len(skipped) == len(files):
        raise InspectError(f"source: none of these can be read as an image: {', '.join(map(str, files))}")
    named = {file: name for file, name in zip(files, distinct_names(files)) if file not in skipped}
    found = None
    for given, yolo in reversed(list(zip((model, against), models))):
        found = _inspect_one(given, yolo, named, skipped, arguments, found)
    assert found is not None
    return found


def _inspect_one(
    given: Any,
    yolo: Any,
    files: Mapping[Path, str],
    skipped: list[Path],
    arguments: dict[str, Any],
    against: Inspection | None,
) -> Inspection:
    """Inspect one model on images that can be read, given with their names."""
    whole = copy.deepcopy(torch_model(yolo))  # some hosts fuse the model that they predict with
    name = given if isinstance(given, (str, Path)) else getattr(yolo, "ckpt_path", None) or _architecture(whole)
    blocks = attention_names(whole)
    images = [
        capture(yolo, file, files[file], blocks, arguments)
        for file in progress(list(files), f"Inspecting {Path(name).name}")
    ]
    used = {key: getattr(yolo.predictor.args, key) for key in ("imgsz", "conf")} if images else {}
    return Inspection(str(name), whole, fusions(whole), images, skipped, {**arguments, **used}, against)


def progress(items: Sequence[_Item], what: str) -> Iterable[_Item]:
    """Iterate with the host's progress bar, unless there are only a few items."""
    from ultralytics.utils import TQDM  # type: ignore[attr-defined]

    return TQDM(items, desc=what, disable=len(items) <= _FEW)


def _architecture(model: Any) -> str:
    """Return the name of a model's YAML without its extension; without a YAML, the name of its class."""
    return Path((getattr(model, "yaml", None) or {}).get("yaml_file") or type(model).__name__).stem
