"""Names of metrics: the main metric, and the short form of each."""

from __future__ import annotations

from .plan import Plan

_MAIN = ("mAP50-95", "accuracy_top1", "mIoU", "delta1")  # by task; of these a model has one
_ERRORS = ("loss", "abs_rel", "rmse", "silog")


def main_metric(plan: Plan) -> str:
    """Return the host's name of the main metric: mAP50-95 (of masks or poses for their tasks), accuracy, mIoU, delta1.

    Args:
        plan: A plan with at least one result.
    """
    keys = list(plan.results[0]["metrics"])
    return ([k for k in keys if k.startswith(tuple(f"metrics/{x}" for x in _MAIN))] or keys)[-1]


def table_metrics(plan: Plan) -> list[str]:
    """Return the host's names of the metrics that the tables show: all but precision, recall and losses."""
    keys = [k for k in plan.results[0]["metrics"] if k.startswith("metrics/")]
    return [k for k in keys if "precision" not in k and "recall" not in k]


def larger_is_better(metric: str) -> bool:
    """Return whether a metric is better the larger it is; losses and errors of depth are not."""
    return not any(x in metric for x in _ERRORS)


def short_name(metric: str) -> str:
    """Return the short form of a metric's name: mAP50-95 for metrics/mAP50-95(B)."""
    return metric.removeprefix("metrics/").removesuffix("(B)")
