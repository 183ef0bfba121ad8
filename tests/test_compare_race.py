"""Comparisons of many variants: simultaneous intervals, the race within a budget, and the leaderboard."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from test_compare import compared, finish, finished

from yolo_coordbifpn.commands import main
from yolo_coordbifpn.commands.scenes import write_scenes
from yolo_coordbifpn.compare import session
from yolo_coordbifpn.compare.plan import Plan, Run
from yolo_coordbifpn.compare.race import race, race_of
from yolo_coordbifpn.compare.report import write_report
from yolo_coordbifpn.compare.rounds import Clock, rounds
from yolo_coordbifpn.compare.simultaneous import Scores, behind_best, critical_value, differences
from yolo_coordbifpn.compare.statistics import difference

LABELS = ("base", "good", "close", "bad")
SEEDS = (4, 0, 7, 1, 2)
GAINS = {"base": 0.0, "good": 0.05, "close": 0.049, "bad": -0.05}  # against the first model


def score(label: str, seed: int) -> float:
    """Return a made-up metric: a gain, an effect of the seed, and a little noise."""
    return (
        0.5
        + GAINS[label]
        + 0.1 * math.sin(seed)
        + 0.003 * math.sin(13 * seed * seed + 5 * LABELS.index(label) * (seed + 2))
    )


def scores(count: int = len(SEEDS), **counts: int) -> dict[str, dict[int, float]]:
    """Make the metric of all models: each has the first `count` seeds unless `counts` says otherwise."""
    return {x: {seed: score(x, seed) for seed in SEEDS[: counts.get(x, count)]} for x in LABELS}


def layouts(number: int, models: int, seeds: int) -> list[Scores]:
    """Draw data of equal models: an effect of each seed that is larger than the noise."""
    random = np.random.default_rng(0)
    tables = random.normal(size=(number, models, seeds)) + 3 * random.normal(size=(number, 1, seeds))
    return [{str(k): dict(enumerate(row.tolist())) for k, row in enumerate(table)} for table in tables]


# Statistics -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sides", "freedom", "table"),
    [
        (2, 5, (2.57, 3.03, 3.29, 3.48, 3.62, 3.73, 3.82, 3.90, 3.97)),
        (2, 10, (2.23, 2.57, 2.76, 2.89, 2.99, 3.07, 3.14, 3.19, 3.24)),
        (2, 20, (2.09, 2.38, 2.54, 2.65, 2.73, 2.80, 2.86, 2.90, 2.95)),
        (1, 10, (1.81, 2.15, 2.34, 2.47, 2.56, 2.64, 2.70, 2.76, 2.81)),
        (1, 20, (1.72, 2.03, 2.19, 2.30, 2.39, 2.46, 2.51, 2.56, 2.60)),
    ],
)
def test_critical_values_are_dunnetts(sides: int, freedom: int, table: Sequence[float]) -> None:
    """One to nine comparisons have the critical values of Dunnett's tables (1955, 1964)."""
    found = [critical_value(count, freedom, sides) for count in range(1, 10)]
    assert found == pytest.approx(table, abs=0.006)


def test_critical_values_are_those_of_scipy() -> None:
    """For five treatments and a control without blocks, `scipy.stats.dunnett` has the same critical value."""
    samples = np.random.default_rng(0).normal(size=(6, 4))
    bounds = stats.dunnett(*samples[1:], control=samples[0], random_state=0).confidence_interval()
    error = math.sqrt(2 * samples.var(axis=1, ddof=1).mean() / 4)
    assert (bounds.high - bounds.low) / 2 / error == pytest.approx(np.full(5, critical_value(5, 18, 2)), rel=0.003)


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_one_variant_has_the_paired_t_interval(seeds: int) -> None:
    """With two models the blocks are pairs, so the interval is that of the paired t test."""
    for data in layouts(5, 2, seeds):
        found, paired = differences(data)["1"], difference(data["1"], data["0"])
        assert (found.mean, found.count) == (paired.mean, paired.count)
        assert (found.low, found.high) == pytest.approx((paired.low, paired.high), rel=1e-6)


