"""Which layer of a pretrained model corresponds to which layer of a new one: an alignment of two lists of layers.

Layer indices no longer match once a block is inserted. As in the alignment of sequences (Needleman, Wunsch, 1970),
pairs keep the order of both lists and the number of tensors that fit is the largest possible. `difflib` would not do:
it matches equal items, while layers fit to a degree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from torch import nn

from .layers import kind, shapes

Shapes = Mapping[str, Sequence[int]]  # of the tensors of a layer, by name


def align(source: Sequence[nn.Module], target: Sequence[nn.Module]) -> list[int | None]:
    """Pair the layers of two models.

    Args:
        source: Layers of the pretrained model, the head last.
        target: Layers of the new model, the head last.

    Returns:
        For each layer of the target the index of its partner in the source, None where it has none. The heads are
        always partners; the host loads the tensors that they have in common.
    """
    rows, columns = len(target) - 1, len(source) - 1
    old, new = ([(kind(m), shapes(m)) for m in layers[:-1]] for layers in (source, target))
    gain = [[_gain(*a, *b) for a in old] for b in new]
    best = [[0.0] * (columns + 1) for _ in range(rows + 1)]  # best[j][i]: the gain of the layers from j and i on
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


def _gain(old_kind: str, old: Shapes, new_kind: str, new: Shapes) -> float:
    """Return how well two layers fit: 0 if not at all, else 0.5 for the class and 1 for each tensor that fits."""
    if old_kind != new_kind:
        return 0.0
    if not old or new_kind == "Concat":
        return 0.5
    fitting = [shape for key, shape in old.items() if key in new and fits(shape, new[key])]
    return len(fitting) + 0.5 if sum(map(prod, fitting)) >= 0.5 * sum(map(prod, old.values())) else 0.0


def fits(old: Sequence[int], new: Sequence[int]) -> bool:
    """Return whether two tensors have the same shape, or are weights of convolutions that differ only in input."""
    return old == new or (len(old) == 4 and len(new) == 4 and old[0] == new[0] and old[2:] == new[2:])
