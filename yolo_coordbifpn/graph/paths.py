"""The place of each layer of a built model: its level, its part, its path, and the names of its inputs.

The terms are those of the BiFPN paper (Tan, Pang, Le, CVPR 2020, arXiv 1911.09070): the top-down path leads from
coarser levels to finer ones, the bottom-up path from finer to coarser; P4 is the level of stride 16.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..blocks import BiFPN_Add, BiFPN_Concat, SpatialGate
from .layers import facts, reads
from .rows import level


@dataclass(frozen=True)
class Place:
    """The place of one layer.

    Attributes:
        index: Index of the layer.
        inputs: Indices of the layers that it reads; -1 is the image.
        stride: Width of one cell of its output in image pixels. If the output is no feature map, the stride of the
            layer that it reads.
        part: `backbone`, `neck` or `head`; the head is the last layer.
    """

    index: int
    inputs: tuple[int, ...]
    stride: float
    part: str

    @property
    def level(self) -> str:
        """Return the name of the layer's level, such as P4."""
        return level(self.stride)


@dataclass(frozen=True)
class Fusion:
    """A weighted fusion in a model.

    Attributes:
        layer: Index of its layer.
        name: Level and path of the node, such as `P4 bottom-up`.
        inputs: Names of the inputs, such as `P4 backbone` and `P3 bottom-up`, in the order of the weights.
        sources: Indices of the layers that it reads; empty for a fusion inside another layer.
        block: The block itself.
    """

    layer: int
    name: str
    inputs: tuple[str, ...]
    sources: tuple[int, ...]
    block: BiFPN_Concat | BiFPN_Add = field(repr=False)

    @property
    def weights(self) -> NDArray[np.float32]:
        """Return the current share of each input, shape (inputs,), 0...1; 0 for a negative weight."""
        return self.block.normalized_weights().detach().float().cpu().numpy()

    @property
    def shares(self) -> list[tuple[str, float]]:
        """Return the name and the share of each input."""
        return [(name, float(x)) for name, x in zip(self.inputs, self.weights)]

    def __str__(self) -> str:
        """Name the node."""
        return f"{self.name} (layer {self.layer})"


class Paths:
    """The places of all layers of a built model, and their names.

    Attributes:
        places: One for each layer.
    """

    def __init__(self, model: Any) -> None:
        """Find the places by running the model once on a small random image, in eval mode.

        Args:
            model: A model of the host, with its layers in `model.model`.
        """
        layers = list(model.model)
        strides = _strides(layers, [fact.stride for fact in facts(model)])
        inputs = [tuple(reads(layer)) for layer in layers]
        start = _neck_start(model, inputs, strides)
        # a gate passes its first input on; the other does not make it a node of the neck
        self._along = [x[:1] if isinstance(layer, SpatialGate) else x for layer, x in zip(layers, inputs)]
        last = len(layers) - 1
        self.places = [
            Place(i, inputs[i], strides[i], "head" if i == last else "neck" if i >= start else "backbone")
            for i in range(len(layers))
        ]

    def path(self, index: int) -> str:
        """Return the path of a layer: backbone, top-down, bottom-up, or neck if it is on neither path of the neck."""
        if self._part(index) == "backbone":
            return "backbone"
        arrivals = [self._arrival(index, source) for source in self._along[index]]
        resampled = [path for _, path, changed in arrivals if changed]
        others = [path for _, path, changed in arrivals if not changed and path != "backbone"]
        if "top-down" in resampled:
            return "top-down"
        return next(iter([*resampled, *others]), "neck")

    def name(self, index: int) -> str:
        """Name a node by its level and path, such as `P4 bottom-up`."""
        return f"{self.places[index].level} {self.path(index)}"

    def input_names(self, index: int) -> tuple[str, ...]:
        """Name each input of a layer by its level and path, such as `P5 top-down`."""
        sources = self.places[index].inputs
        names = [" ".join(self._arrival(index, source)[:2]) for source in sources]
        count = Counter(names)
        return tuple(x if count[x] == 1 else f"{x} (layer {k})" for x, k in zip(names, sources))

    def _arrival(self, index: int, source: int) -> tuple[str, str, bool]:
        """Follow an input back to its origin; return its level, its path, and whether it is resampled on the way."""
        reader, here = index, source
        while True:
            change = self._stride(here) - self._stride(reader)
            if change and self._part(reader) != "backbone":
                return level(self._stride(here)), "top-down" if change > 0 else "bottom-up", True
            if self._part(here) == "backbone":
                return level(self._stride(here)), "backbone", False
            if len(self._along[here]) != 1:
                return level(self._stride(here)), self.path(here), False
            reader, here = here, self._along[here][0]

    def _stride(self, index: int) -> float:
        return self.places[index].stride if index >= 0 else 1.0

    def _part(self, index: int) -> str:
        return self.places[index].part if index >= 0 else "backbone"


def fusions(model: Any) -> list[Fusion]:
    """Find the weighted fusions of a model, as layers or inside them.

    Args:
        model: A model of the host, with its layers in `model.model`.

    Returns:
        One for each, in the order of the layers; none for a stock model, which is not run.
    """
    found = [(name, m) for name, m in model.model.named_modules() if isinstance(m, (BiFPN_Concat, BiFPN_Add))]
    if not found:
        return []
    paths = Paths(model)
    nodes = []
    for name, block in found:
        index, _, inside = name.partition(".")
        layer = int(index)
        if inside:
            inputs = tuple(f"input {k}" for k in range(len(block.weight)))
            nodes.append(Fusion(layer, f"{paths.name(layer)} {inside}", inputs, (), block))
        else:
            nodes.append(Fusion(layer, paths.name(layer), paths.input_names(layer), paths.places[layer].inputs, block))
    return nodes


def _strides(layers: list[nn.Module], known: list[float | None]) -> list[float]:
    """Fill in the stride of layers whose output is no feature map: that of the first layer that they read."""
    strides: list[float] = []
    for layer, stride in zip(layers, known):
        before = [strides[k] for k in reads(layer) if k >= 0]
        strides.append(stride or (before[0] if before else 1.0))
    return strides


def _neck_start(model: Any, inputs: list[tuple[int, ...]], strides: list[float]) -> int:
    """Return the index of the first layer after the backbone: by the model's YAML, else the first upsampling."""
    rows = (getattr(model, "yaml", None) or {}).get("backbone")
    if rows:
        return len(rows)
    finer = (i for i, sources in enumerate(inputs) if any(k >= 0 and strides[i] < strides[k] for k in sources))
    return next(finer, len(inputs) - 1)