def test_all_intervals_hold_together() -> None:
    """With four equal variants, all intervals contain 0 in 95 % of the data sets; unadjusted ones in far fewer."""
    data = layouts(1000, 5, 4)
    adjusted = [all(x.low <= 0 <= x.high for x in differences(d).values()) for d in data]
    single = [all((x := difference(d[k], d["0"])).low <= 0 <= x.high for k in list(d)[1:]) for d in data]
    assert 0.935 <= sum(adjusted) / len(data) <= 0.965
    assert sum(single) / len(data) < 0.9


def test_the_best_seldom_seems_worse() -> None:
    """With four equal variants, the comparison with the best calls each of them worse in at most 5 % of the data."""
    found = [behind_best(d, range(4))[1] for d in layouts(1000, 5, 4)]
    for label in ("1", "2", "3", "4"):
        assert 0.02 <= sum(label in x and x[label].high < 0 for x in found) / len(found) <= 0.065


def test_a_model_with_fewer_seeds_is_compared_over_its_own() -> None:
    """A dropped variant keeps the mean of its last seed; all intervals have the same variance of a single run."""
    found = differences(scores(bad=3))
    assert found["bad"].mean == differences(scores(3))["bad"].mean
    assert found["good"].mean == differences(scores())["good"].mean
    assert [found[x].count for x in LABELS[1:]] == [5, 5, 3]
    assert found["bad"].half / found["good"].half == pytest.approx(math.sqrt(5 / 3))


def test_intervals_hold_together_over_unequal_numbers_of_seeds() -> None:
    """With variants that were trained with 2 to 5 seeds, all intervals contain 0 in about 95 % of the data sets."""
    data = [{x: dict(list(y.items())[: max(2, 5 - int(x))]) for x, y in d.items()} for d in layouts(1000, 5, 5)]
    assert [len(x) for x in data[0].values()] == [5, 4, 3, 2, 2]
    held = [all(x.low <= 0 <= x.high for x in differences(d).values()) for d in data]
    assert 0.93 <= sum(held) / len(data) <= 0.965


# The race -------------------------------------------------------------------------------------------------------------


def test_who_is_dropped_and_when() -> None:
    """From the third seed on, a variant clearly below the best is dropped, a close one and the first model are not."""
    assert race(scores(), SEEDS, 2) == (["good", "close", "bad"], [])
    found = race(scores(), SEEDS, 5)
    assert [(x.label, x.seed) for x in found.drops] == [("bad", 7)]
    assert found.drops[0].best in found.racing == ["good", "close"]
    assert found.drops[0].gap.high < 0
    assert not found.won
    assert race(scores(bad=3), SEEDS, 5) == found  # results after its last seed do not matter


@pytest.mark.slow
def test_how_often_an_equal_variant_is_dropped() -> None:
    """Eight looks at ten seeds drop one of five equal variants in about 15 % of the races, as the module says."""
    races = [race(x, range(10), 10) for x in layouts(300, 6, 10)]
    assert 0.1 <= sum("1" in [x.label for x in r.drops] for r in races) / len(races) <= 0.2


def test_nothing_is_dropped_without_a_variance() -> None:
    """Equal differences at every seed are no evidence."""
    equal = {x: dict.fromkeys(SEEDS, GAINS[x]) for x in LABELS}
    assert race(equal, SEEDS, 5) == (["good", "close", "bad"], [])


