"""BiFPN's fast normalized fusion, by concatenation and by sum.

Source: Tan, Pang, Le, "EfficientDet: Scalable and Efficient Object Detection", CVPR 2020, arXiv 1911.09070,
section 3.3: O = sum_i relu(w_i) * I_i / (eps + sum_j relu(w_j)), one scalar per input, starting at 1, eps = 1e-4.

Departures: `BiFPN_Concat` concatenates the weighted inputs along the channels instead of adding them, so that it can
replace a `Concat` of a YOLO neck. The resampling and the convolution that the paper draws around the fusion are
separate layers in a model YAML. The parameter is called `weight`, so that optimizers that sort parameters by name find
it. The output has a constant gain, which is 1 in the paper, see `gain`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_features, positive
from .declaration import block
from .dispatch import channels_last, eager
from .gain import BlockWithGain


class _WeightedFusion(BlockWithGain):
    """One learnable non-negative scalar per input; together they are normalised to a sum of about 1."""

    def __init__(self, channels: Sequence[int], eps: float, gain: float) -> None:
        super().__init__(gain)
        name = type(self).__name__
        if not isinstance(channels, (list, tuple)) or len(channels) < 2:
            raise ValueError(
                f"{name} takes two or more inputs, got {channels!r} (channels of the inputs): "
                f"write [[-1, 6], 1, {name}, ...] with the indices of the layers to fuse."
            )
        if any(type(c) is not int or c < 1 for c in channels):
            raise ValueError(f"{name}: channels must be positive whole numbers, got {list(channels)}.")
        self.channels = list(channels)
        self.eps = positive(name, "eps", eps, "1e-4")
        self.weight = nn.Parameter(torch.ones(len(channels)))

    def normalized_weights(self) -> Tensor:
        """Return the normalised weight of each input, shape (inputs,): values in 0...1 with a sum just under 1."""
        w = F.relu(self.weight)  # a function, not a module: hosts set modules to work in place
        return w / (w.sum() + self.eps)

    def neutral_(self) -> None:
        """Weight all inputs equally, in place, with a gain that makes each factor 1."""
        nn.init.ones_(self.weight)
        self.gain = len(self.weight) + self.eps

    def _inputs(self, xs: Sequence[Tensor], alike: int) -> list[Tensor]:
        """Check the inputs, whose shapes must agree from dimension `alike` on, and return them as a list."""
        check_features(self, xs, len(self.channels), alike=alike)
        return [xs[k] for k in range(len(self.channels))]  # a list that torch.fx traces can only be indexed

    def _weighted(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """Scale each input, each of shape (N, C_i, H, W), by its normalised weight and the gain."""
        factors = self.normalized_weights() * self.gain
        return [x * factors[k] for k, x in enumerate(xs)]

    def extra_repr(self) -> str:
        """Show the channels of the inputs in the printed module."""
        return f"channels={self.channels}, eps={self.eps}"


@block(
    "sum",
    variant="",
    paper="1911.09070",
    aliases=("BiFPN", "Concat_BiFPN", "ConcatBiFPN", "BiFPN_Concat2", "BiFPN_Concat3", "WeightedConcat"),
)
class BiFPN_Concat(_WeightedFusion):  # noqa: N801 - the name the field writes in its YAMLs
    """Weighted concatenation: scale each input by its normalised weight, then concatenate along the channels.

    Row of a model YAML, instead of the host's `[[-1, 6], 1, Concat, [1]]`: `[[-1, 6], 1, BiFPN_Concat, [1]]`.

    Attributes:
        weight: Raw fusion weights, shape (inputs,), initially 1.
        channels: Channels of each input.
        eps: Keeps the division defined if all weights are zero.
        gain: Constant factor on the output.
    """

    def __init__(self, channels: Sequence[int], dim: int = 1, eps: float = 1e-4, gain: float = 1.0) -> None:
        """Build the block.

        Args:
            channels: Channels C_i of each input, two or more.
            dim: Dimension of the concatenation, as in the row of the host's `Concat`; only 1, the channels.
            eps: The paper's epsilon.
            gain: Constant factor on the output; 1 is the paper's formula.

        Raises:
            ValueError: If there are fewer than two inputs, or an argument is out of range.
        """
        super().__init__(channels, eps, gain)
        if type(dim) is not int or dim != 1:
            raise ValueError(f"BiFPN_Concat: dim must be 1 (the channels), got {dim!r}.")

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        """Fuse the inputs.

        Args:
            xs: Features, shapes (N, C_i, H, W).

        Returns:
            Fused features, shape (N, sum of C_i, H, W).

        Raises:
            ValueError: If the number of inputs is not that of `channels`, or heights or widths differ.
        """
        xs = self._inputs(xs, alike=2)
        if torch.is_grad_enabled() or not all(map(eager, xs)) or len({(x.dtype, len(x)) for x in xs}) > 1:
            return torch.cat(self._weighted(xs), 1)
        return self._written(xs)

    def _written(self, xs: Sequence[Tensor]) -> Tensor:
        """Write each scaled input into its part of the output: one pass over the features instead of two."""
        first = xs[0]
        n, _, height, width = first.shape
        channels = [x.shape[1] for x in xs]  # fewer than `channels` in a pruned model
        layout = torch.channels_last if channels_last(first) else torch.contiguous_format
        size = (n, sum(channels), height, width)
        out = torch.empty(size, dtype=first.dtype, device=first.device, memory_format=layout)
        shares = self._numbers() if self.weight.is_cpu else self.normalized_weights() * self.gain
        for x, share, part in zip(xs, shares, out.split(channels, 1)):
            torch.mul(x, share, out=part)
        return out

    def _numbers(self) -> list[float]:
        """Return the normalised weights times the gain, computed without the overhead of six torch calls."""
        positive_parts = [max(w, 0.0) for w in self.weight.tolist()]
        return [self.gain * w / (sum(positive_parts) + self.eps) for w in positive_parts]

    def row(self) -> list[float]:
        """Return the arguments of this block's row in a model YAML."""
        return [1, self.eps, self.gain]


