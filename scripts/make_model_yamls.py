"""Make the shipped model YAMLs and their sizes from the stock YAMLs of the installed version of Ultralytics.

    python scripts/make_model_yamls.py           write all of model_yamls/, in about five minutes
    python scripts/make_model_yamls.py yolo12    only files whose names begin with yolo12
    python scripts/make_model_yamls.py yolov5-   only the files for the repository ultralytics/yolov5, in seconds

Every scale of every model is built and counted: leaf layers, parameters, GFLOPs at 640 px. A name without a file is
made when it is used, see `yolo_coordbifpn/patches/names.py`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import csv_rows
import make_tables
import ultralytics
from make_tables import FAMILIES
from ultralytics.nn import tasks

from yolo_coordbifpn.grafting.graft import graft_file, graft_text, summarize
from yolo_coordbifpn.grafting.names import canonical, fingerprint, split, stock
from yolo_coordbifpn.grafting.names import variants as every_variant
from yolo_coordbifpn.host.cost import Summary
from yolo_coordbifpn.patches.install import install

FOLDER = Path(__file__).resolve().parent.parent / "model_yamls"
VARIANTS = ("coordatt", "bifpn", "coordatt-bifpn")
FINE = ("dualpath", "p2", "coordatt-bifpn-p2")  # for detection with the families of TASKS
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
anchors: # of COCO, in pixels; autoanchor checks them against your data
  - [10, 13, 16, 30, 33, 23] # P3/8
  - [30, 61, 62, 45, 59, 119] # P4/16
  - [116, 90, 156, 198, 373, 326] # P5/32
"""
TASKS = {"yolov8", "yolo11", "yolo26"}  # families whose other tasks are shipped too
TITLES = {
    "coordatt": "Coordinate Attention at the end of the backbone's deepest stage",
    "bifpn": "BiFPN's weighted fusion in the neck",
    "dualpath": "BiFPN's weighted fusion of a semantic and a detail path with spatial attention",
    "p2": "a detection level at P2",
}
SOURCES = {
    "coordatt": "# Coordinate Attention: Hou, Zhou, Feng, CVPR 2021, https://arxiv.org/abs/2103.02907",
    "bifpn": "# BiFPN: Tan, Pang, Le, CVPR 2020, https://arxiv.org/abs/1911.09070",
    "dualpath": "# Spatial attention: Woo, Park, Lee, Kweon, ECCV 2018, https://arxiv.org/abs/1807.06521",
}
NAME = re.compile(r"(?P<family>yolov?\d+)(?P<size>[a-z]?)(?P<task>-seg|-pose|-obb|-cls)?")


def shipped_names() -> Iterator[str]:
    """Yield the name of each file to ship, from the stock models of this host."""
    for file in stock(tasks):
        match = NAME.fullmatch(file.stem)
        if not match or match["family"] not in FAMILIES or (match["task"] and match["family"] not in TASKS):
            continue
        for variant in VARIANTS:
            if match["task"] != "-cls" or variant == "coordatt":  # a classifier has no neck
                yield f"{file.stem}-{variant}.yaml"
        if match["family"] in TASKS and not match["task"]:
            yield from sorted(
                {canonical(f"{file.stem}-{variant}.yaml") for variant in FINE} - {x.name for x in stock(tasks)}
            )


def source(name: str) -> Path:
    """Return the stock file that a shipped file is made from."""
    stem, _ = split(name) or ("", None)
    return next(x for x in stock(tasks) if x.name == stem)


def header(name: str) -> str:
    """Write the comment at the head of a shipped file."""
    file = source(name)
    words = [x for x in TITLES if x in name.removeprefix(file.stem).removesuffix(".yaml").split("-")]
    version = SINCE[max((x for x in SINCE if name.startswith(x)), key=len)]
    lines = [
        "# yolo_coordbifpn, AGPL-3.0 License",
        "",
        f"# {file.stem} with {' and '.join(TITLES[x] for x in words)}",
        *(SOURCES[x] for x in SOURCES if x in words or (x == "bifpn" and "dualpath" in words)),
        f"# All other rows: {file.name} of Ultralytics {ultralytics.__version__}, AGPL-3.0",
        f"# Fingerprint of {file.name}: {fingerprint(file)}",
        "# Made by scripts/make_model_yamls.py",
        f"# Requires ultralytics>={version}",
    ]
    return "\n".join(lines)


def with_header(name: str, text: str) -> str:
    """Replace the comment of the host at the head of a file by ours."""
    body = text[re.search(r"^(?![#\s])", text, re.MULTILINE).start() :]  # type: ignore[union-attr]
    above = text[: len(text) - len(body)].rstrip("\n").rpartition("\n")[2]  # `# Parameters`, above the first key
    body = re.sub(r"(?m)^(scales: # model compound scaling constants).*$", r"\1", body)
    return f"{header(name)}\n\n{above}\n{body}"


