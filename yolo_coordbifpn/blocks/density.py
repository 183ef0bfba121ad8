"""The density head of adaptive NMS: how crowded each object is, predicted beside its box and score.

Source: Liu, Huang, Wang, "Adaptive NMS: Refining Pedestrian Detection in a Crowd", CVPR 2019, arXiv 1904.03629. The
density of an object is its largest IoU with another object (equation 3), and NMS around a box M suppresses with the
threshold max(N_t, d_M) (equation 4). The sub-network is that of section 3.3: a 1 x 1 convolution, and a convolution
with a large kernel that sees the neighbours. Unlike the paper's, it has no input from the branches of the head, and the
large kernel is depthwise. NMS goes by class, so a density counts the neighbours of the same class alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_features, positive_number, positive_whole
from .declaration import Channels, block
from .dispatch import exported, symbolic
from .folding import fold_norm
from .overlap import overlap

_START = 0.2  # density of everything before training, below every usual threshold


def _one_map(c1: Channels, args: list[Any]) -> tuple[int, list[Any]]:
    """Output one channel, whatever is read."""
    return 1, [c1, *args]


class _Level(nn.Module):
    """The sub-network of one level: features (N, C, H, W) to logits (N, 1, H, W)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(hidden)
        self.spatial = nn.Conv2d(hidden, hidden, 5, padding=2, groups=hidden, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(hidden)
        self.out = nn.Conv2d(hidden, 1, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, math.log(_START / (1 - _START)))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.bn1(self.reduce(x)))
        return self.out(F.silu(self.bn2(self.spatial(y))))

    def fuse(self) -> None:
        fold_norm(self, "reduce", "bn1")
        fold_norm(self, "spatial", "bn2")


@block(_one_map, variant="", paper="1904.03629")
class DensityHead(nn.Module):
    """A density for each anchor point of the head, for adaptive NMS.

    Row of a model YAML, before the last one, with the layers that the head reads: `[[16, 19, 22], 1, DensityHead, []]`
    or `[hidden, loss_gain]`. At first all densities are 0.2, so NMS is that of the stock model.

    Attributes:
        levels: For each level a 1 x 1 convolution to the hidden channels, a depthwise 5 x 5 convolution, and a 1 x 1
            convolution to one channel; batch normalisation and SiLU after the first two.
        loss_gain: Factor of the loss.
        densities: The densities of the last forward pass, for the loss and for NMS; not part of a checkpoint.
    """

    def __init__(self, channels: int | list[int], hidden: int = 32, loss_gain: float = 1.0) -> None:
        """Build the head.

        Args:
            channels: C of each level, a list.
            hidden: Channels of the sub-network.
            loss_gain: Factor of the loss.

        Raises:
            ValueError: If `channels` is not a list, or `hidden` or `loss_gain` is not a positive number.
        """
        super().__init__()
        if not isinstance(channels, (list, tuple)):
            raise ValueError(
                f"DensityHead reads the layers that the head reads, as a list, [[16, 19, 22], 1, DensityHead, []]; "
                f"got one layer with {channels} channels."
            )
        positive_whole("DensityHead", "hidden", hidden, "32")
        self.loss_gain = positive_number("DensityHead", "loss_gain", loss_gain, "1.0")
        self.channels = [*channels]
        self.levels = nn.ModuleList(_Level(c, hidden) for c in channels)
        self.densities: Tensor | None = None

    def forward(self, xs: list[Tensor]) -> Tensor:
        """Predict the densities.

        Args:
            xs: Features of each level, shapes (N, C, H, W).

        Returns:
            Densities, shape (N, A), 0...1; the anchor points of the levels one after the other, as in the head.

        Raises:
            ValueError: If the features do not have these shapes.
        """
        maps = []
        for k, level in enumerate(self.levels):
            check_features(self, [xs[k]], channels=self.channels[k])
            maps.append(level(xs[k]).flatten(1))
        densities = torch.cat(maps, 1).sigmoid()
        if not (exported(self) or symbolic(densities)):
            self.densities = densities
        return densities

    def fuse(self) -> None:
        """Fold the batch normalisations into the convolutions before them, in place, for inference."""
        for level in self.levels:
            level.fuse()  # type: ignore[operator]

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Compare the densities of the last forward pass with those of the objects.

        Args:
            batch: The host's batch with its `assigned` objects, see `yolo_coordbifpn.block`.

        Returns:
            `density_loss`: the smooth-L1 loss over the positive anchor points, mean, times `loss_gain`.

        Raises:
            ValueError: If there was no forward pass before, or the host's loss assigns no objects.
        """
        densities, self.densities, assigned = self.densities, None, batch.get("assigned")
        if densities is None or assigned is None:
            lacks = "a forward pass before" if densities is None else "a loss that assigns objects to anchor points"
            raise ValueError(f"DensityHead.loss() needs {lacks}.")
        image, anchor = assigned["positive"].nonzero(as_tuple=True)
        targets = crowding(assigned["boxes"].float(), assigned["labels"], assigned["valid"])
        targets = targets[image, assigned["index"][image, anchor]]
        loss = F.smooth_l1_loss(densities[image, anchor].float(), targets, reduction="sum", beta=0.1)
        return {"density_loss": loss / max(len(image), 1) * self.loss_gain}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the last densities out of copies and checkpoints."""
        return {**self.__dict__, "densities": None}


def crowding(boxes: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Return the density of each object: its largest IoU with another object of its image and class.

    Args:
        boxes: Objects of each image, shape (N, M, 4) as x1, y1, x2, y2, or (N, M, 5) as x, y, width, height, angle.
        labels: Their classes, shape (N, M).
        valid: Which of them are objects, not padding, shape (N, M), boolean.

    Returns:
        Densities, shape (N, M), 0...1; 0 for an object without neighbours.
    """
    if not boxes.shape[1]:
        return boxes.new_zeros(boxes.shape[:2])
    pair = valid[:, :, None] & valid[:, None] & (labels[:, :, None] == labels[:, None])
    pair &= ~torch.eye(boxes.shape[1], dtype=torch.bool, device=boxes.device)
    return torch.where(pair, overlap(boxes, boxes), 0).amax(2)
