"""A built model of the host as a list of layers, each with its index `i` and the indices `f` of the layers it reads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks.rezero import ReZero
from ..errors import GraftError
from .bottleneck import last_convolutions

_JOINS = {"Concat", "BiFPN_Concat"}  # a weighted concatenation replaces a plain one


class CannotRun(Exception):  # noqa: N818 - it describes the layers, and never reaches a user
    """The host's layers fail on features alone; the message is that of the exception that they raise."""


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Raise whatever stops the host's layers as `CannotRun`; only their forward pass belongs inside."""
    try:
        yield
    except Exception as error:
        raise CannotRun(f"{type(error).__name__}: {error}") from error


def class_name(layer: nn.Module) -> str:
    """Return the class name of a layer, of the repeated class if its row repeats one."""
    return str(vars(layer).get("type", type(layer).__name__)).rpartition(".")[2]  # a module has a method `type` too


def kind(layer: nn.Module) -> str:
    """Return the class name by which layers are compared; both kinds of concatenation count as one."""
    name = class_name(layer)
    return "Concat" if name in _JOINS else name


def parts(layer: nn.Module) -> list[nn.Module]:
    """Return the block that a layer is or that a `ReZero` holds, or the blocks if its row repeats one."""
    if isinstance(layer, ReZero):
        return parts(layer.block)
    return list(layer.children()) if type(layer) is nn.Sequential else [layer]


def has_method(block: nn.Module, name: str) -> bool:
    """Return whether the class of a block has a method; a part of the block may have the same name, such as `fuse`."""
    return callable(getattr(type(block), name, None))


def has_neutral(layer: nn.Module) -> bool:
    """Return whether all blocks of a layer have a method `neutral_()`, which sets a block to the identity in place."""
    return all(has_method(block, "neutral_") for block in parts(layer))


def as_layer(module: nn.Module, layer: nn.Module) -> None:
    """Give a module the mode of a layer that it replaces, and what the host's parser has set on that layer."""
    module.train(layer.training)
    for name in (x for x in ("i", "f", "type") if hasattr(layer, x)):
        setattr(module, name, getattr(layer, name))
    if hasattr(layer, "np"):
        module.np = sum(x.numel() for x in module.parameters())  # type: ignore[assignment]


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of a layer of a model, or of a block inside one.

    Args:
        model: A model, or its layers.
        path: Name of what the module replaces, such as `9` or `4.m.0.cv2.act.1`.
        module: The module, changed by `as_layer`.
    """
    parent, _, name = path.rpartition(".")
    as_layer(module, model.get_submodule(path))
    setattr(model.get_submodule(parent), name, module)


def reads(layer: Any) -> list[int]:
    """Return the indices of the layers that a layer reads; -1 is the image."""
    sources = layer.f if isinstance(layer.f, list) else [layer.f]
    return [(layer.i + k if k < 0 else k) for k in sources]


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all parameters and buffers by name; a block's gain is neither."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def inputs(layer: Any, outputs: Sequence[Any], image: Tensor) -> list[Any]:
    """Return what a layer reads, from the outputs of the layers before it and the image."""
    return [outputs[k] if k >= 0 else image for k in reads(layer)]


def call(layer: Any, inputs: Sequence[Any], extra: Sequence[Any] = ()) -> Any:
    """Run one layer on what it reads, as a list if its row lists its sources, and on what it takes besides."""
    return layer([*inputs] if isinstance(layer.f, list) else inputs[0], *extra)


def outputs(layers: Sequence[Any], image: Tensor, extras: Sequence[Sequence[Any]] = ()) -> list[Any]:
    """Run layers one after the other and return the output of each."""
    results: list[Any] = []
    for i, layer in enumerate(layers):
        results.append(call(layer, inputs(layer, results, image), extras[i] if extras else ()))
    return results


class _HeadReached(Exception):  # noqa: N818 - no error
    """The forward pass has reached the head."""


def extras(model: Any, image: Tensor) -> list[tuple[Any, ...]]:
    """Return what the model passes to each layer in addition to features, such as embedded texts.

    Args:
        model: A built model of the host.
        image: Pixels, shape (1, C, H, W).

    Returns:
        The extra arguments of each layer; none for the head, which is not run.

    Raises:
        GraftError: As from `check_places`.
    """
    check_places(model.model)
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


def check_places(layers: Sequence[Any]) -> None:
    """Check that each layer of a built model has its place as its index, by which other layers read it.

    Raises:
        GraftError: If a layer has another: the parsers of some forks count a backbone with several outputs as several
            layers.
    """
    for k, layer in enumerate(layers):
        if getattr(layer, "i", k) != k:
            several = max(k - 1, 0)
            raise GraftError(
                f"this host counts layer {several} ({class_name(layers[several])}), which has several outputs, as "
                "several layers: the places of blocks cannot be found in such a model. Write their rows by hand"
            )


@dataclass(frozen=True)
class Facts:
    """What is known of one layer of a built model."""

    stride: float | None = None  # width of one output cell in image pixels, None if the output is no feature map
    bottlenecks: bool = False  # it has bottlenecks with a k x k convolution
    guided: bool = False  # it takes more than features, such as embedded texts


def facts(model: Any) -> list[Facts]:
    """Inspect each layer of a built model but the head, which may need more than features to run.

    Raises:
        GraftError: As from `check_places`.
    """
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
    """Make a random image for a model.

    Args:
        model: A model of the host.
        cells: Height and width of the image in cells of the model's coarsest level.

    Returns:
        Pixels, shape (1, C, H, W), values 0...1, float32, on the model's device.
    """
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
    """Call a function with a model in eval mode and without gradients, then restore the mode of every module."""
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            return work()
    finally:
        for m, training in modes.items():
            m.training = training
