"""Make the shipped model YAMLs and their table from the stock YAMLs of the Ultralytics in hand.

    python scripts/make_model_yamls.py           write all of model_yamls/, in about five minutes
    python scripts/make_model_yamls.py yolo12    only the files of the stock models whose names begin so
    python scripts/make_model_yamls.py yolov5-   only those for the repository ultralytics/yolov5, in seconds

Every scale of every model is built and counted: leaf layers, parameters, parameters with a gradient, GFLOPs at 640 px.
Names that are not among the files are made when they are used, see `yolo_coordbifpn/patches/names.py`.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import ultralytics
from ultralytics.nn import tasks

from yolo_coordbifpn.grafting.graft import graft_file, graft_text
from yolo_coordbifpn.grafting.names import fingerprint, split, stock
from yolo_coordbifpn.host.cost import Summary

FOLDER = Path(__file__).resolve().parent.parent / "model_yamls"
VARIANTS = ("coordatt", "bifpn", "coordatt-bifpn")
SINCE = {  # first version of Ultralytics that has the stock model
    "yolov5": "8.0.55",
    "yolov8": "8.0.55",
    "yolov8-pose": "8.0.66",
    "yolov8-obb": "8.0.235",
    "yolov9c": "8.1.23",
    "yolov9e": "8.1.23",
    "yolov9": "8.2.35",
    "yolov10": "8.2.38",
    "yolo11": "8.3.0",
    "yolo12": "8.3.78",
    "yolo26": "8.4.0",
}
REPOSITORY = FOLDER / "yolov5-repository"  # for github.com/ultralytics/yolov5, whose YAMLs have another form
ANCHORS = """\
anchors: # of COCO, in pixels; the repository's autoanchor checks them against your data
  - [10, 13, 16, 30, 33, 23] # P3/8
  - [30, 61, 62, 45, 59, 119] # P4/16
  - [116, 90, 156, 198, 373, 326] # P5/32
"""
FAMILIES = ("yolov5", "yolov8", "yolov9", "yolov10", "yolo11", "yolo12", "yolo26")
TASKS = {"yolov8", "yolo11", "yolo26"}  # families of which the other tasks are shipped too
TITLES = {
    "coordatt": "Coordinate Attention at the end of the backbone's deepest stage",
    "bifpn": "BiFPN's weighted fusion in the neck",
}
SOURCES = {
    "coordatt": "# Coordinate Attention: Hou, Zhou, Feng, CVPR 2021, https://arxiv.org/abs/2103.02907",
    "bifpn": "# BiFPN: Tan, Pang, Le, CVPR 2020, https://arxiv.org/abs/1911.09070",
}
NAME = re.compile(r"(?P<family>yolov?\d+)(?P<size>[a-z]?)(?P<task>-seg|-pose|-obb|-cls)?")


def shipped_names() -> Iterator[str]:
    """Give the name of each file that is shipped, from the stock models that there are."""
    for file in stock(tasks):
        match = NAME.fullmatch(file.stem)
        if not match or match["family"] not in FAMILIES or (match["task"] and match["family"] not in TASKS):
            continue
        for variant in VARIANTS:
            if match["task"] != "-cls" or variant == "coordatt":  # a classifier has no neck
                yield f"{file.stem}-{variant}.yaml"


def source(name: str) -> Path:
    """Return the stock file that a shipped one is made from."""
    stem, _ = split(name) or ("", None)
    return next(x for x in stock(tasks) if x.name == stem)


def header(name: str) -> str:
    """Write the comment at the head of a shipped file."""
    file, words = source(name), [x for x in SOURCES if f"-{x}" in name]
    version = SINCE[max((x for x in SINCE if name.startswith(x)), key=len)]
    lines = [
        "# yolo_coordbifpn, AGPL-3.0 License",
        "",
        f"# {file.stem} with {' and '.join(TITLES[x] for x in words)}",
        *(SOURCES[x] for x in words),
        f"# All other rows: {file.name} of Ultralytics {ultralytics.__version__}, AGPL-3.0",
        f"# Fingerprint of {file.name}: {fingerprint(file)}",
        "# Made by scripts/make_model_yamls.py",
        f"# Requires ultralytics>={version}",
    ]
    return "\n".join(lines)


def with_header(name: str, text: str) -> str:
    """Put our comment in place of the host's at the head of a file."""
    body = text[re.search(r"^(?![#\s])", text, re.MULTILINE).start() :]  # type: ignore[union-attr]
    above = text[: len(text) - len(body)].rstrip("\n").rpartition("\n")[2]  # `# Parameters`, above the first key
    body = re.sub(r"(?m)^(scales: # model compound scaling constants).*$", r"\1", body)
    return f"{header(name)}\n\n{above}\n{body}"


def make(name: str) -> tuple[str, dict[str, tuple[Summary, Summary]]]:
    """Make one file; return its text, and for each scale the size of the stock model and of ours."""
    _, variant = split(name) or ("", None)
    assert variant is not None
    text, _, sizes = graft_file(source(name), variant)
    return with_header(name, text), sizes


def make_rows(name: str) -> str:
    """Make the text of one file without counting its scales, whose comments then are the stock model's."""
    _, variant = split(name) or ("", None)
    assert variant is not None
    return with_header(name, graft_text(source(name), variant)[0])


