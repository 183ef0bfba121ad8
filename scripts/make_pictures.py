"""Make the pictures of the pages from a trained checkpoint and one image.

    python scripts/make_pictures.py model=runs/detect/train/weights/best.pt source=image.jpg imgsz=256

Writes into out=, by default scripts/results/pictures: gates.png, neck.png, fusion_weights.png (from the file
fusion_weights.csv in the run of the checkpoint), and graph.svg, of yolo11n with CoordAtt and BiFPN beside the stock
model. PNG files are reduced to 256 colours, to keep the repository small.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from PIL import Image
from run_script import run_script

from yolo_coordbifpn.commands import main as command
from yolo_coordbifpn.commands import parse

NAME = "yolo11n-coordatt-bifpn"  # in the titles


def make(model: Path, source: str, imgsz: str, out: Path) -> None:
    """Run the two commands and keep what they draw."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "graph.svg").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "run", "weights")
        weights.mkdir(parents=True)
        named = shutil.copy(model, weights / f"{NAME}.pt")
        shutil.copy(model.parent.parent / "fusion_weights.csv", weights.parent)
        words = [f"model={named}", f"source={source}", f"imgsz={imgsz}", f"project={folder}", "name=all"]
        if command(["inspect", *words]) or command(["graph", f"model={NAME}.yaml", f"save={out}/graph.svg"]):
            raise SystemExit(1)
        for name, drawn in (("gates", Path(source).stem), ("neck", "neck"), ("fusion_weights", "fusion_weights")):
            with Image.open(Path(folder, "all", f"{drawn}.png")) as picture:
                small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
                small.save(out / f"{name}.png", optimize=True)


def main(words: list[str]) -> None:
    """Make the pictures with the given options."""
    given = parse(words, {"model": "", "source": "", "imgsz": "640", "out": "scripts/results/pictures"})
    make(Path(given["model"]), given["source"], given["imgsz"], Path(given["out"]))


if __name__ == "__main__":
    run_script(main)