def test_what_is_not_a_number_is_left_out(tmp_path: Path) -> None:
    """A run whose metric is not a number counts as one that has failed, and the report names it."""
    plan = planned(tmp_path / "x", 1000)
    for run in plan.runs:
        finish(run, math.nan if (run.label, run.seed) == ("close", SEEDS[1]) else score(run.label, run.seed))
    assert race_of(plan) == race({**(data := scores()), "close": without(data["close"], SEEDS[1])}, SEEDS, 5)
    write_report(plan)
    text = (plan.folder / "report.md").read_text(encoding="utf-8")
    assert f"Left out, since their mAP50-95 is not a number: close seed {SEEDS[1]}." in text
    assert "| good | 1 | 5 |" in text
    assert "nan" not in text.partition("## AP by")[0]


def without(data: Mapping[int, float], seed: int) -> dict[int, float]:
    """Return the scores without those of a seed."""
    return {k: v for k, v in data.items() if k != seed}


def test_an_incomplete_round_decides_nothing() -> None:
    """While a model lacks the third seed, nothing is dropped, whichever model it is."""
    for label in LABELS:
        assert race(scores(3, **{label: 2}), SEEDS, 5).drops == []
    assert len(race(scores(3), SEEDS, 5).drops) == 1


def test_a_failed_run_takes_its_variant_out() -> None:
    """If later seeds have results, a variant without one is not compared; with the result it is as if never missing."""
    data = scores()
    missing = data["close"].pop(SEEDS[1])
    found = race(data, SEEDS, 5)
    assert ("close" in found.racing, [x.label for x in found.drops]) == (False, ["bad"])
    data["close"][SEEDS[1]] = missing
    assert race(data, SEEDS, 5) == race(scores(), SEEDS, 5)


class FakeClock:
    """A clock that tests set."""

    seconds = 0.0


def planned(folder: Path, budget: int | None, seeds: tuple[int, ...] = SEEDS) -> Plan:
    """Start a plan of the made-up models."""
    plan = Plan(folder, tuple(f"{x}.yaml" for x in LABELS), LABELS, seeds, {"epochs": 2}, budget)
    plan.start()
    return plan


def carry_out(
    plan: Plan, clock: Any, failing: Callable[[Run], bool] = lambda run: False
) -> tuple[list[str], list[str]]:
    """Carry out the rounds with made-up results, a minute for each run; return the runs, and what was said."""
    failed: dict[Run, str] = {}
    said: list[str] = []
    started = []
    for runs in rounds(plan, clock, failed, said.append):
        for run in runs:
            started.append(f"{run.label} {run.seed}")
            clock.seconds += 60
            if failing(run):
                failed[run] = "no memory"
            else:
                finish(run, score(run.label, run.seed))
    return started, said


def test_a_race_goes_round_by_round(tmp_path: Path) -> None:
    """One seed for all models, then the next; a dropped variant gets no more, which is said once; no repetition."""
    plan = planned(tmp_path / "x", 1000)
    started, said = carry_out(plan, FakeClock())
    first = [f"{x} {seed}" for seed in SEEDS[:3] for x in LABELS]
    assert started == [*first, *(f"{x} {seed}" for seed in SEEDS[3:] for x in LABELS[:3])]
    assert len(said) == 1
    assert said[0].startswith("bad is dropped after seed 7: 0.0")
    assert carry_out(plan, FakeClock()) == ([], [])
    assert set(carry_out(planned(tmp_path / "x", None), FakeClock())[0]) == {"bad 1", "bad 2"}  # no budget, no race


def test_the_budget_ends_a_race_between_rounds(tmp_path: Path) -> None:
    """A round starts only if it is expected to end in time; with more time the race continues to the same end."""
    plan, clock = planned(tmp_path / "x", 14), FakeClock()
    started, said = carry_out(plan, clock)
    assert started == [f"{x} {seed}" for seed in SEEDS[:3] for x in LABELS]
    assert said[-1] == "seed 1 does not start: it would end after the budget of 14 min"
    assert carry_out(plan, clock)[0] == []
    carry_out(planned(tmp_path / "x", 15), clock)
    assert clock.seconds == 15 * 60
    carry_out(planned(tmp_path / "x", 1000), clock)
    carry_out(planned(tmp_path / "whole", 1000), FakeClock())
    grown, whole = (Plan.read(tmp_path / x) for x in ("x", "whole"))
    assert race_of(grown) == race_of(whole)
    assert {x["seed"] for x in grown.results_of("good")} == set(SEEDS)