def repository_files() -> Iterator[tuple[str, str]]:
    """Give name and text of each file for the repository ultralytics/yolov5, from the shipped files of yolov5.

    There the scale is one of the file, with no limit of channels, and the head has anchors; the rows are the same.
    """
    for variant in VARIANTS:
        text = (FOLDER / f"yolov5-{variant}.yaml").read_text(encoding="utf-8")
        scales = {m[1]: m for m in re.finditer(r"^  ([nslmx]): \[([\d.]+), ([\d.]+), 1024\].*\n", text, re.MULTILINE)}
        text = re.sub(r"^scales:.*\n(?:  .*\n)+", "{size}", text, flags=re.MULTILINE)
        text = text.replace("Detect, [nc]]", "Detect, [nc, anchors]]")
        text = re.sub(r"(?m)^# Fingerprint .*\n", "", text)
        text = re.sub(
            r"(?m)^# Requires .*$", "# For train.py of github.com/ultralytics/yolov5, see README.md, In your fork", text
        )
        text = text.replace("\n# yolov5 with", "\n# yolov5{scale} with")
        for scale, match in scales.items():
            depth = f"depth_multiple: {match[2]} # model depth multiple\n"
            size = f"{depth}width_multiple: {match[3]} # layer channel multiple\n{ANCHORS}"
            yield f"yolov5{scale}-{variant}.yaml", text.replace("{scale}", scale).replace("{size}", size)


def table(rows: list[dict[str, str]]) -> str:
    """Write the page that says what each file and scale costs."""
    lines = [
        "# Model YAMLs",
        "",
        f"Made by `python scripts/make_model_yamls.py` from the stock YAMLs of Ultralytics {ultralytics.__version__}, "
        "numbers in `sizes.csv`.",
        "Leaf layers, parameters in millions, GFLOPs at 640 px, and what a model has more than the stock one above it.",
        "Every other stock model needs no file: its name with a variant behind it is enough, such as",
        "`yolo12n-pose-coordatt-bifpn.yaml` or `rtdetr-l-bifpn.yaml`.",
        "`yolov5-repository` holds the YOLOv5 models in the form that github.com/ultralytics/yolov5 reads.",
    ]
    family = ""
    for row in rows:
        if NAME.match(row["model"])["family"] != family:  # type: ignore[index]
            family = NAME.match(row["model"])["family"]  # type: ignore[index]
            lines += [
                "",
                f"## {family}",
                "",
                "| model | layers | params (M) | | GFLOPs | |",
                "|---|--:|--:|--:|--:|--:|",
            ]
        more = [
            ""
            if row["variant"] == ""
            else f"{float(row[key]) / float(row[f'stock_{key}']) - 1:+.2%}".replace("%", " %")
            for key in ("parameters", "gflops")
        ]
        name = row["model"] if row["variant"] else f"**{row['model']}**"
        lines.append(
            f"| {name} | {row['layers']} | {int(row['parameters']) / 1e6:.3f} | {more[0]} "
            f"| {float(row['gflops']):.2f} | {more[1]} |"
        )
    return "\n".join(lines) + "\n"


def order(row: dict[str, str]) -> tuple[int, int, int, int]:
    """Sort models by family, task, scale and variant."""
    match = NAME.match(row["model"])
    assert match is not None
    tasks_ = (None, "-seg", "-pose", "-obb", "-cls")
    place = ("", *VARIANTS).index(row["variant"])
    return FAMILIES.index(match["family"]), tasks_.index(match["task"]), "ntsmbclxe".index(match["size"]), place


def main(prefix: str) -> None:
    """Write the files, the numbers and the table."""
    numbers = FOLDER / "sizes.csv"
    known: dict[str, dict[str, str]] = {}
    if numbers.is_file():
        with numbers.open(encoding="utf-8", newline="") as file:
            known = {row["model"]: row for row in csv.DictReader(file)}
    for name in shipped_names():
        if not name.startswith(prefix):
            continue
        text, sizes = make(name)
        (FOLDER / name).write_text(text, encoding="utf-8")
        stem = source(name).stem
        for scale, (before, after) in sizes.items():
            for model, variant, size in (
                (stem, "", before),
                (name.removesuffix(".yaml"), name[len(stem) + 1 : -5], after),
            ):
                model = re.sub(r"^(yolov?\d+)(?=-|$)", rf"\g<1>{scale}", model)
                known[model] = {
                    "model": model,
                    "variant": variant,
                    "layers": str(size.layers),
                    "parameters": str(size.parameters),
                    "gflops": f"{size.gflops:.4f}",
                    "stock_parameters": str(before.parameters),
                    "stock_gflops": f"{before.gflops:.4f}",
                }
        print(name, flush=True)
    REPOSITORY.mkdir(exist_ok=True)
    for name, text in repository_files():
        (REPOSITORY / name).write_text(text, encoding="utf-8")
    names = set(shipped_names())
    for old in FOLDER.glob("*.yaml"):
        if old.name not in names:
            old.unlink()
    rows = sorted(known.values(), key=order)
    with numbers.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (FOLDER / "README.md").write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
