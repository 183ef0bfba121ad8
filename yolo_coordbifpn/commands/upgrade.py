"""Put the blocks into a trained checkpoint without changing its output, class names or mAP, to train it further.

    yolo-coordbifpn upgrade model=best.pt
    yolo-coordbifpn upgrade model=best.pt coordatt=P5 bifpn=concat save=best-coordatt-bifpn.pt

model=      a checkpoint
coordatt=   where to put the attention, see `yolo-coordbifpn graft --help`; default deepest
bifpn=      concat: weight every concatenation of the neck, and add the same-level edge; none; default concat
neck=       pan: keep the neck's paths; dualpath: add spatial attention and a detail path, see graft; default pan
levels=     P2: detect at this level too, with newly initialised layers; default the levels of the model
attention=  CoordAtt, CBAM, SE, an attention of timm such as timm_eca, or your own block; default CoordAtt
nms=        adaptive: add the density head of adaptive NMS, see `graft`; plain; default plain
grid=       P3 or P4: add a grid activation, see `graft`; none; default none
save=       file to write; default the checkpoint's name followed by the variant's, in its folder

An existing file is not overwritten. Then: yolo train model=best-coordatt-bifpn.pt data=my.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

from . import UsageError, new_file, read_variant

OPTIONS = {
    "model": "",
    "coordatt": "deepest",
    "bifpn": "concat",
    "neck": "pan",
    "levels": "",
    "attention": "CoordAtt",
    "nms": "plain",
    "grid": "none",
    "save": "",
}


def run(options: dict[str, str]) -> int:
    """Write the new checkpoint; return 1 if the blocks cannot be put into the model."""
    from ..errors import GraftError, HostError, WeightsError

    model = Path(options["model"]).expanduser()
    if model.suffix != ".pt":
        raise UsageError(
            f"model= must be a checkpoint such as runs/detect/train/weights/best.pt, got {options['model']!r}."
        )
    if not model.is_file():
        raise UsageError(f"model={model}: there is no such file.")
    if options["bifpn"] == "add":
        raise UsageError("bifpn=add is another neck with newly initialised weights; bifpn=concat keeps the output.")
    if options["neck"] == "fpn":
        raise UsageError("neck=fpn removes trained layers, which changes the output; neck=pan keeps it.")
    if options["levels"] not in ("", "P2"):
        raise UsageError(f"levels= must be P2; {options['levels']} may remove a level, which changes the output.")
    variant = read_variant(options)
    save = new_file(options["save"] or model.with_name(f"{model.stem}-{variant.name}.pt"), ".pt")
    try:
        from ..grafting.upgrade import upgrade
        from ..patches.install import install

        install()
        report = upgrade(model, save, variant)
    except (GraftError, HostError, WeightsError) as error:
        print(f"yolo-coordbifpn upgrade: {model}: {error}", file=sys.stderr)
        return 1
    print(f"{save}: {report}")
    return 0
