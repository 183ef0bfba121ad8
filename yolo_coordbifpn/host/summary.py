"""Size and cost of a model, as the host counts them."""

from __future__ import annotations

from typing import Any, NamedTuple


class Summary(NamedTuple):
    """What the host prints as a model's summary."""

    layers: int
    parameters: int
    gradients: int
    gflops: float  # at 640 px, batch 1


def summarize(name: str) -> Summary:
    """Build a model from its YAML and count it.

    Args:
        name: Anything that `ultralytics.YOLO` takes, such as `yolo11n-coordatt.yaml`.

    Returns:
        Layers, parameters, parameters with a gradient, and GFLOPs at 640 px.
    """
    from ultralytics.models import YOLO
    from ultralytics.utils.torch_utils import get_flops, get_num_gradients, get_num_params

    model: Any = YOLO(name).model
    layers = len([m for m in model.modules() if not m._modules])
    return Summary(layers, get_num_params(model), get_num_gradients(model), get_flops(model, 640))