def make(name: str) -> tuple[str, dict[str, tuple[Summary, Summary]]]:
    """Make one file; return its text, and for each scale the sizes of the stock model and of ours."""
    _, variant = split(name) or ("", None)
    assert variant is not None
    text, _, sizes = graft_file(source(name), variant)
    return with_header(name, text), sizes


def make_rows(name: str) -> str:
    """Make the text of one file without counting its scales; their comments stay those of the stock model."""
    _, variant = split(name) or ("", None)
    assert variant is not None
    return with_header(name, graft_text(source(name), variant)[0])


def repository_files() -> Iterator[tuple[str, str]]:
    """Yield name and text of each file for the repository ultralytics/yolov5, from the shipped files of yolov5.

    There, each scale has its own file, channels have no limit, and the head has anchors. The rows are the same.
    """
    for variant in VARIANTS:
        text = (FOLDER / f"yolov5-{variant}.yaml").read_text(encoding="utf-8")
        scales = {m[1]: m for m in re.finditer(r"^  ([nslmx]): \[([\d.]+), ([\d.]+), 1024\].*\n", text, re.MULTILINE)}
        text = re.sub(r"^scales:.*\n(?:  .*\n)+", "{size}", text, flags=re.MULTILINE)
        text = text.replace("Detect, [nc]]", "Detect, [nc, anchors]]")
        text = re.sub(r"(?m)^# Fingerprint .*\n", "", text)
        text = re.sub(
            r"(?m)^# Requires .*$",
            "# For train.py of github.com/ultralytics/yolov5, see model_yamls/yolov5-repository/README.md",
            text,
        )
        text = text.replace("\n# yolov5 with", "\n# yolov5{scale} with")
        for scale, match in scales.items():
            depth = f"depth_multiple: {match[2]} # model depth multiple\n"
            size = f"{depth}width_multiple: {match[3]} # layer channel multiple\n{ANCHORS}"
            yield f"yolov5{scale}-{variant}.yaml", text.replace("{scale}", scale).replace("{size}", size)


def order(row: dict[str, str]) -> tuple[int, int, int, int]:
    """Sort models by family, task, scale and variant."""
    match = NAME.match(row["model"])
    assert match is not None
    tasks_ = (None, "-seg", "-pose", "-obb", "-cls")
    place = ("", *VARIANTS, *FINE).index(row["variant"])
    return FAMILIES.index(match["family"]), tasks_.index(match["task"]), "ntsmbclxe".index(match["size"]), place


def size_row(model: str, variant: str, size: Summary, stock_size: Summary) -> dict[str, str]:
    """Return the row of a model in a CSV of sizes."""
    return {
        "model": model,
        "variant": variant,
        "layers": str(size.layers),
        "parameters": str(size.parameters),
        "gflops": f"{size.gflops:.4f}",
        "stock_parameters": str(stock_size.parameters),
        "stock_gflops": f"{stock_size.gflops:.4f}",
    }


def variant_rows(stem: str = "yolo11n") -> list[dict[str, str]]:
    """Return the sizes of a stock model and of every variant of it, with or without a file."""
    base = summarize(f"{stem}.yaml")
    sizes = {variant: summarize(f"{stem}-{variant}.yaml") for variant in every_variant()}
    return [size_row(stem, "", base, base), *(size_row(f"{stem}-{k}", k, x, base) for k, x in sizes.items())]


def main(prefix: str) -> None:
    """Write the files, the CSVs of sizes and the pages that show them."""
    install()
    numbers = FOLDER / "sizes.csv"
    known = {row["model"]: row for row in csv_rows.read(numbers)}
    for name in shipped_names():
        if not name.startswith(prefix):
            continue
        text, sizes = make(name)
        (FOLDER / name).write_text(text, encoding="utf-8")
        stem = source(name).stem
        for scale, (before, after) in sizes.items():
            model, base = (re.sub(r"^(yolov?\d+)(?=-|$)", rf"\g<1>{scale}", x) for x in (Path(name).stem, stem))
            known[base] = size_row(base, "", before, before)
            known[model] = size_row(model, Path(name).stem.removeprefix(f"{stem}-"), after, before)
        print(name, flush=True)
    REPOSITORY.mkdir(exist_ok=True)
    for name, text in repository_files():
        (REPOSITORY / name).write_text(text, encoding="utf-8")
    names = set(shipped_names())
    for old in FOLDER.glob("*.yaml"):
        if old.name not in names:
            old.unlink()
    for file, rows in ((numbers, sorted(known.values(), key=order)), (FOLDER / "variants.csv", variant_rows())):
        csv_rows.write(file, list(rows[0]), rows)
    make_tables.main([])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
