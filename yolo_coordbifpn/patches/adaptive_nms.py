"""Patch: where the host suppresses boxes, a model with a `DensityHead` does so with the threshold of each box.

The host's models return a tensor of boxes and scores. In eval mode the densities are attached to this tensor, as an
attribute: its shape stays the one that every reader of it knows, the host's own and others. The host's
`non_max_suppression` finds them there. A second version of the function is compiled from its source, in which the calls
that suppress (`i = torchvision.ops.nms(boxes, scores, iou_thres)`) go to `_suppress`; in it the densities are one more
channel behind the scores, so that they take part in all selections before. So confidence, classes, multiple labels,
the most detections, masks, keypoints and angles are what they are in the host. If no candidate has a density above the
threshold, the host's own function runs. Either gets the candidates alone, which takes no longer than to find them
there.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import CodeType, FunctionType, ModuleType
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from ..blocks.density import DensityHead
from ..blocks.dispatch import recorded
from ..errors import HostError
from ..graph.layers import reads
from ..suppression import fast_nms, hard_nms, soft_nms
from .replacement import Undo, is_replaced, model_method, replace, replace_methods

SETTING = "YOLO_COORDBIFPN_NMS"  # environment variable
KINDS = ("adaptive", "soft", "plain")
DENSITIES = "densities"  # attribute of a tensor of predictions
HOMES = ("ultralytics.utils.nms", "ultralytics.utils.ops")  # of non_max_suppression, newer and older
_NAME = "_yolo_coordbifpn_suppress"
_forced: ContextVar[str] = ContextVar("kind of NMS", default="")
_told: WeakSet[nn.Module] = WeakSet()  # models whose log says why their NMS is the plain one


def patch_densities(host: ModuleType) -> Undo:
    """Attach the densities to the predictions of models with a `DensityHead`, in eval mode.

    Args:
        host: `ultralytics.nn.tasks`.

    Returns:
        A function that undoes the patch.

    Raises:
        HostError: If the host's models have no `predict`.
    """
    base, _ = model_method(host, "predict")
    return replace_methods(host, base, "predict", lambda original: _with_densities(host, original))


def patch_nms(home: ModuleType) -> Undo:
    """Make the host's NMS adaptive for predictions with densities.

    Args:
        home: The module with `non_max_suppression`, one of `HOMES`.

    Returns:
        A function that undoes the patch.

    Raises:
        HostError: If there is no such function in it, or one of an unknown shape.
    """
    original = getattr(home, "non_max_suppression", None)
    if original is None:
        raise HostError(f"{home.__name__} has no non_max_suppression")
    adaptive = _adaptive(original)
    defaults = {name: x.default for name, x in inspect.signature(original).parameters.items()}

    @functools.wraps(original)
    def non_max_suppression(prediction: Any, *args: Any, **kwargs: Any) -> Any:
        x = predictions_of(prediction)
        densities = getattr(x, DENSITIES, None)
        kind = "plain" if densities is None else _kind()
        given = {**defaults, **dict(zip(defaults, (prediction, *args))), **kwargs}
        if densities is None or kind == "plain" or not _exceeds(densities, given["iou_thres"], kind):
            return original(prediction, *args, **kwargs)
        end = 4 + (given["nc"] or x.shape[1] - 4)
        places = (x[:, 4:end].amax(1) > given["conf_thres"]).any(0).nonzero()[:, 0]
        if len(places) == 6:  # so many columns are an end-to-end output to the host
            places = torch.arange(x.shape[2], device=x.device)
        x, densities = x.index_select(2, places), densities.index_select(1, places)
        crowded = _exceeds(densities, given["iou_thres"], kind)
        given["nc"] = end - 4
        given["prediction"] = torch.cat((x[:, :end], densities[:, None].to(x), x[:, end:]), 1) if crowded else x
        result = (adaptive if crowded else original)(**given)
        output, *kept = result if isinstance(result, tuple) else (result,)
        if crowded:
            output = [torch.cat((rows[:, :6], rows[:, 7:]), 1) for rows in output]
        return (output, [places[k.long()] for k in kept[0]]) if kept else output

    return replace(home, "non_max_suppression", non_max_suppression)


def nms_holds(home: ModuleType | None) -> bool:
    """Return whether the NMS of a module, as it is now, is ours."""
    return is_replaced(home, "non_max_suppression", __name__)


def host_nms() -> Callable[..., Any]:
    """Return the host's `non_max_suppression` as it is now, ours or not.

    Raises:
        HostError: If there is none.
    """
    found = [getattr(sys.modules.get(name), "non_max_suppression", None) for name in HOMES]
    if not any(found):
        raise HostError(f"there is no non_max_suppression in {' or '.join(HOMES)}")
    return next(filter(None, found))


# Densities ------------------------------------------------------------------------------------------------------------


def _with_densities(host: ModuleType, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `predict` that attaches the densities to the predictions."""

    @functools.wraps(original)
    def predict(self: Any, *args: Any, **kwargs: Any) -> Any:
        head = next((m for m in self.model if type(m) is DensityHead), None)
        if head is None or recorded():
            return original(self, *args, **kwargs)
        embed = kwargs.get("embed")
        if embed:  # by default of the layer before the head: in the stock model it is the last one that we read
            kwargs["embed"] = [reads(head)[-1] if k == head.i else k for k in embed]
        head.densities = None
        out = original(self, *args, **kwargs)
        if not self.training and not embed:
            reason = _attach(self, head, out)
            if reason and self not in _told:
                _told.add(self)
                host.LOGGER.info(f"yolo_coordbifpn: {reason}")
        return out

    return predict


