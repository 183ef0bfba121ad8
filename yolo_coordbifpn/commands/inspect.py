"""Show what the blocks of a trained model learned: the gates of CoordAtt over images, the weights of the fusions.

    yolo-coordbifpn inspect model=best.pt source=image.jpg
    yolo-coordbifpn inspect model=best.pt source=images/ project=runs/inspect name=bccd imgsz=640 conf=0.25

model=      a checkpoint, or a model YAML to see its initial state
source=     an image, a folder of images, or several of both with commas between; not needed without CoordAtt
project=    parent of the folder to write to; default runs/inspect
name=       name of the folder to write to; default inspect, with a number if it exists

Everything else is an argument of the stock `yolo predict`. For each image, IMAGE.png shows the height gate, the width
gate and their product next to the detections; neck.png and neck.svg show the weights of the fusions; index.html shows
all of it on one page that needs no network.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from . import UsageError

OPTIONS = {"model": "", "source": "", "project": "", "name": "", "*": ""}
OWN = {"mode", "task", "save", "stream", "augment", "embed", "visualize", "batch", "exist_ok", "save_dir"}


def run(options: dict[str, str]) -> int:
    """Write the plots and the page; return 1 if the model or an image cannot be opened."""
    try:
        import jinja2
        import matplotlib
    except ModuleNotFoundError as error:
        raise UsageError(f"inspect needs {error.name}: pip install 'yolo_coordbifpn[inspect]'.") from error
    del jinja2, matplotlib
    if not options["model"]:
        raise UsageError("model= must be a checkpoint such as best.pt.")
    from ..errors import HostError, InspectError
    from ..inspection.inspect import inspect
    from ..inspection.page import write_inspection
    from ..patches.install import install

    given = {k: v for k, v in options.items() if k not in OPTIONS}
    refused = sorted(OWN & given.keys())
    if refused:
        raise UsageError(f"{refused[0]}= is not for inspect, which shows one pass over each image.")
    source = options["source"]
    sources: list[str | Path] = [source] if source and Path(source).exists() else [*filter(None, source.split(","))]
    try:
        install()
        found = inspect(options["model"], sources or None, **_predict_arguments(given))
        if not found.fusions and not found.attention:
            print(f"{options['model']} has no CoordAtt and no BiFPN block: there is nothing to show.")
            return 0
        if found.attention and not sources:
            raise UsageError("source= must be an image or a folder of images: the gates depend on the image.")
        folder = write_inspection(
            found, options["model"], Path(options["project"] or "runs/inspect") / (options["name"] or "inspect")
        )
    except (HostError, InspectError) as error:
        print(f"yolo-coordbifpn inspect: {error}", file=sys.stderr)
        return 1
    for node in found.fusions:
        print(f"{node!s:32}" + "   ".join(f"{name} {weight:.3f}" for name, weight in node.shares))
    print(
        f"images: {len(found.pictures)}, CoordAtt: {len(found.attention)}, fusions: {len(found.fusions)}, in {folder}"
    )
    print(f"Page: {folder / 'index.html'}")
    return 0


def _predict_arguments(given: dict[str, str]) -> dict[str, Any]:
    """Read arguments of the host's `predict`."""
    from ..errors import InspectError
    from ..host.arguments import read_arguments

    try:
        return read_arguments(given)
    except ValueError as error:
        raise InspectError(f"the host's predict does not accept these arguments: {error}") from error
