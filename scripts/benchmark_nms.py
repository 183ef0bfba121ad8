"""Time the host's NMS with and without densities, on predictions drawn by code.

    python scripts/benchmark_nms.py

rounds=  how often each is timed, in turn; default 30
out=     the CSV; default scripts/results/benchmark_nms.csv

The time is that of the process, on one thread, so that other work of the machine does not count; the median of the
rounds. Predictions are those of one image: for each object some boxes near it, and everywhere else scores below the
confidence. In the crowded cases a third of the candidates has a density above the threshold of 0.5, in the others none.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from csv_rows import read, write
from markdown_table import markdown
from run_script import run_script
from torch import Tensor

import yolo_coordbifpn
from yolo_coordbifpn.commands import parse, whole_number
from yolo_coordbifpn.patches.adaptive_nms import DENSITIES, host_nms

OPTIONS = {"rounds": "30", "out": "scripts/results/benchmark_nms.csv"}
FIELDS = ("case", "candidates", "kept", "kept, adaptive", "host (ms)", "ours (ms)", "ratio")
PREDICT, VAL = {"conf_thres": 0.25, "iou_thres": 0.5}, {"conf_thres": 0.001, "iou_thres": 0.5, "multi_label": True}
CASES = {  # objects, boxes of each, classes, anchor points, highest score elsewhere, crowded, options
    "predict, no crowd": (9, 10, 80, 8400, 0.001, False, PREDICT),
    "predict, crowded": (9, 10, 80, 8400, 0.001, True, PREDICT),
    "predict, many crowded objects": (60, 12, 80, 8400, 0.001, True, PREDICT),
    "val, 30,000 candidates near 100 objects": (100, 300, 3, 33600, 0.001, True, VAL),
    "val, 30,000 candidates, most of them noise": (100, 40, 3, 33600, 0.01, True, VAL),
}


def main(words: list[str]) -> None:
    """Time all cases and print the table."""
    options = parse(words, OPTIONS)
    rounds = whole_number(options, "rounds", 1)
    yolo_coordbifpn.install()
    import torchvision  # noqa: F401 - the host uses its NMS if it is loaded, as it is in val and predict
    import ultralytics.nn.tasks  # noqa: F401 - patched now

    torch.set_num_threads(1)
    rows = [measure(name, rounds) for name in CASES]
    write(Path(options["out"]), FIELDS, rows)
    print(table(read(Path(options["out"]))))


def measure(name: str, rounds: int) -> dict[str, object]:
    """Time one case."""
    objects, each, classes, anchors, highest, crowded, options = CASES[name]
    predictions, densities = draw(objects, each, classes, anchors, highest, crowded)
    nms = host_nms()
    given = {"host": predictions, "ours": predictions.clone()}
    setattr(given["ours"], DENSITIES, densities)
    found = {kind: len(nms(x, **options)[0]) for kind, x in given.items()}
    times: dict[str, list[float]] = {kind: [] for kind in given}
    for _ in range(rounds):
        for kind, x in given.items():
            times[kind].append(timed(lambda x=x: nms(x, **options)))
    host, ours = (1e3 * statistics.median(times[x]) for x in ("host", "ours"))
    scores = predictions[0, 4:]
    candidates = (scores if options is VAL else scores.amax(0)) > options["conf_thres"]
    figures = (min(int(candidates.sum()), 30000), found["host"], found["ours"])
    return dict(zip(FIELDS, (name, *figures, f"{host:.2f}", f"{ours:.2f}", f"{ours / host:.2f}")))


def draw(objects: int, each: int, classes: int, anchors: int, highest: float, crowded: bool) -> tuple[Tensor, Tensor]:
    """Draw predictions, shape (1, 4 + classes, anchors), and densities, shape (1, anchors)."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(1, 4 + classes, anchors, generator=g)
    x[:, :2] *= 640
    x[:, 2:4] = x[:, 2:4] * 60 + 20
    x[:, 4:] *= highest
    places = torch.randperm(anchors, generator=g)[: objects * each].view(objects, each)
    for own in places:
        centre, size = torch.rand(2, 1, generator=g) * 640, torch.rand(2, 1, generator=g) * 80 + 20
        x[0, :2, own] = centre + torch.randn(2, each, generator=g) * 0.05 * size
        x[0, 2:4, own] = size * (1 + 0.05 * torch.randn(2, each, generator=g))
        x[0, 4 + int(torch.randint(classes, (), generator=g)), own] = torch.rand(each, generator=g) * 0.7 + 0.25
    densities = torch.rand(1, anchors, generator=g) * 0.3
    if crowded:
        densities[0, places[::3].flatten()] = 0.6
    return x, densities


def timed(work: object) -> float:
    """Return the seconds of this process that a function takes."""
    start = time.process_time()
    work()  # type: ignore[operator]
    return time.process_time() - start


def table(rows: list[dict[str, str]]) -> str:
    """Write the table."""
    return markdown(FIELDS, [list(row.values()) for row in rows], 6)


if __name__ == "__main__":
    run_script(main)
