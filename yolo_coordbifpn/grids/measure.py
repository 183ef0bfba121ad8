"""The scores that the grid of a model gives to the images of a data set, and the threshold of a checkpoint."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from ..blocks.grid import GridActivation, grid_of
from ..errors import InspectError
from ..files import write
from ..graph.layers import quietly
from .curve import Curve


class _GridReached(Exception):  # noqa: N818 - no error
    """The forward pass has reached the grid."""


def measure(model: Any, batches: Iterable[dict[str, Any]]) -> Curve:
    """Run a model up to its grid on images with objects.

    Args:
        model: A model of the host with a `GridActivation`.
        batches: Batches of the host: `img` (N, C, H, W), and `batch_idx`, the image of each object.

    Returns:
        Score and number of objects of each image.
    """
    grid, weight, curve = needed_grid(model, "the model"), next(model.parameters()), Curve()

    def stop(*args: Any) -> None:
        raise _GridReached

    hook = grid.register_forward_hook(stop)
    try:
        for batch in batches:
            image = batch["img"].to(weight)
            try:
                quietly(model, lambda: model(image))  # noqa: B023 - called at once
            except _GridReached:
                counts = torch.bincount(batch["batch_idx"].long().view(-1).cpu(), minlength=len(image))
                curve.scores += grid.scores().tolist()
                curve.objects += counts.tolist()
    finally:
        hook.remove()
    return curve


@contextlib.contextmanager
def noted_scores() -> Iterator[list[list[float]]]:
    """Note the score of each image in every forward pass of a grid, of the copies that the host makes too."""
    noted: list[list[float]] = []

    def note(module: nn.Module, *args: Any) -> None:
        if type(module) is GridActivation and module.logits is not None:
            noted.append(module.scores().tolist())

    hook = register_module_forward_hook(note)
    try:
        yield noted
    finally:
        hook.remove()


def needed_grid(model: Any, name: str) -> Any:
    """Return the grid of a model.

    Raises:
        InspectError: If it has none.
    """
    grid = grid_of(model)
    if grid is None:
        raise InspectError(
            f"{name} has no GridActivation: train a model whose name has -grid, such as yolo11n-grid.yaml"
        )
    return grid


def store(checkpoint: Path, threshold: float) -> None:
    """Write a threshold into a checkpoint.

    Args:
        checkpoint: A `.pt` file of the host, changed in place.
        threshold: The threshold, 0...1; 0 skips nothing.

    Raises:
        InspectError: If the threshold is out of range, or the model has no grid; then the file is not changed.
    """
    from ultralytics.nn.tasks import torch_safe_load

    if not 0 <= threshold <= 1:
        raise InspectError(f"threshold= must be from 0, which skips nothing, to 1, got {threshold}")
    state = torch_safe_load(str(checkpoint))[0]
    for model in (state[x] for x in ("model", "ema") if state.get(x) is not None):
        needed_grid(model, str(checkpoint)).threshold = float(threshold)
    stream = io.BytesIO()
    torch.save(state, stream)
    write(checkpoint, stream.getvalue())