@block(variant="", paper="1911.09070", aliases=("BiFPN_Add2", "BiFPN_Add3", "Add_BiFPN"))
class BiFPN_Add(_WeightedFusion):  # noqa: N801
    """Weighted sum, the paper's fusion: scale inputs of equal shape by their normalised weights and add them.

    Row of a model YAML: `[[-1, 6], 1, BiFPN_Add, []]`.

    Attributes:
        weight: Raw fusion weights, shape (inputs,), initially 1.
        channels: Channels of each input, all equal.
        eps: Keeps the division defined if all weights are zero.
        gain: Constant factor on the output.
    """

    def __init__(self, channels: Sequence[int], eps: float = 1e-4, gain: float = 1.0) -> None:
        """Build the block.

        Args:
            channels: Channels C of each input, two or more, all equal.
            eps: The paper's epsilon.
            gain: Constant factor on the output; 1 is the paper's formula.

        Raises:
            ValueError: If there are fewer than two inputs, their channels differ, or a number is out of range.
        """
        super().__init__(channels, eps, gain)
        if len(set(channels)) > 1:
            raise ValueError(
                f"BiFPN_Add adds inputs of equal channels, got {list(channels)}: "
                "bring them to one width with a 1x1 Conv each, or use BiFPN_Concat."
            )

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        """Fuse the inputs.

        Args:
            xs: Features, shapes (N, C, H, W), all equal.

        Returns:
            Fused features, shape (N, C, H, W).

        Raises:
            ValueError: If the number of inputs is not that of `channels`, or their shapes differ.
        """
        first, *rest = self._weighted(self._inputs(xs, alike=1))
        for x in rest:
            first = first + x
        return first

    def row(self) -> list[float]:
        """Return the arguments of this block's row in a model YAML."""
        return [self.eps, self.gain]
