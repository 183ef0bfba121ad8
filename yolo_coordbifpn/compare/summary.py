"""`summary.csv`: each metric of each model, with its interval, its difference from the first model, and its rank."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from .leaderboard import ranking
from .metrics import larger_is_better, main_metric, short_name
from .plan import Plan
from .race import dropped_from, judged
from .simultaneous import differences
from .statistics import Interval, interval

_COLUMNS = (
    *("model", "metric", "seeds", "mean", "low", "high"),
    *("difference", "difference_low", "difference_high", "verdict", "rank", "dropped"),
)


def summary(plan: Plan, latency: dict[str, Any]) -> str:
    """Return the text of the file, with a row for each model and metric and one for the latency of each model.

    Args:
        plan: A plan with at least one result.
        latency: Contents of `latency.json`, or an empty dict.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    scores = {metric: plan.scores(metric) for metric in plan.results[0]["metrics"]}
    found = {metric: differences(x) for metric, x in scores.items()}
    main = main_metric(plan)
    ranks = ranking(plan, found[main])
    drops = dropped_from(plan)
    for label in [x for x in plan.labels if scores[main][x]]:
        for metric in scores:
            mean = interval(list(scores[metric][label].values()))
            row = {"model": label, "metric": short_name(metric), "seeds": mean.count, **_numbers(mean)}
            if label in found[metric]:
                mean_difference, low, high = _numbers(found[metric][label]).values()
                row |= {"difference": mean_difference, "difference_low": low, "difference_high": high}
                row["verdict"] = judged(label, found[metric][label], drops, larger_is_better(metric))
            if metric == main:
                row |= {"rank": ranks.index(label) + 1 if label in ranks else "", "dropped": drops.get(label, "")}
            writer.writerow(row)
        time = latency.get("models", {}).get(label)
        if time:
            times = {"mean": time["median"], "low": time["low"], "high": time["high"]}
            writer.writerow({"model": label, "metric": "latency_ms", "seeds": 1, **times})
    return text.getvalue()


def _numbers(found: Interval) -> dict[str, Any]:
    """Return the mean and the bounds, as empty strings where they are not known."""
    numbers = {"mean": found.mean, "low": found.low, "high": found.high}
    return {key: "" if math.isnan(x) else x for key, x in numbers.items()}
