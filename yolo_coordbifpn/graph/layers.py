"""A built model of the host as a list of layers, each with its index `i` and the indices `f` of the layers it reads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .bottleneck import last_convolutions

_JOINS = {"Concat", "BiFPN_Concat"}  # a weighted concatenation stands where a plain one stood


def kind(layer: nn.Module) -> str:
    """Return the class name by which layers are compared; both kinds of concatenation count as one."""
    name = str(getattr(layer, "type", type(layer).__name__)).rpartition(".")[2]
    return "Concat" if name in _JOINS else name


def parts(layer: nn.Module) -> list[nn.Module]:
    """Return the block that a layer is, or the blocks if its row repeats one."""
    return list(layer.children()) if type(layer) is nn.Sequential else [layer]


def reads(layer: Any) -> list[int]:
    """Return the indices of the layers that a layer reads; -1 is the image."""
    sources = layer.f if isinstance(layer.f, list) else [layer.f]
    return [(layer.i + k if k < 0 else k) for k in sources]


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all parameters and buffers by name; a block's gain is none of them."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def run(layer: Any, outputs: Sequence[Any], image: Tensor, extra: Sequence[Any] = ()) -> tuple[list[Any], Any]:
    """Run one layer on the outputs of those before it; return its inputs and its output."""
    inputs = [outputs[k] if k >= 0 else image for k in reads(layer)]
    return inputs, layer(inputs if isinstance(layer.f, list) else inputs[0], *extra)


def outputs(layers: Sequence[Any], image: Tensor, extras: Sequence[Sequence[Any]] = ()) -> list[Any]:
    """Run layers one after the other and return the output of each."""
    results: list[Any] = []
    for i, layer in enumerate(layers):
        results.append(run(layer, results, image, extras[i] if extras else ())[1])
    return results


class _HeadReached(Exception):  # noqa: N818 - no error
    """The forward pass has come to the head."""


def extras(model: Any, image: Tensor) -> list[tuple[Any, ...]]:
    """Return for each layer what the model gives it beside features, such as embedded texts; nothing for the head.

    Args:
        model: A built model of the host.
        image: Pixels, shape (1, C, H, W).
    """
    given: list[tuple[Any, ...]] = [() for _ in model.model]

    def note(layer: Any, args: tuple[Any, ...]) -> None:
        if layer is model.model[-1]:
            raise _HeadReached
        given[layer.i] = args[1:]

    hooks = [layer.register_forward_pre_hook(note) for layer in model.model]
    try:
        with contextlib.suppress(_HeadReached):
            quietly(model, lambda: model(image))
    finally:
        for hook in hooks:
            hook.remove()
    return given


@dataclass(frozen=True)
class Facts:
    """What is known of one layer of a built model."""

    stride: float | None = None  # how many image pixels one cell of the output is wide, None where it is no feature map
    bottlenecks: bool = False  # it has bottlenecks with a k x k convolution
    guided: bool = False  # it is given more than features, such as embedded texts


def facts(model: Any) -> list[Facts]:
    """Look at each layer of a built model; of the head, which may need more than features to run, nothing is said."""
    image = pixels(model)
    given = extras(model, image)
    body = list(model.model)[:-1]
    maps = quietly(model, lambda: outputs(body, image, given))
    found = []
    for layer, x, extra in zip(body, maps, given):
        stride = image.shape[-1] / x.shape[-1] if isinstance(x, Tensor) and x.ndim == 4 else None
        found.append(Facts(stride, bool(last_convolutions(layer)), bool(extra)))
    return [*found, Facts()]


def pixels(model: Any, cells: int = 2) -> Tensor:
    """Make random pixels for a model, (1, C, H, W), of some cells of its coarsest level in height and width."""
    stride = int(max(float(getattr(model, "stride", torch.tensor([32.0])).max()), 32))
    parameter = next(model.parameters())
    size, generator = cells * stride, torch.Generator().manual_seed(0)
    image = torch.rand(1, image_channels(model), size, size, generator=generator)
    return image.to(parameter.device, torch.float32)


def image_channels(model: Any) -> int:
    """Return the channels of the images that a model takes."""
    yaml = getattr(model, "yaml", None) or {}
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    return int(yaml.get("channels") or yaml.get("ch") or (first.in_channels if first else 3))


def quietly(model: nn.Module, work: Callable[[], Any]) -> Any:
    """Do something with a model in eval mode, without gradients, then put every module back into its own mode."""
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            return work()
    finally:
        for m, training in modes.items():
            m.training = training
