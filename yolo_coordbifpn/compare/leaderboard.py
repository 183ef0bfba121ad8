"""The leaderboard: all models, the best first, and which of them a race dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .formats import Table
from .metrics import main_metric, short_name
from .plan import Plan
from .race import dropped_from
from .simultaneous import differences
from .statistics import Interval, interval
from .tables import bounds, latency_cell, parameters_cell, simultaneous_note


def ranking(plan: Plan, found: Mapping[str, Interval]) -> list[str]:
    """Return the first model and those that share a seed with it, sorted with the best first.

    They are sorted by the difference from the first model, which is paired by seed. After a race, the means are over
    different seeds and could not be compared.

    Args:
        plan: The plan.
        found: Differences of the main metric, see `differences`.
    """
    if not found:
        return []
    gain = {plan.labels[0]: 0.0, **{label: x.mean for label, x in found.items()}}
    return sorted(gain, key=gain.__getitem__, reverse=True)


def leaderboard_table(plan: Plan, latency: dict[str, Any]) -> Table | None:
    """Make the table of the models by rank; None for fewer than three models, or if none shares a seed with the first.

    Args:
        plan: A plan with at least one result.
        latency: Contents of `latency.json`, or an empty dict.
    """
    metric, base = main_metric(plan), plan.labels[0]
    scores = plan.scores(metric)
    found = differences(scores)
    if len(plan.labels) < 3 or not found:
        return None
    drops = dropped_from(plan)
    header = ["model", "rank", "seeds", short_name(metric), f"difference from {base}", "95 % interval"]
    table = Table(
        "Leaderboard",
        [*header, "params (M)", "latency (ms)", *(["dropped"] if drops else [])],
        note=f"Sorted by the difference, which is paired by seed. {simultaneous_note(plan)}",
    )
    if drops:
        table.note += (
            " Dropped: the 95 % interval of the difference from the best variant (Hsu's comparison with the best among "
            "the variants in the race) was below 0. It is not adjusted for being computed after every seed."
        )
    for rank, label in enumerate(ranking(plan, found), 1):
        values = interval(list(scores[label].values()))
        change = [f"{found[label].mean:+.4f}", bounds(found[label])] if label in found else ["", ""]
        costs = [parameters_cell(plan.results_of(label)[0]), latency_cell(latency, label)]
        row = [label, str(rank), str(values.count), f"{values.mean:.4f}", *change, *costs]
        table.rows.append([*row, *([drops.get(label, "")] if drops else [])])
    return table
