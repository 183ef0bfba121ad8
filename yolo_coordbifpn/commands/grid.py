"""Show what the thresholds of a grid activation keep and skip on a validation set, and change the threshold.

    yolo-coordbifpn grid model=runs/detect/train/weights/best.pt data=my.yaml
    yolo-coordbifpn grid model=runs/detect/train/weights/best.pt data=my.yaml threshold=0.1

model=      a checkpoint of a model with a grid, such as yolo11n-grid
data=       a data YAML
threshold=  the new threshold, 0 (skip nothing) to 1, or best: the largest that keeps 99.5 % of the objects; by default
            the checkpoint is not changed
project=    folder, default runs/grid
name=       folder in it, default grid

All other arguments are those of the stock `yolo val`, such as imgsz= and split=. The table has the recall of the
objects, counting only images that are skipped as a whole, and the share of the images that are skipped; the star is the
threshold in use. The host's own lines before it are the validation without skipping. The files are grid.csv and
grid.png.
"""

from __future__ import annotations

from pathlib import Path

from . import UsageError, folder_of, host_arguments, need, others

OPTIONS = {"model": "", "data": "", "threshold": "", "project": "", "name": "", "*": ""}
OWN = {"plots", "save_json", "save_txt", "augment", "mode", "task", "exist_ok"}


def run(options: dict[str, str]) -> int:
    """Print the table, write the files, and store the threshold if one is given."""
    need("grid", "inspect", "matplotlib")
    model = Path(options["model"]).expanduser()
    if model.suffix != ".pt":
        raise UsageError(f"model= must be a checkpoint file such as best.pt, got {options['model']!r}.")
    if not model.is_file():
        raise UsageError(f"model=: there is no file {model}.")
    if not options["data"]:
        raise UsageError("data= is missing; it must be a data YAML.")
    wanted = _threshold(options["threshold"])
    given = others(options, OPTIONS, OWN, "is not for grid")
    from ..grids.measure import store
    from ..grids.report import table, verdict, write_report
    from ..grids.validate import validate
    from ..patches.install import install

    install()
    arguments = host_arguments("val", {**given, "data": options["data"]})
    folder = folder_of(options, "grid").absolute()
    curve, now = validate(model, project=str(folder), name="val", exist_ok=True, **arguments)
    best = curve.best()
    new = best if wanted == "best" else now if wanted is None else float(wanted)
    print(table(curve, new))
    print(f"{'in use' if wanted is None else 'now in use'}: {verdict(curve, new)}.")
    if new != best:
        print(f"The largest that keeps 99.5 % of the objects: {verdict(curve, best)}.")
    if wanted is not None:
        store(model, new)
        print(f"{model}: threshold {now:.4f} changed to {new:.4f}")
    print(*write_report(curve, new, folder), sep="\n")
    return 0


def _threshold(text: str) -> float | str | None:
    """Read the option; None if it is not given.

    Raises:
        UsageError: If it is neither `best` nor a number from 0 to 1.
    """
    if text in ("", "best"):
        return text or None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"threshold= must be best, or a number from 0, which skips nothing, to 1, got {text!r}.")
    return value
