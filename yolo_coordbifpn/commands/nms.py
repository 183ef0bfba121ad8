"""Measure NMS in crowds: fixed thresholds, soft-NMS and, for a model with densities, adaptive NMS.

    yolo-coordbifpn nms model=runs/detect/train/weights/best.pt data=my.yaml

model=    a checkpoint
data=     a data YAML
conf=     score from which detections count for recall and false positives; default 0.25
project=  folder, default runs/nms
name=     folder in it, default nms

All other arguments are those of the stock `yolo val`, such as imgsz= and split=. The predictions are made once. For
each threshold the table has mAP50 and mAP50-95, the recall of all objects and of crowded ones (density d, the largest
IoU with another object of the class, above 0.3 and 0.5), and the false positives per image. The fair baseline for an
adaptive threshold is the best fixed one, so each NMS is measured with thresholds from 0.4 to 0.9. The files are nms.csv
and nms.png.
"""

from __future__ import annotations

from . import UsageError, folder_of, host_arguments, need, others

OPTIONS = {"model": "", "data": "", "conf": "0.25", "project": "", "name": "", "*": ""}
OWN = {"iou", "plots", "nms", "end2end", "save_json", "save_txt", "augment", "compile", "mode", "task", "exist_ok"}


def run(options: dict[str, str]) -> int:
    """Print the table and write the files."""
    need("nms", "inspect", "matplotlib")
    for key, what in (("model", "a checkpoint such as best.pt"), ("data", "a data YAML")):
        if not options[key]:
            raise UsageError(f"{key}= is missing; it must be {what}.")
    from ..crowds.report import table, verdict, write_report
    from ..crowds.sweep import sweep
    from ..patches.install import install

    given = others(options, OPTIONS, OWN, "is not for nms, which runs every NMS on one pass over the data")
    install()
    arguments = host_arguments("val", {**given, "data": options["data"], "conf": options["conf"]})
    data, confidence = arguments.pop("data"), arguments.pop("conf")
    if not isinstance(confidence, (int, float)):
        raise UsageError(f"conf= must be a number from 0 to 1, got {options['conf']!r}.")
    folder = folder_of(options, "nms").absolute()
    scores = sweep(
        options["model"], data, float(confidence), project=str(folder), name="val", exist_ok=True, **arguments
    )
    print(table(scores))
    print(verdict(scores))
    print(*write_report(scores, folder), sep="\n")
    return 0
