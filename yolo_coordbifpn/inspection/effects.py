"""What the attention blocks of a model do to the features of one image: whether they have left the identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..blocks import CoordAtt, SpatialGate
from ..blocks.rezero import ReZero
from ..graph.layers import parts, quietly
from ..registry import TABLE
from .gates import TOLERANCE


@dataclass(frozen=True)
class Effect:
    """What one block does to its input x.

    Attributes:
        layer: Index of its layer.
        name: Class name, after its place in the layer if it is inside one.
        change: ||f(x) - x|| / ||x||; 0 for the identity.
        low: For CoordAtt, the 5 % quantile over the channels of their factor, the mean over the map of gain * h * w
            (1 + a * (gain * h * w - 1) in a `ReZero`).
        high: The 95 % quantile of the same.
        within: For CoordAtt and SpatialGate, the standard deviation of the factor over the map, mean over the channels.
    """

    layer: int
    name: str
    change: float
    low: float | None = None
    high: float | None = None
    within: float | None = None

    @property
    def asleep(self) -> bool:
        """Return whether the block is the identity to 1 %."""
        return self.change <= TOLERANCE

    def __str__(self) -> str:
        """Name the block."""
        return f"{self.name} (layer {self.layer})"


def attention_blocks(model: Any) -> dict[str, nn.Module]:
    """Return the attention blocks of a model by their names in `model.model`, with the `ReZero` around them if any."""
    kinds = {*TABLE.variants.values(), SpatialGate}
    found: dict[str, nn.Module] = {}
    for name, m in model.model.named_modules():
        is_one = type(m) in kinds or (isinstance(m, ReZero) and type(parts(m)[0]) in kinds)
        if is_one and (not name.endswith(".block") or name.removesuffix(".block") not in found):
            found[name] = m
    return found


def effects(model: Any, image: Tensor) -> list[Effect]:
    """Run a model once, in eval mode and without gradients, and compare the input and output of each attention block.

    Args:
        model: A model of the host.
        image: Pixels, shape (1, C, H, W), values 0...1, on the model's device.
    """
    seen: dict[str, Effect] = {}
    hooks = [m.register_forward_hook(_noting(name, seen)) for name, m in attention_blocks(model).items()]
    try:
        quietly(model, lambda: model(image))
    finally:
        for hook in hooks:
            hook.remove()
    return list(seen.values())


def _noting(name: str, seen: dict[str, Effect]) -> Any:
    """Make a hook that notes the effect of one block."""
    layer, _, inside = name.partition(".")

    def note(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        block = parts(module)[0]
        if not isinstance(block, SpatialGate) and getattr(args[0], "shape", None) != getattr(out, "shape", None):
            return  # it reads several layers or outputs another size, so that it is never the identity
        x = (args[0][0] if isinstance(block, SpatialGate) else args[0]).float()
        title = f"{inside} {type(block).__name__}".strip()
        change = float((out.float() - x).norm() / x.norm().clamp_min(1e-12))
        spread: tuple[float | None, ...] = ()
        if isinstance(block, CoordAtt):
            h, w = block.gates(args[0])
            factor = (block.gain * h * w).float()
            if isinstance(module, ReZero):
                factor = 1 + module.weight * (factor - 1)
            low, high = factor.mean((0, 2, 3)).quantile(factor.new_tensor([0.05, 0.95])).tolist()
            spread = low, high, float(factor.std((2, 3)).mean()) if factor[0, 0].numel() > 1 else 0.0
        elif isinstance(block, SpatialGate):
            within = float((block.weight * block.attention(args[0][1])).float().std((2, 3)).mean())
            spread = (None, None, within if x[0, 0].numel() > 1 else 0.0)
        seen[name] = Effect(int(layer), title, change, *spread)

    return note
