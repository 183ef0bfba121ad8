"""A trained model looked at: what its fusions weigh, and what its CoordAtt gates are for given pictures."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import GraftError, InspectError
from ..files import write
from ..graph.paths import Fusion, Paths, fusions
from ..host.models import open_model
from .diagram import diagram, neck
from .fusion_plot import plot_fusion_weights
from .gates import Gates, Picture, attention, draw
from .graph_plot import draw as draw_graph
from .page import Figure, page


@dataclass(frozen=True)
class Inspection:
    """What a model's blocks hold.

    Attributes:
        model: A copy of the model as it was loaded, not fused for inference.
        fusions: Its weighted fusions.
        pictures: What it made of each picture.
    """

    model: Any
    fusions: list[Fusion]
    pictures: list[Picture]

    @property
    def attention(self) -> list[str]:
        """Return the names of its CoordAtt blocks."""
        return list(attention(self.model))


def fusion_weights(model: Any) -> list[Fusion]:
    """Read how the weighted fusions of a model weigh their inputs.

    Args:
        model: A YOLO object, its torch model, or the name of a checkpoint or model YAML.

    Returns:
        For each BiFPN_Concat and BiFPN_Add its place, the names of its inputs, and `weights`: the normalised weights,
        shape (inputs,), no unit, 0...1, sum just under 1. None for a stock model.

    Raises:
        InspectError: If it is none of these, such as an exported model.
    """
    return fusions(_torch_model(_opened(model)))


def inspect(model: Any, source: str | Path | list[str | Path] | None = None, **arguments: Any) -> Inspection:
    """Look at what the blocks of a model have learned, on pictures.

    The gates are taken in the very forward pass of the host's predictor, whose letterbox is undone: `Gates.region` says
    where on the picture a map lies.

    Args:
        model: A YOLO object, or the name of a checkpoint or model YAML.
        source: A picture, a folder of pictures, or a list of both; None to look at the fusions alone.
        arguments: Arguments of the host's `predict`, such as `imgsz`, `conf` and `device`.

    Returns:
        The fusions with their weights, shape (inputs,); for each picture its pixels, shape (height, width, 3), and for
        each CoordAtt the height gate, shape (C, H), the width gate, shape (C, W), and their product, shape (H, W).

    Raises:
        InspectError: If there is no such model or picture.
    """
    yolo = _opened(model)
    whole = copy.deepcopy(_torch_model(yolo))  # some hosts fuse the model that they predict with
    files = [] if source is None else picture_files(source)
    names = _attention_names(whole)
    pictures = [x for file in files for x in _looked_at(yolo, file, names, arguments)]
    return Inspection(whole, fusions(whole), pictures)


def write_inspection(found: Inspection, name: str, folder: Path) -> Path:
    """Draw an inspection: a picture each, the neck with its weights, and one page with all of it.

    Args:
        found: What was found.
        name: Name of the model, as its user gave it.
        folder: Where to write; with a number behind it if it is there already.

    Returns:
        The folder written to.
    """
    from ultralytics.utils.files import increment_path

    folder = increment_path(folder, mkdir=True)
    figures = []
    if found.fusions:
        drawing = [neck(diagram(found.model, f"{Path(name).stem}: what each fusion weighs", weights=True))]
        text = "Number and width of an arrow: the share of that input in the fusion. Dotted: a weight that has died."
        for form in ("svg", "png"):
            (folder / f"neck.{form}").write_bytes(draw_graph(drawing, form))
        figures.append(Figure("The neck", text, (folder / "neck.svg").read_bytes(), "image/svg+xml"))
    history = Path(name).expanduser().parent.parent / "fusion_weights.csv"  # beside the host's folder of checkpoints
    if found.fusions and history.is_file():
        plot_fusion_weights(history, folder / "fusion_weights.png")
        text = "The share of each input after each epoch of the training; grey: all inputs alike."
        figures.append(Figure("The training", text, (folder / "fusion_weights.png").read_bytes()))
    for picture in found.pictures:
        file = folder / f"{picture.name}.png"
        if file.exists():  # of the same name in another folder, or ours
            file = folder / f"{picture.name}_{len(figures)}.png"
        file.write_bytes(draw(picture))
        figures.append(Figure(picture.name, _caption(picture), file.read_bytes()))
    notes = [
        f"CoordAtt: {len(found.attention)}, weighted fusions: {len(found.fusions)}, pictures: {len(found.pictures)}."
    ]
    if not found.attention:
        notes.append("The model has no CoordAtt, so there are no gates to show.")
    if not found.fusions:
        notes.append("The model has no BiFPN_Concat and no BiFPN_Add, so there are no fusion weights to show.")
    write(folder / "index.html", page(f"What the blocks of {Path(name).name} learned", notes, found.fusions, figures))
    return folder


def _caption(picture: Picture) -> str:
    """Say what the drawing of a picture shows, and how much the gates do."""
    if not picture.gates:
        return "What the model found."
    spreads = "; ".join("{}: {:.3f} on average, {:.3f} at most".format(x.name, *x.spread) for x in picture.gates)
    return (
        "What the model found; the height gate, the width gate and their product, as the mean over all channels and "
        "for the one channel whose gates differ most. A gate of 0 closes, one of 1 opens; bright is open, by the scale "
        f"below each map. Over this picture the gates of a channel differ by: {spreads}."
    )


def picture_files(source: str | Path | list[str | Path]) -> list[Path]:
    """Find the pictures that a source means.

    Args:
        source: A picture, a folder of pictures, or a list of both.

    Raises:
        InspectError: If something is not there, is no picture, or a folder holds none.
    """
    from ultralytics.data.utils import IMG_FORMATS

    files = []
    for path in [Path(x).expanduser() for x in (source if isinstance(source, (list, tuple)) else [source])]:
        if path.is_dir():
            found = sorted(x for x in path.iterdir() if x.suffix[1:].lower() in IMG_FORMATS)
            if not found:
                raise InspectError(
                    f"source: there is no picture in the folder {path} (folders in it are not looked at)"
                )
            files += found
        elif not path.is_file():
            raise InspectError(f"source: there is no picture or folder {path}")
        elif path.suffix[1:].lower() not in IMG_FORMATS:
            raise InspectError(f"source: {path} is no picture; known are {', '.join(sorted(IMG_FORMATS))}")
        else:
            files.append(path)
    return files


def built(name: str | Path) -> Any:
    """Return the torch model of a checkpoint or a model YAML.

    Raises:
        InspectError: If there is no such file, or it does not hold one.
    """
    return _torch_model(_opened(name))


def _opened(model: Any) -> Any:
    """Return the host's model object for a name; any other object as it is."""
    if not isinstance(model, (str, Path)):
        return model
    from ultralytics.models import RTDETR
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    from ..grafting.names import find

    name = str(Path(model).expanduser())
    if not name.endswith((".pt", ".yaml", ".yml")):
        raise InspectError(
            f"model must be a checkpoint (.pt) or a model YAML, got {name!r}: other files hold no blocks"
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
    except Exception as error:  # whatever the host stumbles on in a user's file
        raise InspectError(f"{name}: this Ultralytics cannot open it: {error}") from error


def _torch_model(model: Any) -> Any:
    """Return the torch model in a model object of the host, or the torch model that was given."""
    inner = getattr(model, "model", None)
    whole = inner if hasattr(inner, "model") else model
    if not hasattr(getattr(whole, "model", None), "named_modules"):
        raise InspectError(f"expected a model of Ultralytics with its layers, got {type(model).__name__}")
    return whole


def _attention_names(model: Any) -> dict[str, str]:
    """Name the CoordAtt blocks of a model as a reader knows them: by level and layer."""
    blocks = attention(model)
    if not blocks:
        return {}
    places = Paths(model).places
    names = {}
    for name in blocks:
        index, _, inside = name.partition(".")
        names[name] = f"{places[int(index)].level}, layer {index}" + (f" {inside}" if inside else "")
    return names


def _looked_at(yolo: Any, file: Path, names: dict[str, str], arguments: dict[str, Any]) -> list[Picture]:
    """Predict on one picture as the host does, and take the gates meanwhile."""
    taken: dict[str, tuple[Tensor, Tensor, float]] = {}
    size: list[int] = []
    hooks: list[Any] = []
    regions: list[tuple[float, float, float, float]] = []

    def watch(predictor: Any) -> None:
        network = predictor.model.model  # the one that is run, a fused copy on most hosts
        hooks.append(
            network.register_forward_pre_hook(lambda _, args: size.__setitem__(slice(None), args[0].shape[2:]))
        )
        for name, block in attention(network).items():
            hooks.append(block.register_forward_pre_hook(lambda m, args, n=name: note(n, m, args[0])))

    def note(name: str, block: Any, x: Tensor) -> None:
        height, width = block.gates(x)
        taken[name] = (height[0, :, :, 0].float().cpu(), width[0, :, 0].float().cpu(), float(block.gain))

    def measure(predictor: Any) -> None:
        regions.append(_region(predictor, predictor.results[0].orig_shape, (size[0], size[1])))

    events = (("on_predict_start", watch), ("on_predict_postprocess_end", measure))
    for event, function in events:
        yolo.add_callback(event, function)
        if yolo.predictor is not None and yolo.predictor.callbacks is not yolo.callbacks:
            yolo.predictor.add_callback(event, function)
    try:
        (result,) = yolo.predict(source=str(file), **{"verbose": False, "save": False, **arguments})
    finally:
        for hook in hooks:
            hook.remove()
        for event, function in events:
            for callbacks in (yolo.callbacks, getattr(yolo.predictor, "callbacks", {})):
                if function in callbacks.get(event, ()):
                    callbacks[event].remove(function)
    gates = tuple(
        Gates(names[n], height.numpy(), width.numpy(), gain, regions[0]) for n, (height, width, gain) in taken.items()
    )
    image, found = (x[..., ::-1].copy() for x in (result.orig_img, result.plot()))
    return [Picture(file.stem, image, found, gates)]


def _region(predictor: Any, picture: tuple[int, int], network: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return where on the picture lies what the network saw: left, top, right, bottom in the picture's pixels.

    Args:
        predictor: The host's, which has prepared the picture.
        picture: Height and width of the picture.
        network: Height and width of the network's input.
    """
    (h0, w0), (h, w) = picture, network
    if getattr(predictor, "scale_fill", False) or "RTDETR" in type(predictor).__name__:  # stretched
        return 0.0, 0.0, float(w0), float(h0)
    scales = (h / h0, w / w0)
    scale = max(scales) if predictor.args.task == "classify" else min(scales)  # cropped at the middle, or padded there
    wide, high = w / scale, h / scale
    return (w0 - wide) / 2, (h0 - high) / 2, (w0 + wide) / 2, (h0 + high) / 2
