"""The rounds of a race within its budget: one seed for all models in the race, then the next."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import mean

from ..files import write
from .plan import Plan, Run
from .race import race_of

_SAVED_EVERY = 10  # seconds


class Clock:
    """Wall-clock seconds of all sessions of a comparison, kept in `elapsed.json` in its folder.

    A session that is killed loses at most ten seconds.
    """

    def __init__(self, folder: Path) -> None:
        """Continue from the sessions before."""
        self._file = folder / "elapsed.json"
        self._earlier = float(json.loads(self._file.read_text())) if self._file.is_file() else 0.0
        self._start = time.monotonic()
        self._saved = self._earlier

    @property
    def seconds(self) -> float:
        """Return the seconds until now."""
        return self._earlier + time.monotonic() - self._start

    def deadline(self, minutes: int | None) -> float:
        """Return when a budget ends, as `time.time` counts; infinity without a budget."""
        return math.inf if minutes is None else time.time() + 60 * minutes - self.seconds

    def tick(self) -> None:
        """Save the seconds from time to time."""
        if self.seconds - self._saved > _SAVED_EVERY:
            self.save()

    def save(self) -> None:
        """Save the seconds."""
        self._saved = self.seconds
        write(self._file, json.dumps(round(self._saved, 1)))


def rounds(plan: Plan, clock: Clock, failed: Mapping[Run, str], say: Callable[[str], None]) -> Iterator[list[Run]]:
    """Yield the missing runs of each round, until the race is won or the budget does not allow another round.

    Without a budget, all missing runs are one round.

    Args:
        plan: The plan.
        clock: The clock that the budget is compared with.
        failed: The runs that have failed in this session, which grows between the rounds. Their models get no more
            seeds in this session.
        say: Called with a line for each variant that is dropped, and if the budget ends the race.
    """
    if plan.budget is None:
        if missing := [x for x in plan.runs if x.result is None]:
            yield missing
        return
    known = set(race_of(plan).drops)
    for number in range(len(plan.seeds) + 1):
        state = race_of(plan, number)
        for drop in state.drops:
            if drop not in known:
                say(f"{drop.label} is dropped {drop}")
        known.update(state.drops)
        models = {plan.labels[0], *state.racing} - {x.label for x in failed}
        if state.won or number == len(plan.seeds) or plan.labels[0] not in models:
            return
        seed = plan.seeds[number]
        missing = [x for x in plan.runs if x.seed == seed and x.label in models and x.result is None]
        if missing and clock.seconds + expected_seconds(plan, missing, clock.seconds) > 60 * plan.budget:
            say(f"seed {seed} does not start: it would end after the budget of {plan.budget} min")
            return
        if missing:
            yield missing


def expected_seconds(plan: Plan, runs: list[Run], elapsed: float) -> float:
    """Estimate how long some runs take, from the time that the finished ones took.

    The time is proportional to the training seconds of the models, so it includes validation, and it depends on how
    many runs there are at a time. A model without a result counts as the mean of the others.

    Args:
        plan: The plan; without any result, the estimate is 0.
        runs: The runs.
        elapsed: Seconds that the finished runs took.
    """
    by_model: dict[str, list[float]] = defaultdict(list)
    for result in plan.results:
        by_model[result["model"]].append(result["train_seconds"])
    finished = [x for seconds in by_model.values() for x in seconds]
    if not finished:
        return 0.0
    return elapsed * sum(mean(by_model.get(x.label, finished)) for x in runs) / sum(finished)
