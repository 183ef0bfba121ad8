"""Put the blocks into any model YAML, stock or your own; layer indices are shifted and comments kept.

    yolo-coordbifpn graft model=yolo12.yaml
    yolo-coordbifpn graft model=yolo12.yaml coordatt=P3,P5 bifpn=concat save=my.yaml

model=      a model YAML: a stock name or a file; the scale of a name such as yolo11x.yaml is that of the new file
coordatt=   P2...P5: the end of that stage of the backbone (P5: before SPPF); deepest: the end of the last stage;
            N3...N5: an output of the neck; bottleneck: inside the backbone's blocks, as in the paper; several with
            commas between; none; default deepest
bifpn=      concat: weight every concatenation of the neck; add: the neck of the BiFPN paper, weighted sums at one width
            with a separable convolution after each; none; default concat
neck=       pan: keep all paths of the neck; fpn: keep its top-down path alone; dualpath: spatial attention where the
            two paths meet, and a detail path that starts at P2; default pan
levels=     P2: detect at this level too; a range such as P2-P4: detect at these; default the levels of the model
attention=  CoordAtt, CBAM, SE, an attention of timm such as timm_eca, or your own block; default CoordAtt
edge=       True or False: give the middle levels the same-level edge of BiFPN; default True
repeats=    how many times the layer of bifpn=add is repeated; default 3
width=      channels of all levels of bifpn=add, before the model's width multiple; default 256
nms=        adaptive: a density head beside the head, for adaptive NMS in crowds; plain; default plain
grid=       P3 or P4: score a grid there, so that images without objects run no layer after it; none; default none
save=       file to write; default the model's name followed by the variant's and by what is not default, in this folder

Each scale of the new model is built and counted before the file is written. An existing file is not overwritten. Stock
models need no file: yolo train model=yolo12n-coordatt-bifpn.yaml works as it is, see README.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import GraftError
from ..files import write
from . import UsageError, new_file, read_variant

OPTIONS = {
    "model": "",
    "coordatt": "deepest",
    "bifpn": "concat",
    "neck": "pan",
    "levels": "",
    "attention": "CoordAtt",
    "edge": "",
    "repeats": "",
    "width": "",
    "nms": "plain",
    "grid": "none",
    "save": "",
}


def run(options: dict[str, str]) -> int:
    """Write the new model YAML."""
    if not options["model"].endswith((".yaml", ".yml")):
        raise UsageError(f"model= must be a model YAML such as yolo12.yaml or my.yaml, got {options['model']!r}.")
    from ..grafting.graft import graft_file
    from ..grafting.names import find, scale_of
    from ..grafting.yaml_text import put_scale_first
    from ..patches.install import install

    install()
    variant = read_variant(options)
    try:
        source = find(str(Path(options["model"]).expanduser()))
    except GraftError as error:
        raise GraftError(f"{options['model']}: {error}") from error
    save = new_file(options["save"] or f"{source.stem}-{variant.name}.yaml", ".yaml", ".yml")
    text, rows, costs = graft_file(source, variant)
    scale = scale_of(options["model"])
    text = put_scale_first(text, scale) if scale in costs else text
    changed = " ".join(f"{key}={value}" for key, value in options.items() if value != OPTIONS[key] and key != "save")
    write(save, f"# Made by: yolo-coordbifpn graft {changed}\n{text}")
    print(save)
    if not scale_of(save.name) and len(costs) > 1:
        print(
            f"  its scale is {scale if scale in costs else next(iter(costs))} unless the name of the file has another"
        )
    for index, node in enumerate(rows.nodes):
        if node.origin is None or node.note or node.module.startswith("BiFPN_") or "_" in node.module:
            print(f"  layer {index:<4}{node.module:<18}{node.note}")
    print(f"  {'scale':8}{'params (M)':>11}{'':9}{'GFLOPs':>8}")
    for scale, (before, after) in costs.items():
        share = [f"{b / a - 1:+8.2%}" for a, b in zip(before[1::2], after[1::2])]
        print(f"  {scale or '-':8}{after.parameters / 1e6:11.3f}{share[0]} {after.gflops:8.2f}{share[1]}")
    return 0
