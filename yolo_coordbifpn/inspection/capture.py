"""The gates of CoordAtt and the maps of SpatialGate, captured during the host's own prediction on an image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ..graph.paths import Paths
from .gates import Gates, InspectedImage, SpatialMap, attention, spatial_gates


def attention_names(model: Any) -> dict[str, str]:
    """Return a readable name for each block with gates or a map, with its level and layer, by its name as a module."""
    blocks = [*attention(model), *spatial_gates(model)]
    if not blocks:
        return {}
    places = Paths(model).places
    names = {}
    for name in blocks:
        index, _, inside = name.partition(".")
        names[name] = f"{places[int(index)].level}, layer {index}" + (f" {inside}" if inside else "")
    return names


def capture(yolo: Any, file: Path, name: str, blocks: dict[str, str], arguments: dict[str, Any]) -> InspectedImage:
    """Predict on one image with the host's own `predict`, and capture the gates of that forward pass.

    Args:
        yolo: The host's model object; its callbacks are restored afterwards.
        file: The image.
        name: Readable name of the image.
        blocks: Readable names of the blocks, see `attention_names`.
        arguments: Arguments of the host's `predict`.
    """
    captured: dict[str, tuple[Tensor, Tensor, float]] = {}
    mapped: dict[str, tuple[Tensor, float]] = {}
    sizes: list[tuple[int, int]] = []  # of the network's input
    regions: list[tuple[float, float, float, float]] = []
    hooks: list[Any] = []

    def add_hooks(predictor: Any) -> None:
        network = predictor.model.model  # the one that runs: a fused copy in most versions
        hooks.append(network.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape[2:]))))
        for key, block in attention(network).items():
            hooks.append(block.register_forward_pre_hook(lambda m, args, k=key: note(k, m, args[0])))
        for key, gate in spatial_gates(network).items():
            hooks.append(gate.register_forward_pre_hook(lambda m, args, k=key: note_map(k, m, args[0][1])))

    def note(key: str, block: Any, x: Tensor) -> None:
        height, width = block.gates(x)
        captured[key] = (height[0, :, :, 0].float().cpu(), width[0, :, 0].float().cpu(), float(block.gain))

    def note_map(key: str, block: Any, u: Tensor) -> None:
        mapped[key] = (block.attention(u)[0, 0].float().cpu(), float(block.weight.detach()))

    def note_region(predictor: Any) -> None:
        regions.append(_region(predictor, predictor.results[0].orig_shape, sizes[-1]))

    try:
        with _callbacks(yolo, {"on_predict_start": add_hooks, "on_predict_postprocess_end": note_region}):
            (result,) = yolo.predict(source=str(file), **{"verbose": False, "save": False, **arguments})
    finally:
        for hook in hooks:
            hook.remove()
    gates = tuple(
        Gates(blocks[key], height.numpy(), width.numpy(), gain, regions[0])
        for key, (height, width, gain) in captured.items()
    )
    maps = tuple(SpatialMap(blocks[key], x.numpy(), gamma, regions[0]) for key, (x, gamma) in mapped.items())
    pixels, annotated = (x[..., ::-1].copy() for x in (result.orig_img, result.plot()))
    return InspectedImage(name, pixels, annotated, gates, maps)


@contextlib.contextmanager
def _callbacks(yolo: Any, functions: dict[str, Callable[[Any], None]]) -> Iterator[None]:
    """Add callbacks to the host's model object, and to its predictor if that has its own; remove them at the end."""
    for event, function in functions.items():
        yolo.add_callback(event, function)
        if yolo.predictor is not None and yolo.predictor.callbacks is not yolo.callbacks:
            yolo.predictor.add_callback(event, function)
    try:
        yield
    finally:
        for event, function in functions.items():
            for callbacks in (yolo.callbacks, getattr(yolo.predictor, "callbacks", {})):
                if function in callbacks.get(event, ()):
                    callbacks[event].remove(function)


def _region(predictor: Any, image: tuple[int, int], network: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the part of the image that the network saw: left, top, right, bottom in the image's pixels.

    Args:
        predictor: The host's predictor that prepared the image.
        image: Height and width of the image.
        network: Height and width of the network's input.
    """
    (h0, w0), (h, w) = image, network
    crops = predictor.args.task == "classify"
    stretched = getattr(predictor, "scale_fill", False) or "RTDETR" in type(predictor).__name__ or (crops and h != w)
    if stretched:
        return 0.0, 0.0, float(w0), float(h0)
    scales = (h / h0, w / w0)
    scale = max(scales) if crops else min(scales)  # centre crop, or padding on both sides
    width, height = w / scale, h / scale
    return (w0 - width) / 2, (h0 - height) / 2, (w0 + width) / 2, (h0 + height) / 2
