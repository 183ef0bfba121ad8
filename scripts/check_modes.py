"""What works in the other modes of Ultralytics, with a stock model and with ours.

    python scripts/check_modes.py
    python scripts/check_modes.py checks=track,freeze jobs=1 out=scripts/results/modes.csv

Each mode runs in its own process, with yolo11n and yolo11n-coordatt-bifpn (yolo26n for end2end), from scratch, on
scenes drawn by code, on the CPU. Some modes need a package: `pip install lap onnx supervision tensorboard
nvidia-modelopt`. Each check prints a line, and the table follows. With out=, the rows are written as CSV; rows of other
checks in it are kept.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import csv_rows
from markdown_table import markdown
from mode_checks import CHECKS
from run_script import run_script
from side_by_side import FIELDS, MODELS, SIZE, answer, ask, chosen, fails

from yolo_coordbifpn.commands import parse, whole_number
from yolo_coordbifpn.commands.scenes import write_scenes

LIMIT = 580  # seconds, for one process


def compare(check: str, work: Path) -> dict[str, str]:
    """Try one mode with both models, each on its own data."""
    outcomes = {}
    for who, name in MODELS.items():
        data = write_scenes(work / check / who / "scenes", train=8, val=4, size=SIZE, seed=0)
        words = [__file__, "one", check, name, str(data)]
        outcomes[who], versions = ask(words, work / check / who, LIMIT, {})
    row = {"check": check, **outcomes, "versions": versions}
    print(f"{check:18}{row['stock']:50}{row['ours']}", flush=True)
    return row


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Write a table, with the docstring of each check for its name."""
    cells = [((CHECKS[x["check"]].__doc__ or "").rstrip("."), x["stock"], x["ours"]) for x in rows]
    return markdown(("mode", "stock", "ours"), cells)


def main(words: list[str]) -> int:
    """Run the checks; return 1 if one fails with our model alone."""
    if words[:1] == ["one"]:
        answer(functools.partial(CHECKS[words[1]], words[2], Path(words[3])))
        return 0
    options = parse(words, {"checks": ",".join(CHECKS), "jobs": "2", "out": ""})
    checks, jobs = chosen(options["checks"], CHECKS), whole_number(options, "jobs", 1)
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(jobs) as pool:
        rows = list(pool.map(lambda x: compare(x, Path(temporary)), checks))
    status = int(any(fails(x["ours"]) and not fails(x["stock"]) for x in rows))
    if options["out"]:
        out = Path(options["out"])
        known = {x["check"]: x for x in [*csv_rows.read(out), *rows]}
        rows = [known[x] for x in CHECKS if x in known]
        csv_rows.write(out, FIELDS, rows)
    print(f"\n{table(rows)}")
    return status


if __name__ == "__main__":
    run_script(main)
