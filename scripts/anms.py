"""Measure fixed, soft and adaptive NMS on several data sets, and draw and keep what `yolo-coordbifpn nms` finds.

    python scripts/anms.py sets=crowd:crowd/best.pt:crowd/data.yaml,bccd:bccd/best.pt:bccd/data.yaml imgsz=320

sets=   for each data set its name, a checkpoint with densities, and the data YAML, with colons between
imgsz=  image size in pixels; default 320
out=    the CSV; default scripts/results/anms.csv; the picture of the first set is beside it, in pictures/anms.png

The checkpoints are those of `yolo train model=yolo11n-anms.yaml pretrained=yolo11n.pt`. The crowd is made by
crowd_cells.py.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from csv_rows import read, write
from markdown_table import markdown
from run_script import run_script

import yolo_coordbifpn
from yolo_coordbifpn.commands import UsageError, parse, whole_number
from yolo_coordbifpn.crowds.report import write_report
from yolo_coordbifpn.crowds.sweep import sweep

OPTIONS = {"sets": "", "imgsz": "320", "out": "scripts/results/anms.csv"}
SHOWN = (("fixed", "0.50"), ("fixed", "0.70"), ("adaptive", "0.50"))  # thresholds in the table beside the best


def main(words: list[str]) -> None:
    """Measure, and print the table."""
    options = parse(words, OPTIONS)
    sets = [x.split(":") for x in options["sets"].split(",")]
    if any(len(x) != 3 for x in sets):
        raise UsageError("sets= must be name:checkpoint:data.yaml, several with commas between.")
    yolo_coordbifpn.install()
    out, rows = Path(options["out"]), []
    pictures = out.parent / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for k, (name, model, data) in enumerate(sets):
            size = whole_number(options, "imgsz", 32)
            scores = sweep(model, data, imgsz=size, project=folder, workers=0, device="cpu", verbose=False)
            rows += [{"data": name, **x.row()} for x in scores]
            if not k:
                picture = write_report(scores, Path(folder) / name)[1]
                (pictures / "anms.png").write_bytes(picture.read_bytes())
    write(out, list(rows[0]), rows)
    print(table(read(out)))


def table(rows: list[dict[str, str]]) -> str:
    """Write the best threshold of each NMS on each data set, and some others; the best are marked."""
    lines = []
    for data in dict.fromkeys(row["data"] for row in rows):
        own = [row for row in rows if row["data"] == data]
        best = [
            max((x for x in own if x["NMS"] == kind), key=lambda x: float(x["mAP50-95"]))
            for kind in dict.fromkeys(x["NMS"] for x in own)
        ]
        for row in own:
            if row in best or (row["NMS"], row["threshold"]) in SHOWN:
                first, *others = row.values()
                lines.append([first, *(f"**{x}**" if row in best else x for x in others[:4]), *others[4:]])
    return markdown(list(rows[0]), lines, 7)


if __name__ == "__main__":
    run_script(main)
