"""Draw the layers of a model by level and path, with the blocks marked.

    yolo-coordbifpn graph model=yolo11n-coordatt-bifpn.yaml save=graph.svg
    yolo-coordbifpn graph model=best.pt against=yolo11n.yaml save=both.svg

model=      a model YAML, a name such as yolo12n-bifpn.yaml, or a checkpoint
against=    a second model, drawn before the first, or `none`; default: the stock model, if model= names a variant of it
save=       file to write, .svg, .pdf or .png; default: the model's name with .svg, in the current folder

An existing file is not overwritten. For the learned weights of the fusions, see `yolo-coordbifpn inspect`.
"""

from __future__ import annotations

from pathlib import Path

from ..files import write
from . import UsageError, need, new_file

OPTIONS = {"model": "", "against": "", "save": ""}
FORMATS = (".svg", ".pdf", ".png")


def run(options: dict[str, str]) -> int:
    """Draw the model."""
    need("graph", "inspect", "matplotlib")
    model = options["model"]
    if not model:
        raise UsageError("model= must be a model YAML such as yolo11n-coordatt-bifpn.yaml, or a checkpoint.")
    save = new_file(options["save"] or f"{Path(model).stem}.svg", *FORMATS)
    from ..grafting.names import split
    from ..inspection.diagram import diagram
    from ..inspection.graph_plot import draw
    from ..inspection.sources import built
    from ..patches.install import install

    install()
    variant = split(Path(model).name) if not Path(model).is_file() else None
    against = options["against"] or (variant[0] if variant else "none")
    names = [x for x in (model, against) if x != "none"]  # an error is about the model first
    content = draw([diagram(built(x), Path(x).stem) for x in names][::-1], save.suffix[1:])
    write(save, content)
    print(save)
    return 0
