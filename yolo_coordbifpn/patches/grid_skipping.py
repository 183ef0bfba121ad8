"""Patch: in inference, images in which a model's `GridActivation` sees nothing are skipped after it.

For the time of one `predict`, hooks cut the model in two at the row: the row's output, and whatever a later layer reads
from before it, is reduced to the images that remain; the output is spread over the whole batch again, zeros for those
that dropped out, which every reader takes for boxes with the score 0. If none remains, the later layers do not run: the
output is zeros of the shapes that it had before for images of this size. Nothing of this is stored in a model.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from torch import Tensor, nn

from ..blocks.dispatch import recorded
from ..blocks.grid import GridActivation, grid_of
from .adaptive_nms import DENSITIES
from .block_losses import ACTIVE
from .replacement import Undo, model_method, replace_methods

# arguments of `predict` that need every layer's output, read `x` a second time, or change the number of classes
_WHOLE = ("profile", "visualize", "augment", "embed", "batch", "vpe", "return_vpe", "tpe", "txt_feats")
_whole: ContextVar[bool] = ContextVar("every layer runs", default=False)  # also in the passes of augment=True
_told: WeakSet[nn.Module] = WeakSet()  # models whose log says that an export has no grid
_empty: WeakKeyDictionary[nn.Module, dict[Any, Any]] = WeakKeyDictionary()  # outputs for no images, by model and size


def patch_grid_skipping(host: ModuleType) -> Undo:
    """Skip images without objects in models with a `GridActivation`, in eval mode.

    Args:
        host: `ultralytics.nn.tasks`.

    Returns:
        A function that undoes the patch.

    Raises:
        HostError: If the host's models have no `predict`.
    """
    base, _ = model_method(host, "predict")
    return replace_methods(host, base, "predict", lambda original: _skipping(host, original))


def _skipping(host: ModuleType, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `predict` that skips."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def predict(self: Any, *args: Any, **kwargs: Any) -> Any:
        grid = grid_of(self)
        if grid is None or not grid.threshold or self.training or recorded():
            return original(self, *args, **kwargs)
        if getattr(self.model[-1], "export", False):
            if self not in _told:
                _told.add(self)
                host.LOGGER.info(
                    "yolo_coordbifpn: the exported model runs without its grid: every layer, for every image"
                )
            return original(self, *args, **kwargs)
        if _whole.get() or hasattr(self, ACTIVE) or _watched(self):
            return original(self, *args, **kwargs)
        given = signature.bind(self, *args, **kwargs).arguments
        if any(given.get(x) is not None and given[x] is not False for x in _WHOLE):
            before = _whole.set(True)
            try:
                return original(self, *args, **kwargs)
            finally:
                _whole.reset(before)
        return _predict(self, grid, given["x"], functools.partial(original, self, *args, **kwargs))

    return predict


def _watched(model: Any) -> bool:
    """Return whether somebody's hooks read features, which they expect for every image."""
    modules = [model.model]
    for m in modules:  # in less than half the time of `modules()`, which makes names
        if m._forward_hooks or m._forward_pre_hooks:
            return True
        modules += [x for x in m._modules.values() if x is not None]
    return False


class _NothingLeft(Exception):  # noqa: N818 - no error
    """Every image has dropped out."""


class _Cut:
    """The cut through one forward pass of a batch.

    Attributes:
        count: N, the number of images.
        kept: Indices of those that remain, None as long as all do.
        blank: Whether the one that remains does so only for the shapes of the output.
    """

    def __init__(self, count: int, leave: bool) -> None:
        """Start a pass.

        Args:
            count: N.
            leave: Whether to raise `_NothingLeft` if no image remains.
        """
        self.count, self.leave, self.blank = count, leave, False
        self.kept: Tensor | None = None

    def at(self, grid: GridActivation, args: Any, x: Tensor) -> Tensor:
        """Decide which images remain, and pass on their features; a hook."""
        scores = grid.scores()
        kept = (scores >= grid.threshold).nonzero()[:, 0]
        if not len(kept):
            if self.leave:
                raise _NothingLeft
            kept, self.blank = scores.argmax()[None], True
        self.kept = None if len(kept) == self.count else kept
        return self.reduce(x)

    def before(self, layer: nn.Module, args: Any) -> Any:
        """Reduce what a later layer reads; a hook."""
        return self.reduce(args)

    def reduce(self, value: Any) -> Any:
        """Return the images that remain of a value with all of them."""
        kept = self.kept
        if kept is None:
            return value
        return _mapped(value, lambda x: x[kept] if len(x) == self.count else x)

    def spread(self, value: Any) -> Any:
        """Return a value for all images, zeros for those that dropped out."""
        kept = self.kept
        if self.blank:
            return _mapped(value, lambda x: x.new_zeros(self.count, *x.shape[1:]) if len(x) == 1 else x)
        if kept is None:
            return value

        def spread(x: Tensor) -> Tensor:
            if len(x) != len(kept):
                return x
            whole = x.new_zeros(self.count, *x.shape[1:])
            whole[kept] = x
            return whole

        return _mapped(value, spread)


def _predict(model: Any, grid: GridActivation, image: Tensor, predict: Callable[[], Any]) -> Any:
    """Run `predict` with a cut at the grid."""
    if not len(image):
        return predict()
    known = _empty.setdefault(model, {})
    numbers = {k: v for k, v in vars(model.model[-1]).items() if isinstance(v, (int, float, str))}
    key = (image.shape[1:], image.dtype, image.device, *numbers.items())  # what the shapes of the output depend on
    cut = _Cut(len(image), leave=key in known)
    later = list(model.model)[grid.i + 1 :]  # type: ignore[operator]
    hooks = [grid.register_forward_hook(cut.at), *(m.register_forward_pre_hook(cut.before) for m in later)]
    try:
        out = predict()
    except _NothingLeft:
        return _mapped(known[key], lambda x: x if len(x) else x.new_zeros(len(image), *x.shape[1:]))
    finally:
        for hook in hooks:
            hook.remove()
    if key not in known:
        count = cut.count if cut.kept is None else len(cut.kept)
        known[key] = _mapped(out, lambda x: x.new_empty(0, *x.shape[1:]) if len(x) == count else x)
    return cut.spread(out)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change each tensor with a first dimension in a nested value, and the densities that it may carry."""
    if isinstance(value, Tensor):
        new = change(value) if value.ndim else value
        if new is not value and hasattr(value, DENSITIES):
            setattr(new, DENSITIES, change(getattr(value, DENSITIES)))
        return new
    if isinstance(value, dict):
        return {k: _mapped(x, change) for k, x in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(x, change) for x in value)
    return value
