"""Which layer of a pretrained model belongs to which layer of a new one: an alignment of two lists of layers.

Layer indices are no guide once a block is inserted. As in the alignment of sequences (Needleman, Wunsch, 1970), pairs
are chosen in order, so that the number of tensors that fit is largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import nn

from .layers import kind, shapes


def align(source: Sequence[nn.Module], target: Sequence[nn.Module]) -> list[int | None]:
    """Pair the layers of two models.

    Args:
        source: Layers of the pretrained model, the head last.
        target: Layers of the new model, the head last.

    Returns:
        For each layer of the target the index of its partner in the source, None where it has none. The heads are
        partners whatever they are; the host matches what their tensors have in common.
    """
    rows, columns = len(target) - 1, len(source) - 1
    gain = [[_gain(source[i], target[j]) for i in range(columns)] for j in range(rows)]
    best = [[0.0] * (columns + 1) for _ in range(rows + 1)]  # best[j][i]: the layers from j and i on
    for j in reversed(range(rows)):
        for i in reversed(range(columns)):
            best[j][i] = max(best[j + 1][i], best[j][i + 1], best[j + 1][i + 1] + gain[j][i])
    partners: list[int | None] = [None] * rows + [columns]
    i = j = 0
    while j < rows and i < columns:
        if gain[j][i] and best[j][i] == best[j + 1][i + 1] + gain[j][i]:
            partners[j] = i
            i, j = i + 1, j + 1
        elif best[j][i] == best[j + 1][i]:
            j += 1
        else:
            i += 1
    return partners


def _gain(source: nn.Module, target: nn.Module) -> float:
    """Say how well two layers fit: 0 if not at all, else a little for the class and more for each tensor that fits."""
    if kind(source) != kind(target):
        return 0.0
    old, new = shapes(source), shapes(target)
    if not old or kind(target) == "Concat":
        return 0.5
    fitting = [shape for key, shape in old.items() if key in new and _fits(shape, new[key])]
    return len(fitting) + 0.5 if sum(map(prod, fitting)) >= 0.5 * sum(map(prod, old.values())) else 0.0


def _fits(old: Sequence[int], new: Sequence[int]) -> bool:
    """Tell whether a tensor keeps its shape, or is a convolution that reads other channels."""
    return old == new or (len(old) == 4 and len(new) == 4 and old[0] == new[0] and old[2:] == new[2:])
