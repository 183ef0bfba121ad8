"""The plots of an inspection, as files and on one HTML page without outside resources."""

from __future__ import annotations

import base64
import contextlib
import io
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import torch

from ..files import write
from .diagram import diagram, neck
from .findings import flat_blocks, models, notes, shares
from .fusion_plot import draw_fusion_weights
from .gate_plot import draw
from .graph_plot import draw as draw_graph
from .inspect import Inspection, progress


@dataclass(frozen=True)
class Figure:
    """A plot.

    Attributes:
        name: Name of its file without the extension; a name with folders is an image's.
        title: Heading above it.
        text: Caption below it.
        content: Contents of its PNG file.
        svg: The same as SVG, if there is one.
        file: Its file beside the page; empty if it is not written to a file.
    """

    name: str
    title: str
    text: str
    content: bytes
    svg: str = ""
    file: str = ""

    @property
    def source(self) -> str:
        """Return what the page embeds, as a data URL: the SVG, or a WebP file of a tenth of the size of the PNG."""
        if self.svg:
            return _data_url("image/svg+xml", self.svg.encode())
        from PIL import Image

        stream = io.BytesIO()
        Image.open(io.BytesIO(self.content)).convert("RGB").save(stream, "webp", quality=60)
        return _data_url("image/webp", stream.getvalue())


def write_inspection(found: Inspection, folder: Path) -> Path:
    """Write a plot for each image, the neck with its weights, and one page with all of it.

    Args:
        found: The inspection.
        folder: Folder to write to; if it exists, its name gets a number.

    Returns:
        The folder that was written to.
    """
    from ultralytics.utils.files import increment_path

    folder = increment_path(folder, mkdir=True)
    written = []
    for figure in figures(found):
        file = folder / f"{figure.name.replace('/', '_')}.png"
        file = increment_path(file, sep="_")  # an image may have the name of another plot
        file.write_bytes(figure.content)
        if figure.svg:
            write(file.with_suffix(".svg"), figure.svg)
        written.append(replace(figure, file=file.name))
    write(folder / "index.html", page(found, written))
    return folder


def figures(found: Inspection) -> list[Figure]:
    """Return all plots of an inspection, in the order of the page."""
    return [*_fusion_figures(found), *_gate_figures(found)]


def _fusion_figures(found: Inspection) -> list[Figure]:
    """Draw the fusions: at the neck, and by epoch if the training has left its log."""
    necks = [
        neck(diagram(x.model, f"{k}: weights of the fusions", weights=True))
        for k, x in models(found).items()
        if x.fusions
    ]
    if not necks:
        return []
    text = "Number and width of an arrow: the share of that input in the fusion. Dotted: a weight of 0."
    drawn = [Figure("neck", "The neck", text, draw_graph(necks, "png"), draw_graph(necks, "svg").decode())]
    checkpoint = Path(found.name).expanduser().absolute()
    history = checkpoint.parent.parent / "fusion_weights.csv"  # beside the host's folder of checkpoints
    if checkpoint.suffix == ".pt" and history.is_file():
        text = "The share of each input after each epoch of the training; grey: equal shares."
        with contextlib.suppress(ValueError):  # a training that was killed in its first epoch
            drawn.append(Figure("fusion_weights", "The training", text, draw_fusion_weights(history)))
    return drawn


def _gate_figures(found: Inspection) -> list[Figure]:
    """Draw each image, with the maps of the blocks whose gates differ over the images."""
    named = models(found)
    flat = {label: flat_blocks(x) for label, x in named.items()}
    drawn = []
    for k, image in enumerate(progress(found.images, "Drawing")):
        views = {
            label: replace(
                x.images[k],
                gates=tuple(g for g in x.images[k].gates if g.name not in flat[label]),
                maps=tuple(m for m in x.images[k].maps if not m.flat),
            )
            for label, x in named.items()
        }
        spreads = {
            f"{label}, {g.name}" if len(named) > 1 else g.name: g.spread for label, x in views.items() for g in x.gates
        }
        drawn.append(Figure(image.name, image.name, _caption(spreads), draw(views)))
    return drawn


def _caption(spreads: dict[str, tuple[float, float]]) -> str:
    """Return how much the gates of each block differ over an image."""
    if not spreads:
        return "The detections."
    differences = (f"{name}: {mean:.3f} on average, {most:.3f} at most" for name, (mean, most) in spreads.items())
    return f"Over this image the gates of a channel differ by: {'; '.join(differences)}."


def page(found: Inspection, drawn: Sequence[Figure] | None = None) -> str:
    """Return the HTML of the page.

    Args:
        found: The inspection.
        drawn: Its plots with their files; None to draw them for this page alone.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("yolo_coordbifpn.inspection", "."), autoescape=True, trim_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        title=f"What the blocks of {found.name} learned",
        facts=_facts(found),
        notes=notes(found),
        shares=shares(found),
        models=list(models(found)),
        maps=any(len(flat_blocks(x)) < len(x.attention) for x in models(found).values() if x.images),
        figures=figures(found) if drawn is None else drawn,
    )


def _facts(found: Inspection) -> dict[str, str]:
    """Return what was inspected, with which settings and versions, and when."""
    import ultralytics

    from .. import __version__

    both = {"Model": found.name} | ({"Against": found.against.name} if found.against else {})
    facts = {key: str(path.absolute()) if (path := Path(x).expanduser()).is_file() else x for key, x in both.items()}
    if found.settings:
        facts["Settings"] = " ".join(f"{key}={value}" for key, value in found.settings.items())
    facts["Versions"] = (
        f"yolo_coordbifpn {__version__}, Ultralytics {ultralytics.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )
    facts["Date"] = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %z}"
    return facts


def _data_url(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