def _attach(model: Any, head: DensityHead, out: Any) -> str:
    """Attach the densities to the predictions, or return why this is impossible; an empty string if it is not."""
    x, densities = predictions_of(out), head.densities
    if getattr(model.model[-1], "export", False):
        return "the exported model has no densities: its NMS, the host's or built in with nms=True, is the plain one"
    if getattr(model, "end2end", False):
        return "this head needs no NMS (end2end), so the densities adapt nothing; they do with NMS switched on"
    if not isinstance(x, Tensor) or densities is None or x.ndim != 3 or x.shape[::2] != densities.shape:
        return "these predictions have no densities of their own, as with augment=True, so NMS is the plain one"
    if not any(nms_holds(sys.modules.get(name)) for name in HOMES):
        return "the NMS of this Ultralytics could not be made adaptive, so it is the plain one"
    setattr(x, DENSITIES, densities.detach())
    if x.requires_grad and not any(p.requires_grad for p in head.parameters()):
        return "visualize=True takes the densities away from the predictions, so NMS is the plain one"
    return ""


def predictions_of(output: Any) -> Any:
    """Return the tensor of boxes and scores in the output of a model."""
    while isinstance(output, (list, tuple)) and output:
        output = output[0]
    return output


# Suppression ----------------------------------------------------------------------------------------------------------


def _exceeds(densities: Tensor, threshold: float, kind: str) -> bool:
    """Return whether NMS differs from the host's: a density is above the threshold, or scores are lowered."""
    return kind == "soft" or (densities.numel() > 0 and float(densities.max()) > threshold)


@contextlib.contextmanager
def using(kind: str) -> Iterator[None]:
    """Use one of `KINDS` in this thread, whatever the environment says."""
    before = _forced.set(kind)
    try:
        yield
    finally:
        _forced.reset(before)


def _kind() -> str:
    """Return which NMS is to be used.

    Raises:
        ValueError: If the setting names no kind.
    """
    kind = _forced.get() or os.environ.get(SETTING, "").strip().lower() or KINDS[0]
    if kind not in KINDS:
        raise ValueError(f"{SETTING} must be {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {kind!r}.")
    return kind


@functools.lru_cache
def _adaptive(function: Any) -> Callable[..., Any]:
    """Compile a version of the host's NMS whose calls that suppress go to `_suppress`.

    Raises:
        HostError: If it has no such calls, or its source cannot be read.
    """
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse("\n" * (first - 1) + textwrap.dedent("".join(lines)))  # with the lines of the file
    except (OSError, TypeError, SyntaxError) as error:
        raise HostError(f"the source of non_max_suppression cannot be read ({error})") from error
    function = inspect.unwrap(function)  # as its source is
    calls = [x.value for x in ast.walk(tree) if isinstance(x, ast.Assign) and _suppresses(x)]
    if not calls:
        raise HostError("non_max_suppression does not suppress by `i = ...(boxes, scores, iou_thres)`")
    missing = {"prediction", "conf_thres", "iou_thres", "max_det", "nc"} - inspect.signature(function).parameters.keys()
    missing |= {"x"} - {*function.__code__.co_varnames}
    if missing:
        raise HostError(f"non_max_suppression has no variable {', '.join(sorted(missing))}")
    for call in calls:
        assert isinstance(call, ast.Call)
        call.args[:0] = [call.func, *(ast.Name(name, ast.Load()) for name in ("x", "conf_thres", "max_det"))]
        call.func = ast.Name(_NAME, ast.Load())
        ast.fix_missing_locations(call)
    module = compile(tree, function.__code__.co_filename, "exec", dont_inherit=True)
    code = next(x for x in module.co_consts if isinstance(x, CodeType) and x.co_name == function.__name__)
    scope = {**function.__globals__, _NAME: _suppress}
    return FunctionType(code, scope, function.__name__, function.__defaults__)


def _suppresses(statement: ast.Assign) -> bool:
    """Return whether a statement is `i = ...(boxes, scores, iou_thres)`."""
    target, call = statement.targets[0], statement.value
    if not isinstance(target, ast.Name) or target.id != "i" or not isinstance(call, ast.Call):
        return False
    return [ast.unparse(x) for x in call.args] == ["boxes", "scores", "iou_thres"]


def _suppress(
    plain: Callable[..., Tensor],
    rows: Tensor,
    least: float,
    most: int,
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    **options: Any,
) -> Tensor:
    """Suppress boxes of one image.

    Args:
        plain: The host's function, called if no density is above the threshold.
        rows: The boxes as the host has them, with score and density in columns 4 and 6; soft-NMS writes the scores.
        least: Score above which a box is kept.
        most: How many boxes are kept at most.
        boxes: The same boxes, those of different classes apart, shape (N, 4), or (N, 5) if they are rotated.
        scores: Their scores, shape (N,).
        threshold: The user's overlap threshold, N_t.
        **options: What the host gives to its function in addition.

    Returns:
        Indices of the kept boxes, by falling score.
    """
    thresholds = rows[:, 6].float().clamp(min=threshold)
    if _kind() == "soft":
        kept, values = soft_nms(boxes.float(), scores.float(), thresholds, least, most)
        rows[kept, 4] = values.to(rows)
        return kept
    if float(rows[:, 6].max()) <= threshold:
        return plain(boxes, scores, threshold, **options)
    if boxes.shape[1] == 5:
        return fast_nms(boxes.float(), scores, thresholds)
    return hard_nms(boxes.float(), scores, thresholds, most)
