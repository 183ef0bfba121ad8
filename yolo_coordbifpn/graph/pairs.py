"""The layers of a pretrained model and of a new one, aligned, and the blocks that are new in the new one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from ..blocks.bifpn import BiFPN_Concat
from ..blocks.density import DensityHead
from ..blocks.rezero import ReZero
from .align import align, fits
from .head_levels import level_pairs
from .layers import class_name, kind, shapes


@dataclass
class Pairs:
    """Two models' layers, aligned.

    Attributes:
        old: Layers of the pretrained model.
        new: Layers of the new model.
        is_block: Returns whether a layer is one of the registered blocks.
        partners: For each new layer the index of its partner among the old ones, None if it has none.
        levels: For each level of the new head its place in the pretrained one, None for a new level; see `level_pairs`.
        blocks: Newly initialised layers that are registered blocks.
        inside: Newly initialised blocks inside other layers: their names, by the index of the layer.
    """

    old: list[nn.Module]
    new: list[nn.Module]
    is_block: Callable[[nn.Module], bool]
    partners: list[int | None] = field(init=False)
    levels: list[int | None] = field(init=False)
    blocks: list[int] = field(init=False)
    inside: dict[int, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.partners = align(self.old, self.new)
        self.levels = level_pairs(self.old[-1], self.new[-1])
        self.blocks = [j for j, layer in enumerate(self.new) if self.is_block(layer) and not self._is_trained(j)]
        inside = {
            j: self._blocks_inside(self.new[j], self.old[i]) for j, i in enumerate(self.partners) if i is not None
        }
        self.inside = {j: names for j, names in inside.items() if names}

    @property
    def inherited(self) -> list[int]:
        """Return the new layers that get pretrained tensors."""
        return [j for j, partner in enumerate(self.partners) if partner is not None and j not in self.blocks]

    @property
    def inserted(self) -> list[str]:
        """Name the new blocks for which the pretrained model has no layer, such as `9 CoordAtt`."""
        return [f"{j} {class_name(self.new[j])}" for j in self.blocks if self.partners[j] is None]

    @property
    def weighted(self) -> int:
        """Return the number of concatenations that the new model weights."""
        return sum(self.partners[j] is not None and kind(self.new[j]) == "Concat" for j in self.blocks)

    @property
    def reset(self) -> list[str]:
        """Name the blocks whose weights the pretrained model has in other shapes, so that they cannot be taken."""
        changed = [j for j in self.blocks if self.partners[j] is not None and kind(self.new[j]) != "Concat"]
        return [f"{j} {class_name(self.new[j])}" for j in changed]

    @property
    def unweighted(self) -> list[int]:
        """Return the weighted concatenations of the pretrained model whose weights no layer of the new model takes."""
        found = [i for j, i in enumerate(self.partners) if i is not None and not self._is_trained(j)]
        return [i for i in found if isinstance(self.old[i], BiFPN_Concat)]

    @property
    def lost(self) -> list[str]:
        """Name the blocks of the pretrained model that have no place in the new one."""
        layers = [
            f"{class_name(m)} at layer {i}"
            for i, m in enumerate(self.old)
            if i not in self.partners and self.is_block(m)
        ]
        inside = [
            f"{class_name(self.old[i].get_submodule(name))} inside layer {i}"
            for j, i in enumerate(self.partners)
            if i is not None
            for name in self._blocks_inside(self.old[i], self.new[j])
        ]
        return layers + list(dict.fromkeys(inside))

    @property
    def unmatched(self) -> list[str]:
        """Name the stock layers of the new model without a partner."""
        return [f"{j} {class_name(m)}" for j, m in enumerate(self.new) if self.is_new(j)]

    @property
    def unused(self) -> list[str]:
        """Name the layers of the pretrained model without a partner."""
        return [f"{i} {class_name(m)}" for i, m in enumerate(self.old) if i not in self.partners]

    def is_new(self, j: int) -> bool:
        """Return whether a layer of the new model is a stock layer without a partner."""
        return self.partners[j] is None and j not in self.blocks

    def fitting(self, j: int) -> tuple[int, int]:
        """Count the tensors of a new layer and of its partner, by name: those that fit, and all, without new blocks."""
        partner = self.partners[j]
        inside = tuple(f"{x}." for x in self.inside.get(j, ()))
        new = {name: shape for name, shape in shapes(self.new[j]).items() if not name.startswith(inside)}
        old = shapes(self.old[partner]) if partner is not None else {}
        return sum(fits(old[name], new[name]) for name in old.keys() & new.keys()), len(old.keys() | new.keys())

    def _is_trained(self, j: int) -> bool:
        """Return whether the pretrained model has weights for a block."""
        partner = self.partners[j]
        if partner is None or type(self.old[partner]).__name__ != type(self.new[j]).__name__:
            return False
        old, new = self.old[partner], self.new[j]
        if isinstance(old, DensityHead) and isinstance(new, DensityHead) and self.levels:
            kept = [(old.levels[place], level) for level, place in zip(new.levels, self.levels) if place is not None]
            return all(shapes(a) == shapes(b) for a, b in kept)
        return shapes(new) == shapes(old)

    def _blocks_inside(self, layer: nn.Module, partner: nn.Module) -> list[str]:
        """Name the blocks inside a layer that its partner does not have."""
        if self.is_block(layer):
            return []
        there = {name: type(m).__name__ for name, m in partner.named_modules()}
        found: list[str] = []
        for name, m in layer.named_modules():
            is_new = type(m) is not nn.Sequential and self.is_block(m) and there.get(name) != type(m).__name__
            wrapped = isinstance(layer.get_submodule(name.rpartition(".")[0]), ReZero)
            if is_new and not wrapped and not any(name.startswith(f"{x}.") for x in found):  # or part of a new block
                found.append(name)
        return found
