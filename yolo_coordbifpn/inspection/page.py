"""The plots of an inspection, as files and on one HTML page without outside resources."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import write
from ..graph.paths import Fusion
from .diagram import diagram, neck
from .fusion_plot import plot_fusion_weights
from .gates import Picture, draw
from .graph_plot import draw as draw_graph
from .inspect import Inspection


@dataclass(frozen=True)
class Figure:
    """A plot on the page.

    Attributes:
        title: Heading above it.
        text: Caption below it.
        content: Contents of its file.
        mime: Type of the file, such as `image/png`.
    """

    title: str
    text: str
    content: bytes
    mime: str = "image/png"

    @property
    def source(self) -> str:
        """Return the file as a data URL."""
        return f"data:{self.mime};base64,{base64.b64encode(self.content).decode()}"


def write_inspection(found: Inspection, name: str, folder: Path) -> Path:
    """Write a plot for each image, the neck with its weights, and one page with all of it.

    Args:
        found: The inspection.
        name: Name of the model as given by the user.
        folder: Folder to write to; if it exists, its name gets a number.

    Returns:
        The folder that was written to.
    """
    from ultralytics.utils.files import increment_path

    folder = increment_path(folder, mkdir=True)
    figures = [*_fusion_figures(found, name, folder), *_gate_figures(found.pictures, folder)]
    notes = [
        f"CoordAtt: {len(found.attention)}, weighted fusions: {len(found.fusions)}, images: {len(found.pictures)}."
    ]
    if not found.attention:
        notes.append("The model has no CoordAtt, so there are no gates to show.")
    if not found.fusions:
        notes.append("The model has no BiFPN_Concat and no BiFPN_Add, so there are no fusion weights to show.")
    write(folder / "index.html", page(f"What the blocks of {Path(name).name} learned", notes, found.fusions, figures))
    return folder


def _fusion_figures(found: Inspection, name: str, folder: Path) -> list[Figure]:
    """Write the plots of the fusions: at the neck, and by epoch if the training has left its log."""
    if not found.fusions:
        return []
    drawing = [neck(diagram(found.model, f"{Path(name).stem}: weights of the fusions", weights=True))]
    for form in ("svg", "png"):
        (folder / f"neck.{form}").write_bytes(draw_graph(drawing, form))
    text = "Number and width of an arrow: the share of that input in the fusion. Dotted: a weight of 0."
    figures = [Figure("The neck", text, (folder / "neck.svg").read_bytes(), "image/svg+xml")]
    history = Path(name).expanduser().parent.parent / "fusion_weights.csv"  # beside the host's folder of checkpoints
    if history.is_file():
        plot_fusion_weights(history, folder / "fusion_weights.png")
        text = "The share of each input after each epoch of the training; grey: equal shares."
        figures.append(Figure("The training", text, (folder / "fusion_weights.png").read_bytes()))
    return figures


def _gate_figures(pictures: Sequence[Picture], folder: Path) -> list[Figure]:
    """Write the plot of each image."""
    from ultralytics.utils.files import increment_path

    figures = []
    for picture in pictures:
        file = increment_path(folder / f"{picture.name}.png", sep="_")  # images in two folders may have the same name
        file.write_bytes(draw(picture))
        figures.append(Figure(picture.name, _caption(picture), file.read_bytes()))
    return figures


def _caption(picture: Picture) -> str:
    """Return what the plot of an image shows, and how much its gates differ."""
    if not picture.gates:
        return "The detections."
    spreads = "; ".join("{}: {:.3f} on average, {:.3f} at most".format(x.name, *x.spread) for x in picture.gates)
    return (
        "The detections; the height gate, the width gate and their product, as the mean over all channels and for the "
        "channel whose gates differ most. A gate of 0 is closed, one of 1 is open; bright is open, on the scale below "
        f"each map. Over this image the gates of a channel differ by: {spreads}."
    )


def page(title: str, notes: Sequence[str], fusions: Sequence[Fusion], figures: Sequence[Figure]) -> str:
    """Return the HTML of the page.

    Args:
        title: Its title.
        notes: Sentences at its top.
        fusions: The weighted fusions, for a table.
        figures: The plots, in their order.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("yolo_coordbifpn.inspection", "."), autoescape=True, trim_blocks=True
    )
    return environment.get_template("page.html.j2").render(title=title, notes=notes, fusions=fusions, figures=figures)
