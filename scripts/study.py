"""Which blocks help, where in the model, at which learning rate, and on which data?

    python scripts/study.py weights=yolo11n.pt hituav=hituav/data.yaml bccd=bccd/data.yaml

Each run is one training by the host, carried out like a run of `yolo-coordbifpn compare`: runs of one seed see the same
images in the same order with the same augmentation, whatever the treatment. A finished run appends one row to the CSV;
runs in the CSV are not repeated, and an interrupted run continues.

out=      the CSV; default scripts/results/study.csv
folder=   the folder of the trainings; default runs/study
jobs=     runs at a time, one thread each; default 2
only=     the stages whose names start with this; default all
hours=    no run is started after this time; default 1000

A treatment says which blocks are put where (options of `yolo_coordbifpn.graft`), how they start beside pretrained
weights, and by which factor the learning rate of their parameters is multiplied. With a factor other than 1 the
parameters of the blocks have no weight decay. The starts are:

    gain       each block is the identity by a constant gain, our default
    open       the same, with the gates of CoordAtt at sigmoid(2) = 0.88 in place of 1/2
    residual   x + a * (f(x) - x) with a learnable a that starts at 0 (ReZero, Bachlechner et al., arXiv 2003.04887)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from csv_rows import append, read
from run_script import run_script
from study_plan import STAGES

from yolo_coordbifpn.commands import parse

DEFAULTS = {
    "weights": "yolo11n.pt",
    "hituav": "",
    "bccd": "",
    "out": "scripts/results/study.csv",
    "folder": "runs/study",
    "jobs": "2",
    "only": "",
    "hours": "1000",
}
FIELDS = (
    "stage", "data", "treatment", "seed", "mAP50", "mAP50-95", "AP small", "AP medium", "AP large", "model", "blocks",
    "start", "rate", "weights", "imgsz", "epochs", "parameters", "gflops", "seconds", "channel low", "channel high",
    "spread", "shares", "commit", "versions", "machine", "command",
)  # fmt: skip


def main(words: list[str]) -> None:
    """Do the runs that are missing."""
    options = parse(words, DEFAULTS)
    if not options["hituav"] and not options["bccd"]:
        sys.exit(__doc__)
    out, end = Path(options["out"]), time.monotonic() + 3600 * float(options["hours"])
    done = {(row["stage"], row["treatment"], row["seed"]) for row in read(out)}
    todo = [x for x in _runs(options) if x not in done]
    print(f"{len(done)} runs are in {out}, {len(todo)} are missing", flush=True)
    with ThreadPoolExecutor(int(options["jobs"])) as pool:
        try:
            for ended in as_completed([pool.submit(_subprocess, options, x, end) for x in todo]):
                row = ended.result()
                if row:
                    append(out, FIELDS, row)
                    print({k: row[k] for k in FIELDS[:6]}, flush=True)
        except KeyboardInterrupt:  # the runs have received it too; they continue with the next start
            pool.shutdown(cancel_futures=True)
            raise


def _runs(options: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield all runs as stage, treatment and seed: in each stage all treatments with the first seed, then the next."""
    for name, stage in STAGES.items():
        if name.startswith(options["only"]) and options[stage.data]:
            for seed in stage.seeds:
                again = stage.treatments if seed == stage.seeds[0] else stage.carried or stage.treatments
                yield from ((name, treatment, str(seed)) for treatment in again)


def _subprocess(options: dict[str, str], key: tuple[str, str, str], end: float) -> dict[str, Any]:
    """Do one run in a process of its own and return its row; an empty one if the time is over or the run failed."""
    if time.monotonic() > end:
        return {}
    folder = Path(options["folder"]) / "-".join(key)
    folder.mkdir(parents=True, exist_ok=True)
    words = [f"{k}={v}" for k, v in options.items()]
    with (folder / "log.txt").open("ab") as log:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("study_run.py")), *words, f"run={'/'.join(key)}"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    if done.returncode:
        print(f"{'/'.join(key)} failed, see {folder / 'log.txt'}", flush=True)
        return {}
    row: dict[str, Any] = json.loads((folder / "row.json").read_text(encoding="utf-8"))
    return row


if __name__ == "__main__":
    run_script(main)
