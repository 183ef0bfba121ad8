"""Size and cost of a model as the host counts them, and as a model YAML states them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class Summary(NamedTuple):
    """The host's summary of a model."""

    layers: int
    parameters: int
    gradients: int
    gflops: float  # at 640 px, batch 1


def count(model: Any) -> Summary:
    """Count a built model: layers, parameters, parameters with a gradient, and GFLOPs at 640 px."""
    from ultralytics.utils.torch_utils import get_flops, get_num_gradients, get_num_params

    layers = len([m for m in model.modules() if not m._modules])
    return Summary(layers, get_num_params(model), get_num_gradients(model), get_flops(model, 640))


def annotate(text: str, summaries: Mapping[str, Summary]) -> str:
    """Write the size of each scale at the end of its line in a model YAML, as in the host's own files.

    Args:
        text: The model YAML's text.
        summaries: Summary by scale letter.

    Returns:
        The new text.
    """

    def annotated(line: re.Match[str]) -> str:
        s = summaries[line["scale"]]
        return (
            f"{line['constants']} # summary: {s.layers} layers, {s.parameters:,} parameters, "
            f"{s.gradients:,} gradients, {s.gflops:.1f} GFLOPs"
        )

    letters = "|".join(re.escape(x) for x in summaries if x) or "(?!)"
    lines = re.compile(rf"^(?P<constants>\s+(?P<scale>{letters}): *\[[^\]\n]*\])[^\n]*$", re.MULTILINE)
    return lines.sub(annotated, text)
