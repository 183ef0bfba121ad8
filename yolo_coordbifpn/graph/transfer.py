"""What became of pretrained weights in a new model, as one line and as a measured difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..blocks.density import DensityHead
from .head_levels import new_branches
from .layers import image_channels, outputs, pixels, quietly, shapes
from .pairs import Pairs


@dataclass
class Transfer:
    """A pretrained model in the layout of a new one, and what became of its layers.

    Attributes:
        donor: The model for the host to load.
        pairs: The layers of the two models, aligned.
        widened: Number of convolutions that read more channels than before.
        folded: Number of fusions whose weights were folded into convolutions.
        unchecked: Why the output cannot be compared with the pretrained model's; empty if it can.
        problems: Why the output may differ from the pretrained model's.
        heads_read: The layers that the heads read, of the pretrained and of the new model; empty if the new head reads
            one at a level of the pretrained head that has no counterpart.
        new_levels: The levels that the new head has and the pretrained one does not, such as P2.
        extras: What each layer takes in addition to features, of the pretrained and of the new model.
    """

    donor: nn.Module
    pairs: Pairs
    widened: int
    folded: int
    unchecked: str
    problems: list[str]
    heads_read: list[tuple[int, int]]
    new_levels: list[str]
    extras: tuple[list[Any], list[Any]]

    def report(self, target: nn.Module, change: float | None) -> str:
        """Say in one line what became of the weights.

        Args:
            target: The new model, after loading; the host may have rebuilt parts of its head.
            change: What the method `change` returned.
        """
        pairs = self.pairs
        total, kept = sum(len(shapes(m)) for m in pairs.old) - self.folded, self._kept(target)
        words = [
            f"{kept} of {total} pretrained items kept",
            f"{len(pairs.inserted)} layers inserted ({listed(pairs.inserted)})",
            *([f"{sum(map(len, pairs.inside.values()))} blocks put inside layers"] if pairs.inside else []),
            f"{pairs.weighted} fusions weighted",
            *([f"{self.folded} fusions folded into convolutions"] if self.folded else []),
            f"{self.widened} convolutions widened",
            f"{total - kept} items left",
            *([f"the head's level {' and '.join(self.new_levels)} is new"] if self.new_levels else []),
        ]
        end = "" if change is None else f"; what the head reads differs by {change:.0e} from the pretrained model"
        return ", ".join(words) + end

    def change(self, source: nn.Module, target: nn.Module) -> float | None:
        """Compare what both heads read, in eval mode, on a random image.

        Args:
            source: The pretrained model, in float32.
            target: The new model, after loading.

        Returns:
            The largest ||new - old|| / ||old|| over the levels, None if a level cannot be compared.
        """
        image = pixels(target)
        channels = image_channels(source)
        if not self.heads_read or image.shape[1] not in (1, channels):
            return None

        def results(model: Any, side: int) -> list[Any]:
            layers = list(model.model)[: max(pair[side] for pair in self.heads_read) + 1]
            device = next(model.parameters()).device
            extras = [[x.to(device) for x in extra] for extra in self.extras[side]]
            seen = image if side else image.expand(-1, channels, -1, -1)  # grey in all channels
            return quietly(model, lambda: outputs(layers, seen.to(device), extras))

        old, new = results(source, 0), results(target, 1)
        levels = [(old[i].cpu(), new[j].cpu()) for i, j in self.heads_read]
        if any(x.shape != y.shape for x, y in levels):
            return None
        return max(float((y - x).norm() / x.norm().clamp_min(1e-12)) for x, y in levels)

    def _kept(self, target: Any) -> int:
        """Count the pretrained tensors in a model after loading."""
        new, donated = list(target.model), list(self.donor.model)  # type: ignore[arg-type]
        kept = 0
        for j in self.pairs.inherited:
            fresh = [f"{name}." for name in self.pairs.inside.get(j, ())]
            if j == len(new) - 1 or isinstance(new[j], DensityHead):
                fresh += new_branches(self.pairs.levels, new[j])
            common = shapes(donated[j]).items() & shapes(new[j]).items()
            kept += sum(not name.startswith(tuple(fresh)) for name, _ in common)
        return kept + _remapped(donated[-1], new[-1])


def _remapped(old: nn.Module, new: nn.Module) -> int:
    """Count the tensors with other numbers of classes of which the host took rows, for classes of the same name."""
    before, found = dict(old.named_parameters()), 0
    for name, y in new.named_parameters():
        x = before.get(name)
        if x is not None and x.ndim and y.ndim and len(x) != len(y) and x.shape[1:] == y.shape[1:]:
            found += bool((x.to(y)[:, None] == y).reshape(len(x), len(y), -1).all(2).any())
    return found


def listed(layers: Sequence[str]) -> str:
    """List layers such as `9 CoordAtt`; more than six are counted by class."""
    if len(layers) <= 6:
        return ", ".join(layers) or "none"
    kinds = Counter(layer.partition(" ")[2] for layer in layers)
    return ", ".join(f"{number} x {name}" for name, number in kinds.items())
