"""Rebuild every table of the Markdown pages from the CSV that holds its numbers.

    python scripts/make_tables.py            write the pages
    python scripts/make_tables.py --check    write nothing; name the pages that are out of date, with exit status 1

A table stands between `<!-- table: NAME -->` and `<!-- end -->`, and so does a number in a sentence. `TABLES` has the
names. The numbers come from scripts/results and model_yamls/*.csv, which other scripts write.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anms
import benchmark_grid
import benchmark_nms
import benchmark_report
import check_exports
import check_hosts
import check_modes
import compare_starts
import fuzz_report
import int8_map
import study_report
import zoo
from benchmark_report import case_table
from csv_rows import read
from markdown_table import change, markdown, plus_minus, with_bounds
from study_plan import STAGES

from yolo_coordbifpn.blocks.declaration import declaration
from yolo_coordbifpn.compare.simultaneous import differences
from yolo_coordbifpn.compare.statistics import Interval, interval, verdict
from yolo_coordbifpn.registry.shipped import declared

ROOT = Path(__file__).resolve().parent.parent
RESULTS, YAMLS = ROOT / "scripts" / "results", ROOT / "model_yamls"
PAGES = [
    ROOT / "README.md",
    *sorted(x for y in ("scripts", "model_yamls", "yolo_coordbifpn") for x in (ROOT / y).rglob("README.md")),
    RESULTS / "study.md",
]
STOCK, OURS = "yolo11n", "yolo11n-coordatt-bifpn"
FAMILIES = ("yolov5", "yolov8", "yolov9", "yolov10", "yolo11", "yolo12", "yolo26")
COORDATT_NAMES = {
    "official": "paper's formula",
    "ours": "CoordAtt",
    "ours, fused": "CoordAtt, fused",
    "timm": "timm's CoordAttn",
    "one pixel": "CoordAtt on one pixel: the overhead of its calls",
}
FUSION_NAMES = {"ours": "BiFPN_Concat", "floor": "the multiplications alone"}
LATENCY = ("models eager", "models compiled", "models onnxruntime", "models openvino")
VERSIONS = {  # file and column of the versions that a measurement used
    "starts": ("compare_starts.csv", "setting"),
    "modes": ("modes.csv", "versions"),
    "exports": ("exports.csv", "versions"),
    "int8": ("int8_map.csv", "setting"),
    "zoo": ("zoo.csv", "versions"),
}
VARIANTS = {  # of the front page
    "coordatt": "`CoordAtt` before SPPF, at the end of the backbone",
    "bifpn": "each `Concat` of the neck becomes `BiFPN_Concat`; the middle levels also read the backbone",
    "coordatt-bifpn": "both",
    "bifpn-add": "the neck of the BiFPN paper: weighted sums, separable convolutions, three times",
    "cbam": "CBAM in place of CoordAtt",
    "se": "SE in place of CoordAtt",
    "fpn": "the top-down path of the neck alone",
    "dualpath": "`-bifpn`, with a path from P2, and spatial attention where the two paths of the neck meet",
    "p2": "detects at P2 too, for small objects",
    "anms": "predicts how crowded each object is, so that NMS keeps true neighbours",
    "grid": "images and tiles without objects are skipped after the backbone's P3",
}


GAINS_STAGE = "levels-hituav"
GAINS = {  # treatments of the study on the front page
    "coordatt-bifpn": "`-coordatt-bifpn`",
    "dualpath": "`-dualpath`",
    "p2": "`-p2`",
    "stock+96px": "no blocks, images of 416 px",
}


def variants() -> str:
    """Write what the variants of the front page change and cost."""
    sizes = {row["variant"]: row for row in read(YAMLS / "variants.csv")}
    rows = [(f"`-{name}`", what, *_more(sizes[name])) for name, what in VARIANTS.items()]
    return markdown(["name", "what it changes", "parameters", "GFLOPs"], rows, 2)


def variant_sizes() -> str:
    """Write the sizes of all variants of one model."""
    return _sizes(read(YAMLS / "variants.csv"))


def family_sizes(family: str) -> str:
    """Write the sizes of the shipped models of one family."""
    return _sizes(
        [row for row in read(YAMLS / "sizes.csv") if re.fullmatch(rf"{family}[a-z]?", row["model"].split("-")[0])]
    )


def _sizes(rows: list[dict[str, str]]) -> str:
    lines = []
    for row in rows:
        name = row["model"] if row["variant"] else f"**{row['model']}**"
        more = _more(row) if row["variant"] else ("", "")
        millions, gflops = f"{int(row['parameters']) / 1e6:.3f}", f"{float(row['gflops']):.2f}"
        lines.append([name, row["layers"], millions, more[0], gflops, more[1]])
    return markdown(["model", "layers", "params (M)", "", "GFLOPs", ""], lines, 5)


def _more(row: dict[str, str]) -> tuple[str, str]:
    """Return how many more parameters and GFLOPs a model has than the stock one, in percent."""
    more = [change(float(row[key]), float(row[f"stock_{key}"])) for key in ("parameters", "gflops")]
    return more[0], more[1]


def version() -> str:
    """Return the version of Ultralytics that the shipped YAMLs are made from."""
    header = (YAMLS / "yolo11-bifpn.yaml").read_text(encoding="utf-8")
    return re.findall(r"of Ultralytics ([\d.]+),", header)[0]


def bccd() -> str:
    """Write the comparison on BCCD."""
    times = {x["model"]: x for x in read(RESULTS / "compare_bccd" / "summary.csv") if x["metric"] == "latency_ms"}
    main, other = (_bccd_scores(metric) for metric in ("mAP50-95", "mAP50"))
    gains = differences(main)
    lines = []
    for model in main:
        means = [plus_minus(interval([*x[model].values()])) for x in (main, other)]
        gain = [with_bounds(gains[model]), verdict(gains[model])] if model in gains else ["", ""]
        lines.append([model, *means, *gain, f"{float(times[model]['mean']):.2f}"])
    head = ["model", "mAP50-95", "mAP50", "difference in mAP50-95", "verdict", "latency (ms)"]
    return markdown(head, lines, 5)


def bccd_gain(model: str, metric: str) -> str:
    """Return the difference of a model to the stock model on BCCD, with its interval."""
    return with_bounds(differences(_bccd_scores(metric))[model])


def _bccd_scores(metric: str) -> dict[str, dict[int, float]]:
    """Return a metric by model and seed."""
    scores: dict[str, dict[int, float]] = {}
    for row in read(RESULTS / "compare_bccd" / "runs.csv"):
        scores.setdefault(row["model"], {})[int(row["seed"])] = float(row[f"metrics/{metric}(B)"])
    return scores


def leaderboard() -> str:
    """Write the leaderboard of attention blocks on BCCD, the best first."""
    lines = []
    for row in read(RESULTS / "leaderboard_bccd" / "summary.csv"):
        if row["rank"]:
            low, high = (float(row[x] or "nan") for x in ("difference_low", "difference_high"))
            found = Interval(float(row["difference"] or "nan"), low, high, int(row["seeds"]))
            gain = with_bounds(found) if row["difference"] else ""
            line = [row["rank"], row["model"], row["seeds"], f"{float(row['mean']):.4f}", gain, row["dropped"]]
            lines.append((int(row["rank"]), line))
    head = ["rank", "model", "seeds", "mAP50-95", "difference from the stock model", "dropped"]
    return markdown(head, [line for _, line in sorted(lines)])


def latency() -> str:
    """Return the range of the latency of our fused model over that of the stock one, in all runtimes."""
    ratios = [row.ratio for row in _benchmark() if row.what == OURS and row.part in LATENCY]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def _benchmark() -> list[benchmark_report.Row]:
    return benchmark_report.read(RESULTS / "benchmark.csv")


def exports(*models: str) -> str:
    """Write a table for each stock model, beside ours, of their exports."""
    rows = read(RESULTS / "exports.csv")
    return "\n\n".join(check_exports.table(rows, model, f"{model}-coordatt-bifpn") for model in models)


def versions(file: str, column: str) -> str:
    """Return the settings in a column of a CSV, each once."""
    return ", ".join(dict.fromkeys(x for row in read(RESULTS / file) for x in row[column].split(", ") if x))


def forks() -> str:
    """Write the forks that were tried."""
    rows = []
    for row in read(RESULTS / "forks.csv"):
        name = f"{row['repository']} ({row['ultralytics']})" if row["ultralytics"] else row["repository"]
        commit = f"{row['commit']} ({row['date']})" if row["date"] else row["commit"]
        how = f"`{row['how']}`" if "=" in row["how"] else row["how"]
        rows.append((name, commit, how, row["tried"], row["environment"]))
    return markdown(["repository", "commit", "how", "what was tried", "what it needs for itself"], rows)


def blocks() -> str:
    """Write the blocks of the package: the row of each and what it does, from its docstring, and its paper."""
    rows = []
    for cls in declared():
        first, _, rest = inspect.getdoc(cls).partition("\n")  # type: ignore[union-attr]
        row = re.search(rf"`(\[[^`]*, {cls.__name__}, [^`]*)`", f"{first}\n{rest}")
        what = re.sub(r" Row of a model YAML:.*", "", first).rstrip(".")
        paper = declaration(cls).paper
        link = f"[arXiv {paper}](https://arxiv.org/abs/{paper})"
        rows.append((f"`{row[1]}`" if row else cls.__name__, what, link))
    return markdown(["row", "what it does", "source"], rows)


def gains() -> str:
    """Write what the changes of the front page gain on HIT-UAV."""
    found = differences(study_report.scores(read(RESULTS / "study.csv"), GAINS_STAGE, study_report.METRIC))
    costs = {x["treatment"]: x for x in read(RESULTS / "study_latency.csv") if x["imgsz"] == "320"}
    rows = [(what, with_bounds(found[name]), study_report.latency_of(costs[name])) for name, what in GAINS.items()]
    return markdown(["change to yolo11n", "gain in mAP50-95 (95 % interval)", "latency / yolo11n (quartiles)"], rows, 2)


def study(stage: str) -> str:
    """Write a stage of the study."""
    return study_report.table(read(RESULTS / "study.csv"), read(RESULTS / "study_latency.csv"), stage)


TABLES: dict[str, Callable[[], str]] = {
    "variants": variants,
    "variant-sizes": variant_sizes,
    **{f"sizes-{family}": partial(family_sizes, family) for family in FAMILIES},
    "version": version,
    "bccd": bccd,
    "gains": gains,
    "bccd-coordatt-map50": partial(bccd_gain, f"{STOCK}-coordatt", "mAP50"),
    "forks": forks,
    "leaderboard": leaderboard,
    "latency": latency,
    "benchmark-coordatt-p5": lambda: case_table(
        _benchmark(), "coordatt eval contiguous", "P5 yolo11n batch 1", COORDATT_NAMES
    ),
    "benchmark-fusion-p5": lambda: case_table(_benchmark(), "fusion eval", "P5 bottom-up batch 1", FUSION_NAMES),
    **{f"versions-{name}": partial(versions, *where) for name, where in VERSIONS.items()},
    "benchmark": lambda: benchmark_report.table(_benchmark()),
    "hosts": lambda: check_hosts.table(read(RESULTS / "hosts.csv")),
    "modes": lambda: check_modes.table(read(RESULTS / "modes.csv")),
    "exports": partial(exports, STOCK),
    "exports-heads": partial(exports, "yolov8n", "yolov8n-seg", "yolov8n-pose", "yolo26n"),
    "int8": lambda: int8_map.table(read(RESULTS / "int8_map.csv"), [STOCK, OURS]),
    "starts": lambda: compare_starts.table(read(RESULTS / "compare_starts.csv")),
    "blocks": blocks,
    "zoo": lambda: zoo.table(read(RESULTS / "zoo.csv")),
    "anms": lambda: anms.table(read(RESULTS / "anms.csv")),
    "benchmark-grid": lambda: benchmark_grid.table(read(RESULTS / "benchmark_grid.csv")),
    "benchmark-nms": lambda: benchmark_nms.table(read(RESULTS / "benchmark_nms.csv")),
    **{f"study-{stage}": partial(study, stage) for stage in STAGES},
    "study-chosen": lambda: study_report.chosen(read(RESULTS / "study.csv"), "screen-hituav"),
    "study-power": lambda: study_report.power(read(RESULTS / "study.csv")),
    "fuzz": lambda: fuzz_report.table(read(RESULTS / "fuzz.csv")),
}


def filled(page: str) -> str:
    """Return the text of a page with its tables made again."""

    def make(match: re.Match[str]) -> str:
        text = TABLES[match["name"]]()
        return f"{match['start']}\n{text}\n{match['end']}" if "\n" in text else f"{match['start']}{text}{match['end']}"

    return re.sub(r"(?P<start><!-- table: (?P<name>\S+) -->).*?(?P<end><!-- end -->)", make, page, flags=re.DOTALL)


def main(words: list[str]) -> int:
    """Write the pages, or check them."""
    if words not in ([], ["--check"]):
        sys.exit(__doc__)
    old = {page: page.read_text(encoding="utf-8") for page in PAGES}
    changed = {page: text for page in PAGES if (text := filled(old[page])) != old[page]}
    for page, text in changed.items():
        print(f"{page.relative_to(ROOT)}: {'out of date, run python scripts/make_tables.py' if words else 'written'}")
        if not words:
            page.write_text(text, encoding="utf-8")
    return int(bool(words and changed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