def test_a_race_stops_anywhere_and_continues_alike(tmp_path: Path) -> None:
    """Stopped after any number of runs, and continued, it trains the same runs and drops the same variants."""
    whole, _ = carry_out(planned(tmp_path / "whole", 1000), FakeClock())
    for stop in range(1, len(whole), 3):
        plan = planned(tmp_path / str(stop), 1000)
        for run in plan.runs:
            if f"{run.label} {run.seed}" in whole[:stop]:
                finish(run, score(run.label, run.seed))
        assert carry_out(plan, FakeClock())[0] == whole[stop:]
        assert race_of(plan) == race_of(Plan.read(tmp_path / "whole"))


def test_a_failing_variant_does_not_stop_a_race(tmp_path: Path) -> None:
    """It gets no more seeds, the others go on; the same command tries it again, and catches up on its seeds."""
    plan = planned(tmp_path / "x", 1000)
    started, _ = carry_out(plan, FakeClock(), lambda run: run.label == "close" and run.seed == 0)
    assert [x for x in started if "close" in x] == ["close 4", "close 0"]
    assert "good 7" in started
    again = carry_out(plan, FakeClock())[0]
    assert again[:2] == ["close 0", "close 7"]
    assert again[2:] == [f"{x} {seed}" for seed in SEEDS[3:] for x in LABELS[:3]]
    assert [x.label for x in race_of(plan).drops] == ["bad"]


def test_a_race_ends_with_the_first_model(tmp_path: Path) -> None:
    """If a run of the first model fails, no further round is started, since nothing could be compared with it."""
    plan = planned(tmp_path / "x", 1000)
    started, _ = carry_out(plan, FakeClock(), lambda run: run.label == "base")
    assert started == [f"{x} 4" for x in LABELS]
    (plan.folder / "runs" / "base-seed4").mkdir()
    write_report(plan)
    text = (plan.folder / "report.md").read_text(encoding="utf-8")
    assert "End: a run of base has no result." in text
    assert "Missing: base seed 4." in text


def test_the_time_of_all_sessions_counts(tmp_path: Path) -> None:
    """The clock continues where the last session ended."""
    (tmp_path / "elapsed.json").write_text("3000.0")
    clock = Clock(tmp_path)
    assert clock.seconds >= 3000
    clock.tick()
    assert (tmp_path / "elapsed.json").read_text() == "3000.0"  # not at every tick
    clock.save()
    assert 3000 <= Clock(tmp_path).seconds < 3600


# Report ---------------------------------------------------------------------------------------------------------------


def row(text: str, label: str) -> list[str]:
    """Return the cells of a model in the first table of a report, the leaderboard."""
    line = next(x for x in text.partition("## Leaderboard")[2].splitlines() if x.startswith(f"| {label} |"))
    return [x.strip() for x in line.strip("|").split("|")]


def results(data: Mapping[str, Mapping[int, float]]) -> dict[str, list[float | None]]:
    """Return the metric of each model in the order of the seeds, None where it has none."""
    return {label: [values.get(seed) for seed in SEEDS] for label, values in data.items()}


