"""All that an inspection has found on one HTML page, which needs nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from ..graph.paths import Fusion


@dataclass(frozen=True)
class Figure:
    """A picture of the page.

    Attributes:
        title: What stands above it.
        text: What it shows, said below it.
        content: The file.
        mime: Its type, such as `image/png`.
    """

    title: str
    text: str
    content: bytes
    mime: str = "image/png"

    @property
    def source(self) -> str:
        """Return the file as the address of an image."""
        return f"data:{self.mime};base64,{base64.b64encode(self.content).decode()}"


def page(title: str, notes: Sequence[str], fusions: Sequence[Fusion], figures: Sequence[Figure]) -> str:
    """Write the page.

    Args:
        title: Its title.
        notes: Sentences that stand first.
        fusions: The weighted fusions, for a table.
        figures: The pictures, in their order.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("yolo_coordbifpn.inspection", "."), autoescape=True, trim_blocks=True
    )
    return environment.get_template("page.html.j2").render(title=title, notes=notes, fusions=fusions, figures=figures)
