"""Write the size of each model into the scale lines of model_yamls/*.yaml, as the host's own YAMLs have it.

    python scripts/annotate_model_yamls.py

Counts with the Ultralytics in hand: leaf layers, parameters, parameters with a gradient, GFLOPs at 640 px.
"""

from __future__ import annotations

import re
from pathlib import Path

from yolo_coordbifpn.host.summary import summarize

FOLDER = Path(__file__).resolve().parent.parent / "model_yamls"


def main() -> None:
    """Rewrite the comment behind each scale."""
    for file in sorted(FOLDER.glob("*.yaml")):
        family, arm = file.name.split("-", 1)

        def annotated(line: re.Match[str]) -> str:
            s = summarize(f"{family}{line['scale']}-{arm}")  # noqa: B023
            print(f"{family}{line['scale']}-{arm}", *s)  # noqa: B023
            return (
                f"{line['constants']} # summary: {s.layers} layers, {s.parameters:,} parameters, "
                f"{s.gradients:,} gradients, {s.gflops:.1f} GFLOPs"
            )

        scales = re.compile(r"^(?P<constants>  (?P<scale>[nslmx]): \[.*?\]).*$", re.MULTILINE)
        file.write_text(scales.sub(annotated, file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
