"""Grid activation: features pass through unchanged, while a light sub-network says where in an image objects are.

Source: the grid activation module of GA-Net, Zhang et al., "Efficient Object Detection in High-Resolution UAV Images
with Grid Activation", Drones 2024, 8(3), 74. Cells of 64 px and the focal loss (RetinaNet, arXiv 1708.02002, equation
5) are those of OAN, arXiv 2212.13136. Unlike the paper's, the decision is made for an image as a whole, by its largest
score, so that the layers behind run as they are on the images that remain.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_features, one_input, positive_number, positive_whole
from .declaration import block
from .dispatch import exported, symbolic
from .folding import fold_norm

_PRIOR = 0.01  # score of every cell before training
_ALPHA, _GAMMA = 0.25, 2.0  # of the focal loss
_HIDDEN = 16  # channels of the sub-network
_SMALL = 0.1  # factor on initial weights before a batch normalisation: the same output, and steps that turn them sooner


@block(variant="", paper="2212.13136")
class GridActivation(nn.Module):
    """Scores of the cells of a coarse grid, beside features that stay as they are.

    Row of a model YAML, after a stage of the backbone: `[-1, 1, GridActivation, []]` or `[cell, loss_gain]`. In
    inference an image whose largest score is below the threshold drops out behind this row, and has no detections. A
    new model has the threshold 0, with which none does; a training chooses one at its end.

    Attributes:
        reduce, bn1: 1 x 1 convolution to the hidden channels, batch normalisation; SiLU follows.
        spatial, bn2: Depthwise 3 x 3 convolution, batch normalisation; SiLU follows, and the maximum in each cell.
        out: 1 x 1 convolution to one logit for each cell.
        cell: Height and width of a cell, in cells of the features.
        loss_gain: Factor of the loss.
        threshold: Score below which an image drops out, 0...1. It belongs to a checkpoint, not to a state dict: a
            model that is trained further starts without one.
        logits: The logits of the last forward pass, shape (N, 1, H', W'); not part of a checkpoint.
        size: Width and height of the features in the last forward pass.
    """

    def __init__(self, channels: int, cell: int = 8, loss_gain: float = 1.0) -> None:
        """Build the block.

        Args:
            channels: C, the number of channels of the features.
            cell: Height and width of a cell, in cells of the features: 8 at P3 are 64 px.
            loss_gain: Factor of the loss.

        Raises:
            ValueError: If `channels` or `cell` is not a positive whole number, or `loss_gain` not a positive float.
        """
        super().__init__()
        self.channels = one_input("GridActivation", channels)
        self.cell = positive_whole("GridActivation", "cell", cell, "8")
        self.loss_gain = positive_number("GridActivation", "loss_gain", loss_gain, "1.0")
        self.reduce = nn.Conv2d(channels, _HIDDEN, 1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(_HIDDEN)
        self.spatial = nn.Conv2d(_HIDDEN, _HIDDEN, 3, padding=1, groups=_HIDDEN, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(_HIDDEN)
        self.out = nn.Conv2d(_HIDDEN, 1, 1)
        with torch.no_grad():
            self.reduce.weight.mul_(_SMALL)
            self.spatial.weight.mul_(_SMALL)
        nn.init.constant_(self.out.bias, math.log(_PRIOR / (1 - _PRIOR)))  # type: ignore[arg-type]
        self.threshold = 0.0
        self.logits: Tensor | None = None
        self.size = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Score the cells, and pass the features through.

        Args:
            x: Features, shape (N, C, H, W).

        Returns:
            `x` itself.

        Raises:
            ValueError: If `x` does not have this shape.
        """
        check_features(self, [x], channels=self.channels)
        if not (exported(self) or symbolic([x])):
            y = F.silu(self.bn1(self.reduce(x)))
            y = F.silu(self.bn2(self.spatial(y)))
            self.logits, self.size = self.out(F.max_pool2d(y, self.cell, ceil_mode=True)), (x.shape[3], x.shape[2])
        return x

    def scores(self) -> Tensor:
        """Return the largest score of each image in the last forward pass, shape (N,), float32, 0...1.

        Raises:
            ValueError: If there was no forward pass before.
        """
        return self._last().detach().float().flatten(1).amax(1).sigmoid()

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Compare the scores of the last forward pass with the cells in which the objects have their centres.

        Args:
            batch: The host's batch: `bboxes` (M, 4 or 5) with centres in the first two columns, as shares of width and
                height, and `batch_idx` (M,), the image of each.

        Returns:
            `grid_loss`: the focal loss, summed over the cells, for each cell with an object, times `loss_gain`.

        Raises:
            ValueError: If there was no forward pass before.
        """
        logits, self.logits = self._last().float(), None
        targets = self._targets(batch["bboxes"], batch["batch_idx"], logits)
        p = logits.sigmoid()
        error = torch.where(targets, 1 - p, p)
        weight = torch.where(targets, _ALPHA, 1 - _ALPHA) * error**_GAMMA
        loss = weight * F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none")
        return {"grid_loss": loss.sum() / targets.sum().clamp(min=1) * self.loss_gain}

    def neutral_(self) -> None:
        """Do nothing: the output is the input, whatever the weights are."""

    def fuse(self) -> None:
        """Fold the batch normalisations into the convolutions before them, in place, for inference."""
        fold_norm(self, "reduce", "bn1")
        fold_norm(self, "spatial", "bn2")

    def _last(self) -> Tensor:
        """Return the logits of the last forward pass."""
        if self.logits is None:
            raise ValueError("GridActivation needs a forward pass before its scores or its loss.")
        return self.logits

    def _targets(self, boxes: Tensor, image: Tensor, logits: Tensor) -> Tensor:
        """Return the cells that hold the centre of an object, boolean, of the shape of the logits."""
        targets = torch.zeros_like(logits, dtype=torch.bool)
        size = logits.new_tensor(self.size)
        x, y = (boxes[:, :2].to(logits) * size).long().div(self.cell, rounding_mode="floor").unbind(1)
        rows, columns = (k.clamp(0, n - 1) for k, n in ((y, logits.shape[2]), (x, logits.shape[3])))
        targets[image.to(logits.device).long().view(-1), 0, rows, columns] = True
        return targets

    def __getstate__(self) -> dict[str, Any]:
        """Leave the last logits out of copies and checkpoints."""
        return {**self.__dict__, "logits": None}


def grid_of(model: Any) -> GridActivation | None:
    """Return the `GridActivation` of a model of the host, None if it has none."""
    layers = getattr(model, "model", ())
    return next((m for m in layers if type(m) is GridActivation), None) if isinstance(layers, nn.Sequential) else None
