"""Fuzz the package with rows, model YAMLs, options and files drawn by hypothesis; each case is built and run.

    python scripts/fuzz.py cases=2000 seed=0 out=scripts/results/fuzz.csv

kinds=  rows      valid, borderline and wrong rows of the registered blocks, put into stock YAMLs
        yamls     stock and shipped YAMLs with rows deleted, doubled, swapped or shifted, arguments and keys changed
        grafts    graft() on such YAMLs, with valid and wrong options
        files     the commands graft, graph and upgrade on damaged files, with valid and wrong options
limit=  seconds of computing for one case; default 20

A case passes in three ways: the model is built and runs with the same output plain and fused; an error of this package
names the row; or the error is the host's own, which means that the same YAML with the host's nearest rows in place of
ours fails with the same kind of error. Anything else is a finding: a bare error of Python for a mistake in one of our
rows, an error that only passes such an error on, a hang, a changed host. Findings are printed with the smallest YAML
that hypothesis finds, and the exit status is 1.
"""

from __future__ import annotations

import contextlib
import copy
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import csv_rows
import torch
import ultralytics
import yaml
from fuzz_cases import SMALL, Base, Case, strategy
from fuzz_judge import Verdict, judge
from fuzz_report import FIELDS, FINDING, table
from fuzz_run import build_and_run, caught, warm_up
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky
from run_script import run_script
from torch import Tensor, nn
from ultralytics.nn import tasks
from ultralytics.utils import LOGGER

from yolo_coordbifpn.commands import parse
from yolo_coordbifpn.grafting.names import folder, stock

SHARES = {"rows": 0.45, "yamls": 0.35, "grafts": 0.12, "files": 0.08}
OPTIONS = {
    "cases": "2000",
    "seed": "0",
    "out": "scripts/results/fuzz.csv",
    "kinds": ",".join(SHARES),
    "limit": "20",
}
MEMORY = 8 * 2**30  # bytes of address space, so that a layer of a billion channels is an error at once
SCALES = (
    [0.33, 0.125, 256],
    [0.33, 0.25, 512],
    [0.33, 0.25, 1024],
)  # depth, width, most channels; the first that runs is used
SIZES = (64, 128, 160)  # of the image, in pixels


def load(pattern: str = "*.yaml") -> list[Base]:
    """Load the stock and shipped YAMLs of a pattern, each at the smallest scale and image size at which it runs."""
    found, rest = [SMALL], []
    for file in [*stock(tasks), *sorted(folder().glob("*.yaml"))]:
        text = file.read_text(encoding="utf-8")
        if not file.match(pattern) or "TorchVision" in text:  # these download weights
            continue
        text = re.sub(r"^scales:.*\n(?:  .*\n)+", "scales:\n  n: {scale}\n", text, flags=re.MULTILINE)
        if "{scale}" not in text:
            text = text.replace("backbone:", "scales:\n  n: {scale}\n\nbackbone:", 1)
        tries = [(text.replace("{scale}", str(scale)), size) for scale in SCALES for size in SIZES]
        bases = (Base(file.name, {**yaml.safe_load(x), "scale": "n"}, size, x) for x, size in tries)
        runs = (x for x in bases if caught(lambda x=x: build_and_run(x.cfg, x.size), 20) is None)  # type: ignore[misc]
        base = next(runs, None)
        if base is None:
            rest.append(file.name)
        else:
            found.append(base)
    if rest:
        print(f"Skipped, because they do not run at a small scale or on this host: {', '.join(rest)}", file=sys.stderr)
    return found


class Finding(Exception):  # noqa: N818
    """Tells hypothesis that a case failed."""


@dataclass
class Result:
    """The outcomes of all cases of one kind."""

    counts: Counter[tuple[str, str]]  # outcome and type of the error
    findings: dict[tuple[str, str], tuple[Case, Verdict]]  # by type and place of the error: its smallest case


def fuzz(kind: str, count: int, start: int, bases: Sequence[Base], limit: float = 20) -> Result:
    """Draw and judge cases of one kind; after a finding has been made small, drawing continues.

    Args:
        kind: One of `SHARES`.
        count: How many cases.
        start: Seed.
        bases: Model YAMLs to start from.
        limit: Seconds for one case.
    """
    warm_up()
    result, rounds = Result(Counter(), {}), 0
    while (left := count - result.counts.total()) > 0 and rounds < 100:
        checks = settings(
            max_examples=left,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        )
        with contextlib.suppress(Finding, Flaky):
            seed(start + rounds)(checks(given(strategy(kind, bases))(_check(result, limit))))()
        rounds += 1
    return result


def _check(result: Result, limit: float) -> Callable[[Case], None]:
    """Return a test that counts a case; from its first new finding on, hypothesis only makes that one smaller."""
    found: list[tuple[str, str]] = []

    def check(case: Case) -> None:
        verdict = judge(case, limit)
        key = (verdict.error, verdict.where)
        if not found:
            result.counts[verdict.outcome, verdict.error] += 1
            if verdict.outcome == FINDING and key not in result.findings:
                found.append(key)
        if verdict.outcome == FINDING and key in found:
            result.findings[key] = (case, verdict)
            raise Finding

    return check


def main(words: list[str]) -> int:
    """Fuzz all kinds, print the findings and the table, write the CSV."""
    options = parse(words, OPTIONS)
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    LOGGER.setLevel("CRITICAL")
    torch.set_num_threads(1)
    kinds = options["kinds"].split(",")
    total, start, limit = int(options["cases"]), int(options["seed"]), float(options["limit"])
    before, bases = weights(), load()
    share = sum(SHARES[x] for x in kinds)
    results = {x: fuzz(x, math.ceil(total * SHARES[x] / share), start, bases, limit) for x in kinds}
    same = all(torch.equal(x, y) for x, y in zip(before, weights()))
    for case, verdict in (x for result in results.values() for x in result.findings.values()):
        print(f"\n{'-' * 100}\n{case}\n\n{verdict.error} in {verdict.where}\n{verdict.detail}")
    rows = rows_of(results, start)
    csv_rows.write(Path(options["out"]), FIELDS, rows)
    versions = f"Ultralytics {ultralytics.__version__}, torch {torch.__version__}, CPU"
    print(f"\n{len(bases)} model YAMLs, seed {start}, {versions}")
    print(f"\n{table(rows)}\n")
    print(
        "A stock model is built as before, bit for bit." if same else "FINDING: a stock model is now built differently."
    )
    return 0 if same and not any(x.findings for x in results.values()) else 1


def rows_of(results: dict[str, Result], start: int) -> list[dict[str, object]]:
    """Return how many cases of each kind had each outcome, as rows of the CSV."""
    return [
        dict(zip(FIELDS, (ultralytics.__version__, start, kind, outcome, error, count)))
        for kind, result in results.items()
        for (outcome, error), count in sorted(result.counts.items())
    ]


def weights() -> list[Tensor]:
    """Build a model without blocks and return its weights."""
    torch.manual_seed(0)
    model: nn.Module = tasks.DetectionModel(copy.deepcopy(SMALL.cfg), verbose=False)
    return [*model.state_dict().values()]


if __name__ == "__main__":
    run_script(main)
