"""Show what the blocks of a trained model learned: the gates of CoordAtt over images, the weights of the fusions.

    yolo-coordbifpn inspect model=best.pt source=image.jpg
    yolo-coordbifpn inspect model=best.pt source=images/ project=runs/inspect name=bccd imgsz=640 conf=0.25
    yolo-coordbifpn inspect model=best.pt source="images/*.jpg" against=epoch0.pt

model=      a checkpoint, or a model YAML to see its initial state
source=     an image, a folder of images, a pattern with *, or several of these separated by commas; not needed for a
            model without CoordAtt; URLs, videos and cameras are not read
against=    a second checkpoint or model YAML to compare with, on the same images
project=    parent of the folder to write to; default: runs/inspect
name=       name of the folder to write to; default: inspect; a number is added if it exists

Everything else is an argument of the stock `yolo predict`. For each image, IMAGE.png shows the height gate, the width
gate and their product next to the detections; neck.png and neck.svg show the weights of the fusions; index.html shows
all of it on one page that needs no network. With against=, each of these shows both models, and a table gives the
differences between the shares. An image that cannot be read is skipped and named. A block that has not moved from its
start is named in a sentence, and its maps are not drawn.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from . import UsageError, folder_of, host_arguments, need, others

if TYPE_CHECKING:
    from ..inspection.inspect import Inspection

OPTIONS = {"model": "", "source": "", "against": "", "project": "", "name": "", "*": ""}
OWN = {"mode", "task", "save", "stream", "augment", "embed", "visualize", "batch", "exist_ok", "save_dir"}


def run(options: dict[str, str]) -> int:
    """Write the plots and the page."""
    need("inspect", "inspect", "jinja2", "matplotlib")
    if not options["model"]:
        raise UsageError("model= must be a checkpoint such as best.pt.")
    from ..inspection.findings import notes
    from ..inspection.inspect import inspect
    from ..inspection.page import write_inspection
    from ..inspection.sources import split_sources
    from ..patches.install import install

    given = others(options, OPTIONS, OWN, "is not for inspect, which shows one pass over each image")
    sources = split_sources(options["source"])
    install()
    arguments = host_arguments("predict", given)
    found = inspect(options["model"], sources or None, options["against"] or None, **arguments)
    both = [x for x in (found, found.against) if x]
    if not any(x.fusions or x.attention or x.spatial_gates for x in both):
        print(f"{' and '.join(x.name for x in both)}: no CoordAtt and no BiFPN block, so there is nothing to show.")
        return 0
    if not sources and any(x.attention or x.spatial_gates for x in both):
        raise UsageError("source= must be an image or a folder of images: the gates depend on the image.")
    folder = write_inspection(found, folder_of(options, "inspect"))
    _print_shares(found)
    print(*notes(found), sep="\n")
    print(f"Page: {folder / 'index.html'}")
    return 0


def _print_shares(found: Inspection) -> None:
    """Print a line for each fusion; in brackets the difference to the other model, if there is one."""
    from ..inspection.findings import shares

    for node, inputs in itertools.groupby(shares(found), key=lambda x: x.node):
        texts = [
            f"{x.input} {'none' if x.share is None else f'{x.share:.3f}'}"
            + ("" if x.difference is None else f" ({x.difference:+.3f})")
            for x in inputs
        ]
        print(f"{node:32}" + "   ".join(texts))
