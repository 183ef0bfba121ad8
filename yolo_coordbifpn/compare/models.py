"""The models of a comparison, opened and built as the host's trainer builds them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

from ..errors import CompareError, GraftError, HostError, RowError, WeightsError, first_line
from ..grafting.names import find
from ..host.cost import count
from ..host.models import is_missing, open_model, quiet
from .datasets import Dataset, check_data
from .plan import Plan
from .transfers import TransferCount


class BuiltModel(NamedTuple):
    """What is known of a model before its training.

    Attributes:
        label: Its name in tables.
        task: Task of the host.
        parameters: Number of parameters, with the classes of the data.
        gflops: GFLOPs at 640 px.
        items: Pretrained items that are transferred, such as `448/499`; an empty string for a training from scratch.
    """

    label: str
    task: str
    parameters: int
    gflops: float
    items: str


def check_models(plan: Plan, args: Any) -> tuple[list[BuiltModel], Dataset | None, list[str]]:
    """Open every model, check the data for their task, and build every model with the classes of the data.

    Args:
        plan: The plan.
        args: Arguments of the host's `train`.

    Returns:
        The models that can be built, the data unless something is wrong with it, and a line for each problem.
    """
    problems: list[str] = []
    opened = {}
    for label, model in zip(plan.labels, plan.models):
        try:
            opened[label] = open_checked(model)
        except CompareError as error:
            problems.append(str(error))
    tasks = {label: str(x.task) for label, x in opened.items()}
    if len(set(tasks.values())) > 1:
        names = ", ".join(f"{label} {task}" for label, task in tasks.items())
        problems.append(f"models= must have one task, got {names}")
    if not opened:
        return [], None, problems
    task = next(iter(tasks.values()))
    try:
        data = check_data(args, task)
    except CompareError as error:
        return [], None, [*problems, str(error)]
    built = []
    for label in [x for x in opened if tasks[x] == task]:
        try:
            with TransferCount() as transfers:
                model = build(opened.pop(label), data, args)
        except CompareError as error:
            problems.append(f"models=: {label}: {error}")
            continue
        size = count(model)
        built.append(BuiltModel(label, task, size.parameters, size.gflops, transfers.items))
    return built, data, problems


def open_checked(name: str) -> Any:
    """Return the host's model object for a YAML or a checkpoint.

    Raises:
        CompareError: If there is no such file, or if the host cannot open it.
    """
    if name.endswith(".pt") and is_missing(name):
        raise CompareError(f"models=: there is no checkpoint {name}")
    try:
        if not name.endswith(".pt"):
            find(name)
        with quiet():
            return open_model(name)
    except Exception as error:  # the host raises many types for a user's file
        raise CompareError(f"models=: {name}: {_reason(error)}") from error


def build(opened: Any, data: Dataset, args: Any) -> Any:
    """Build a model as the host's trainer does, with the classes of the data and the pretrained weights.

    Args:
        opened: Model object of the host.
        data: The data.
        args: Arguments of the host's `train`.

    Raises:
        CompareError: If the model cannot be built, or if the weights do not fit.
    """
    try:
        trainer = object.__new__(opened._smart_load("trainer"))  # without its setup, which writes files
        trainer.data, trainer.args, trainer.resume, trainer.callbacks = data.content, args, False, defaultdict(list)
        with quiet():
            weights = opened.model if opened.ckpt and args.pretrained is not False else None
            if isinstance(args.pretrained, str):
                weights = open_model(args.pretrained).model
            return trainer.get_model(cfg=opened.model.yaml, weights=weights, verbose=False)
    except Exception as error:  # the host raises many types for a user's file
        raise CompareError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """Return one line for an error, without the type for errors of this package."""
    line = first_line(error)
    known = isinstance(error, (GraftError, HostError, RowError, WeightsError)) or line == type(error).__name__
    return line if known else f"{type(error).__name__}: {line}"