def test_the_leaderboard_shows_the_race(tmp_path: Path) -> None:
    """Models by rank, with adjusted intervals; when and why a variant was dropped, in the report and in summary.csv."""
    plan = planned(tmp_path / "x", 60)
    finished(plan, results(scores(4, bad=3)))
    write_report(plan)
    text = (plan.folder / "report.md").read_text(encoding="utf-8")
    best = max(("good", "close"), key=lambda x: sum(score(x, seed) for seed in SEEDS[:4]))
    assert [row(text, x)[1:3] for x in (best, "base", "bad")] == [["1", "4"], ["3", "4"], ["4", "3"]]
    found = differences(scores(4, bad=3))["bad"]
    assert row(text, "bad")[4:6] == [f"{found.mean:+.4f}", f"{found.low:+.4f} ... {found.high:+.4f}"]
    reason = str(race_of(plan).drops[0])
    assert row(text, "bad")[-1] == reason
    assert row(text, "good")[-1] == ""
    assert "bad against base: dropped; mAP50-95 differs by" in text
    assert "no verdict on fewer than three seeds, nor on variants that the race dropped" in text
    assert "INCOMPLETE" not in text
    assert f"15 of at most 20 runs. Dropped: bad {reason}. End: the budget does not cover seed 2." in text
    assert "adjusted for 3 comparisons (Dunnett's test, seeds as blocks" in text
    assert "# mAP50-95 of 4 models, 3 to 4 seeds" in text
    with (plan.folder / "summary.csv").open(encoding="utf-8") as file:
        rows = {x["model"]: x for x in csv.DictReader(file) if x["metric"] == "mAP50-95"}
    assert (rows["bad"]["rank"], rows["bad"]["dropped"], rows["bad"]["verdict"]) == ("4", reason, "dropped")
    assert float(rows["bad"]["difference_low"]) == pytest.approx(found.low)


@pytest.mark.slow
def test_a_failed_run_of_a_race_is_missing(tmp_path: Path) -> None:
    """A run that was started and has no result makes the report incomplete; runs that were not started do not."""
    plan = planned(tmp_path / "x", 60)
    finished(plan, results(scores(3, close=2)))
    (plan.folder / "runs" / "close-seed7").mkdir()
    write_report(plan)
    text = (plan.folder / "report.md").read_text(encoding="utf-8")
    assert "INCOMPLETE: 11 of 20 runs are finished. Missing: close seed 7." in text
    assert "End: the budget does not cover seeds 1, 2." in text


# The command ----------------------------------------------------------------------------------------------------------


def test_a_race_from_the_command_to_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The session starts the rounds, says who is dropped, writes the report, and starts nothing the second time."""
    started: list[Run] = []

    def on_devices(plan: Plan, runs: list[Run], devices: object, done: Callable, tick: Callable, end: float) -> None:
        assert end < math.inf
        for run in runs:
            started.append(run)
            finish(run, score(run.label, run.seed))
            tick()
            done(run, "")

    monkeypatch.setattr(session, "on_devices", on_devices)
    monkeypatch.setattr(session, "_time_models", lambda *_: None)
    plan = planned(tmp_path / "x", 60)
    for _ in range(2):
        assert session.compare(plan, ["cpu"], "local") == 0
        assert len(started) == 18
    assert "bad is dropped after seed 7" in capsys.readouterr().err
    assert "End: all seeds are trained." in (plan.folder / "report.md").read_text(encoding="utf-8")
    assert (plan.folder / "elapsed.json").is_file()


@pytest.mark.parametrize("text", ["2", "h", "1h30", "0m", "1.5h", "30m1h"])
def test_bad_budgets(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A time of another form is refused, with the form."""
    assert main(["compare", "models=yolo11n", "data=coco8.yaml", "epochs=1", f"budget={text}"]) == 2
    assert f"budget= must be a time such as 2h, 90m or 1h30m, got '{text}'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_race(tmp_path: Path) -> None:
    """It says how many runs there are at most, how long they take, and when the budget ends; ten seeds by default."""
    data = write_scenes(tmp_path / "scenes", train=12, val=6, size=64, seed=0)
    words = [f"data={data}", "epochs=3", "imgsz=64", "batch=4", "devices=cpu", "budget=1h30m", "dry=True"]
    lines = compared(tmp_path, "models=yolo11n.yaml", *words).splitlines()
    assert lines[-2].startswith("at most 10 runs to train (1 models x 10 seeds): about ")
    assert lines[-1] == "budget: no run is started after 90 min, earlier sessions included"
