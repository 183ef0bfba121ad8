"""Names of metrics: the main metric, and the short form of each."""

from __future__ import annotations

from .plan import Plan


def main_metric(plan: Plan) -> str:
    """Return the host's name of the main metric: mAP50-95 (of masks or poses for their tasks), or accuracy.

    Args:
        plan: A plan with at least one result.
    """
    keys = list(plan.results[0]["metrics"])
    precision = [k for k in keys if k.startswith("metrics/mAP50-95")]
    return (precision or [k for k in keys if "accuracy_top1" in k] or keys)[-1]


def table_metrics(plan: Plan) -> list[str]:
    """Return the host's names of the metrics that the tables show: every mAP and accuracy."""
    return [k for k in plan.results[0]["metrics"] if "mAP" in k or "accuracy" in k]


def short_name(metric: str) -> str:
    """Return the short form of a metric's name: mAP50-95 for metrics/mAP50-95(B)."""
    return metric.removeprefix("metrics/").removesuffix("(B)")
