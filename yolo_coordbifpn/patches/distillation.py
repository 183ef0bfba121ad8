"""Patch: knowledge distillation between heads with different levels.

The host compares the features that the two heads read level by level, in the order of the heads, and refuses heads with
different numbers of levels. Here levels are paired by stride; a level that only one head has is left out.
"""

from __future__ import annotations

import functools
import inspect
import logging
from types import ModuleType
from typing import Any

from ..errors import HostError
from ..graph.head_levels import level_pairs, moves, select_levels
from ..graph.rows import level
from .replacement import Undo, is_replaced, replace


def patch_distillation(host: ModuleType) -> Undo:
    """Make the host's `DistillationModel` pair the levels of teacher and student by stride.

    Args:
        host: `ultralytics.nn.distill_model`.

    Returns:
        A function that undoes the patch.

    Raises:
        HostError: If the class does not find the layers of teacher and student one after the other.
    """
    base = getattr(host, "DistillationModel", None)
    original: Any = getattr(base, "__init__", None)
    code = getattr(original, "__code__", None)
    names = {*getattr(code, "co_names", ()), *getattr(code, "co_varnames", ())}
    if not {"teacher_feats_idx", "get_distill_layers", "student_model"} <= names:
        raise HostError(f"{host.__name__}.DistillationModel does not find the layers to compare as expected")

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        student_model = inspect.signature(original).bind(self, *args, **kwargs).arguments["student_model"]
        students: list[int] = []  # the list that the host keeps, shortened when the teacher is known

        def get_distill_layers(model: Any) -> list[int]:
            layers = base.get_distill_layers(model)  # type: ignore[union-attr]
            if model is student_model:
                students[:] = layers
                return students
            return layers if model is not self.teacher_model else _pair(student_model, model, students, layers)

        self.get_distill_layers = get_distill_layers
        try:
            original(self, *args, **kwargs)
        finally:
            del self.get_distill_layers

    return replace(base, "__init__", init)


def distillation_holds(host: ModuleType) -> bool:
    """Return whether the host's distillation, as it is now, is ours."""
    return is_replaced(getattr(host, "DistillationModel", None), "__init__", __name__)


def _pair(student: Any, teacher: Any, students: list[int], teachers: list[int]) -> list[int]:
    """Leave out the levels that one of two models does not have.

    Args:
        student: The student.
        teacher: The teacher; levels that the student does not have are taken from its head.
        students: The layers that the student's head reads, then the head; shortened in place.
        teachers: The same of the teacher.

    Returns:
        The layers of the teacher, in the order of the student's.
    """
    own, its = student.model[students[-1]], teacher.model[teachers[-1]]
    places = level_pairs(its, own)  # for each level of the student its place in the teacher's head
    shared = {k: place for k, place in enumerate(places) if place is not None}
    if not shared or not moves(places, its):
        return teachers  # the same levels, or heads that do not say them
    names = ", ".join(level(float(own.stride[k])) for k in shared)
    logging.getLogger("ultralytics").info(
        f"yolo_coordbifpn: distillation at {names}, the levels that teacher and student have in common "
        f"(teacher {_levels(its)}; student {_levels(own)})"
    )
    select_levels(its, list(shared.values()))
    students[:] = [*(students[k] for k in shared), students[-1]]
    return [*(teachers[k] for k in shared.values()), teachers[-1]]


def _levels(head: Any) -> str:
    return ", ".join(level(float(x)) for x in head.stride)
