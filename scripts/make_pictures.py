"""Make the pictures of the README's section on what the blocks learned, from a trained checkpoint and one picture.

    python scripts/make_pictures.py model=runs/detect/train/weights/best.pt source=image.jpg imgsz=256

Written into out=, scripts/results/pictures by default, are gates.png, neck.png, fusion_weights.png (from the run's
fusion_weights.csv) and graph.svg, of yolo11n with CoordAtt and BiFPN against the stock model. Each PNG is brought to
256 colours, to keep the repository small.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from yolo_coordbifpn.commands import main, parse


def make(model: str, source: str, imgsz: str, out: Path) -> None:
    """Run the two commands and take over what they draw."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "graph.svg").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        words = [f"model={model}", f"source={source}", f"imgsz={imgsz}", f"project={folder}", "name=all"]
        if main(["inspect", *words]) or main(["graph", "model=yolo11n-coordatt-bifpn.yaml", f"save={out}/graph.svg"]):
            raise SystemExit(1)
        for name, drawn in (("gates", Path(source).stem), ("neck", "neck"), ("fusion_weights", "fusion_weights")):
            with Image.open(Path(folder, "all", f"{drawn}.png")) as picture:
                small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
                small.save(out / f"{name}.png", optimize=True)


if __name__ == "__main__":
    given = parse(sys.argv[1:], {"model": "", "source": "", "imgsz": "640", "out": "scripts/results/pictures"})
    make(given["model"], given["source"], given["imgsz"], Path(given["out"]))
