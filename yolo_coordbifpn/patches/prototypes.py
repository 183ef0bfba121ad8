"""Patch: the mask prototypes of YOLO26 are made with a head that lists a finer level behind the coarser ones.

`Proto26` adds the coarser levels to the first one, each enlarged by a factor that follows from its place. It would
enlarge a finer level too, which then does not fit. The patched class leaves such a level out: its prototypes stay those
of the pretrained model.
"""

from __future__ import annotations

import functools
from typing import Any

from ..errors import HostError
from .replacement import Undo, is_replaced, replace


def patch_prototypes(blocks: Any) -> Undo:
    """Make `Proto26` ignore levels that are finer than the first.

    Args:
        blocks: `ultralytics.nn.modules.block`.

    Returns:
        A function that undoes the patch.

    Raises:
        HostError: If there is no such class, or it does not refine its prototypes as expected.
    """
    original: Any = getattr(getattr(blocks, "Proto26", None), "forward", None)
    if "feat_refine" not in getattr(getattr(original, "__code__", None), "co_names", ()):
        raise HostError(f"{blocks.__name__} has no Proto26 that refines its prototypes with feat_refine")

    @functools.wraps(original)
    def forward(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        if len(self.feat_refine) == len(x) - 1:  # once, when the host builds the model
            coarser = [level.shape[-1] <= x[0].shape[-1] for level in x[1:]]
            if not all(coarser):
                self.feat_refine = self.feat_refine[: coarser.index(False)]
        return original(self, x, *args, **kwargs)

    return replace(blocks.Proto26, "forward", forward)


def prototypes_hold(blocks: Any) -> bool:
    """Return whether the class of the host's prototypes, as it is now, is ours."""
    return is_replaced(getattr(blocks, "Proto26", None), "forward", __name__)
