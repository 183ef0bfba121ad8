"""Fuzz the package: rows, model YAMLs, options and files, drawn by hypothesis, each case built and run.

    python scripts/fuzz.py cases=2000 seed=0 out=scripts/fuzz.csv

kinds=  rows      rows of the registered blocks, right, borderline and wrong, put into stock YAMLs
        yamls     stock and shipped YAMLs with rows deleted, doubled, swapped, shifted, arguments and keys changed
        grafts    graft() over such YAMLs, with right and wrong options
        files     the commands graft, graph and upgrade over damaged files, with right and wrong options
limit=  seconds that one case may compute; default 20

A case passes if the model is built and runs, plain and fused, with the same output; or if an error of this package
names the row; or if the error is the host's own: then the same YAML with the host's nearest rows in place of ours must
fail by the same kind of error. All else is a finding: a bare error of Python for a mistake in one of our rows, one that
only hands such an error on, a hang, a changed host. Findings are printed with the smallest YAML that hypothesis comes
to, and the exit status is 1.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import math
import re
import resource
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import ultralytics
import yaml
from fuzz_cases import SMALL, Base, Case, strategy
from fuzz_judge import BUILT, FINDING, OURS, THEIRS, Verdict, build_and_run, caught, judge, warm_up
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky
from torch import Tensor, nn
from ultralytics.nn import tasks
from ultralytics.utils import LOGGER

from yolo_coordbifpn.commands import parse
from yolo_coordbifpn.grafting.names import folder, stock

SHARES = {"rows": 0.45, "yamls": 0.35, "grafts": 0.12, "files": 0.08}
MEMORY = 8 * 2**30  # bytes of addresses, so that a layer of a billion channels is an error at once
SCALES = ([0.33, 0.125, 256], [0.33, 0.25, 512], [0.33, 0.25, 1024])  # depth, width, most channels; the first that runs
SIZES = (64, 128, 160)  # of the picture, in pixels


def load(pattern: str = "*.yaml") -> list[Base]:
    """Load the stock and the shipped YAMLs of a pattern, each at the smallest scale and picture at which it runs."""
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
        print(f"Left out, as they do not run at a small scale, or not on this host: {', '.join(rest)}", file=sys.stderr)
    return found


class Finding(Exception):  # noqa: N818
    """Tells hypothesis that a case failed."""


@dataclass
class Result:
    """What became of all cases of one kind."""

    counts: Counter[tuple[str, str]]  # outcome and type of the error
    findings: dict[tuple[str, str], tuple[Case, Verdict]]  # type of the error and where; the smallest case of each


def fuzz(kind: str, count: int, start: int, bases: Sequence[Base], limit: float = 20) -> Result:
    """Draw and judge cases of one kind; when a finding has been made small, the others are gone on with.

    Args:
        kind: One of `SHARES`.
        count: How many cases.
        start: Seed.
        bases: Model YAMLs to begin with.
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
    """Return a test of one case, which counts it; from the first new finding on, it only makes that one smaller."""
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


def main(options: dict[str, str]) -> int:
    """Fuzz all kinds, print the findings and the table, write the CSV."""
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
    write(results, start, Path(options["out"]))
    show(results, f"{len(bases)} model YAMLs, seed {start}")
    print(
        "A stock model is built as before, bit for bit." if same else "FINDING: a stock model is built otherwise now."
    )
    return 0 if same and not any(x.findings for x in results.values()) else 1


def write(results: dict[str, Result], start: int, file: Path) -> None:
    """Write how many cases of each kind came to what."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("ultralytics", "seed", "cases", "outcome", "error", "count"))
        for kind, result in results.items():
            for (outcome, error), count in sorted(result.counts.items()):
                writer.writerow((ultralytics.__version__, start, kind, outcome, error, count))


def show(results: dict[str, Result], title: str) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("cases", title=f"{title}, Ultralytics {ultralytics.__version__}, torch {torch.__version__}, CPU")
    for column in ("all", BUILT, OURS, THEIRS, FINDING):
        table.add_column(column, justify="right")
    for kind, result in [*results.items(), ("all", Result(sum((x.counts for x in results.values()), Counter()), {}))]:
        numbers = [sum(n for (x, _), n in result.counts.items() if x == y) for y in (BUILT, OURS, THEIRS, FINDING)]
        table.add_row(kind, str(sum(numbers)), *map(str, numbers))
    Console(width=100).print(table)


def weights() -> list[Tensor]:
    """Build a model without blocks and return its weights."""
    torch.manual_seed(0)
    model: nn.Module = tasks.DetectionModel(copy.deepcopy(SMALL.cfg), verbose=False)
    return [*model.state_dict().values()]


if __name__ == "__main__":
    defaults = {"cases": "2000", "seed": "0", "out": "fuzz.csv", "kinds": ",".join(SHARES), "limit": "20"}
    sys.exit(main(parse(sys.argv[1:], defaults)))
