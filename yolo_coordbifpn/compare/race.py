"""The decisions of a race: which variants get no more seeds. They follow from the results alone.

A variant is dropped when the comparison with the best (Hsu) shows that it is not the best. The comparison is adjusted
for the number of variants in the race, but not for being repeated after every seed: among equal variants, each is
dropped within ten seeds with a probability of 14 % (two variants) to 17 % (twenty), and of about 25 % if its runs vary
twice as much as those of the others.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

from .metrics import main_metric
from .plan import Plan
from .simultaneous import Scores, behind_best
from .statistics import LEAST_SEEDS, Interval, verdict


class Drop(NamedTuple):
    """A variant that gets no more seeds.

    Attributes:
        label: The variant.
        seed: Its last seed.
        best: The best variant after that seed.
        gap: Interval of its difference from the best variant, see `behind_best`.
    """

    label: str
    seed: int
    best: str
    gap: Interval

    def __str__(self) -> str:
        """Return when it was dropped, and why."""
        return f"after seed {self.seed}: {-self.gap.high:.4f} to {-self.gap.low:.4f} below {self.best}"


class Race(NamedTuple):
    """The state of a race after some rounds.

    Attributes:
        racing: The variants that get the next seed.
        drops: The variants that were dropped, in the order of the rounds.
    """

    racing: list[str]
    drops: list[Drop]

    @property
    def won(self) -> bool:
        """Return whether every variant but one has been dropped."""
        return len(self.racing) == 1 and bool(self.drops)


def race(scores: Scores, seeds: Sequence[int], rounds: int) -> Race:
    """Replay the rounds of a race, one seed each, and decide after each from the third on.

    A round is complete when all models in the race have a result, or when one has a result of a later seed: then the
    missing runs have failed, and their variants leave the race until they have these results. No round after an
    incomplete one is considered, and none after one that the first model has failed.

    Args:
        scores: The main metric by model and seed; the first model is never dropped.
        seeds: All seeds of the plan, in its order.
        rounds: How many rounds to replay.
    """
    base, *racing = scores
    drops: list[Drop] = []
    for number, seed in enumerate(seeds[:rounds], 1):
        finished = {x for x in (base, *racing) if seed in scores[x]}
        later = any(scores[x].keys() & set(seeds[number:]) for x in (base, *racing))
        if base not in finished or (len(finished) <= len(racing) and not later):
            break
        racing = [x for x in racing if x in finished]
        if number >= LEAST_SEEDS and len(racing) > 1:
            best, gaps = behind_best({x: scores[x] for x in (base, *racing)}, seeds[:number])
            worse = [x for x, gap in gaps.items() if verdict(gap) == "worse"]
            drops += [Drop(x, seed, best, gaps[x]) for x in worse]
            racing = [x for x in racing if x not in worse]
    return Race(racing, drops)


def judged(label: str, found: Interval, dropped: Container[str], larger_is_better: bool = True) -> str:
    """Return the verdict on a model's difference from the first, `dropped` for a variant that a race dropped.

    It was dropped because its results were low, so an interval of these results would exclude 0 too often.
    """
    return "dropped" if label in dropped else verdict(found, larger_is_better)


def dropped_from(plan: Plan) -> dict[str, str]:
    """Return the variants that a race dropped, and when and why."""
    return {x.label: str(x) for x in race_of(plan).drops}


def race_of(plan: Plan, rounds: int | None = None) -> Race:
    """Replay the rounds of a plan, by default all of them; without a budget, nothing is dropped."""
    if plan.budget is None or not plan.results:
        return Race(list(plan.labels[1:]), [])
    return race(plan.scores(main_metric(plan)), plan.seeds, len(plan.seeds) if rounds is None else rounds)
