"""Put the blocks into a trained checkpoint, with the same output, names and mAP, ready to be trained on.

    yolo-coordbifpn upgrade model=best.pt
    yolo-coordbifpn upgrade model=best.pt coordatt=P5 bifpn=concat save=best-coordatt-bifpn.pt

coordatt= takes the places of `yolo-coordbifpn graft` (P2...P5, N3...N5, bottleneck, none), attention= its blocks.
bifpn=concat weighs every concatenation of the neck and adds the same-level edge; bifpn=none leaves the neck. Without
save= the name of the checkpoint gets the blocks' names. An existing file is not overwritten.

Then: yolo train model=best-coordatt-bifpn.pt data=my.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

from . import UsageError

OPTIONS = {"model": "", "coordatt": "P5", "bifpn": "concat", "attention": "CoordAtt", "save": ""}


def run(options: dict[str, str]) -> int:
    """Write the new checkpoint; return 1 if that is not possible."""
    from ..errors import GraftError, HostError, WeightsError

    model = Path(options["model"]).expanduser()
    if not options["model"] or model.suffix != ".pt" or not model.is_file():
        raise UsageError(
            f"model= must be a checkpoint file such as runs/train/weights/best.pt, got {options['model']!r}."
        )
    if options["bifpn"] == "add":
        raise UsageError("bifpn=add is another neck, whose weights would be new; bifpn=concat keeps the output.")
    try:
        from ..grafting.variant import Variant

        variant = Variant(options["coordatt"], options["bifpn"], attention=options["attention"])
    except GraftError as error:
        raise UsageError(f"{error}.") from error
    save = Path(options["save"] or model.with_name(f"{model.stem}-{variant.name}.pt")).expanduser()
    if save.exists():
        raise UsageError(f"save={save} exists already; give another name.")
    if not save.parent.is_dir():
        raise UsageError(f"save={save}: there is no folder {save.parent}.")
    try:
        from ..grafting.upgrade import upgrade
        from ..patches.install import install

        install()
        report = upgrade(model, save, variant)
    except (GraftError, HostError, WeightsError) as error:
        print(f"{model}: {error}", file=sys.stderr)
        return 1
    print(f"{save}: {report}")
    return 0
