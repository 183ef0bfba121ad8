"""A variant of any model YAML, the host's or a user's own: built, inspected, changed, and built again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import GraftError, host_needed
from ..graph.layers import Facts, check_places, facts
from ..graph.rows import check_rows
from ..host.cost import Summary, annotate, count
from ..host.models import build, host_errors, load
from ..registry import TABLE
from ..registry.probe import origin
from ..registry.table import clash
from .attention import attend
from .density import add_densities, put_densities, take_densities
from .dual_path import add_detail, add_gates
from .grid import add_grid
from .levels import set_levels
from .necks import keep_top_down, sum_neck, weigh
from .row_graph import Rows
from .variant import Variant
from .yaml_text import rewrite


def graft_rows(cfg: dict[str, Any], facts: Sequence[Facts], variant: Variant) -> Rows:
    """Put a variant's blocks into the rows of a model YAML.

    Args:
        cfg: The model YAML as a dict, with `backbone` and `head`; it is not changed.
        facts: What is known of each layer of the model built from it.
        variant: What to put in.

    Returns:
        The new rows.

    Raises:
        GraftError: If there is no place for a block, or the block is there already.
    """
    rows = Rows(cfg, facts)
    there = take_densities(rows)
    if variant.neck == "fpn":
        keep_top_down(rows)
    elif variant.neck == "dualpath":
        add_detail(rows)
    if variant.levels:
        set_levels(rows, variant.levels)
    if variant.bifpn == "concat":
        weigh(rows, variant.edge is not False)
    elif variant.bifpn == "add":
        sum_neck(rows, variant.width or 256, variant.repeats or 3, variant.edge is not False)
    if variant.neck == "dualpath":
        add_gates(rows)
    if variant.coordatt != "none":
        attend(rows, variant.coordatt, _attention(variant.attention))
    put_densities(rows, there)
    if variant.nms == "adaptive":
        add_densities(rows)
    if variant.grid != "none":
        add_grid(rows, variant.grid)
    _check_names(cfg, rows.cfg())
    return rows


def _check_names(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Raise a `GraftError` if rows were added whose block the host has something else for."""
    from ultralytics.nn import tasks

    old, new = (Counter(row[2] for row in cfg["backbone"] + cfg["head"]) for cfg in (before, after))
    for block in filter(None, map(TABLE.named, new - old)):
        problem = clash(block, vars(tasks))
        if problem:
            raise GraftError(problem)


def graft(
    cfg: dict[str, Any] | str | Path,
    coordatt: str = "deepest",
    bifpn: str = "concat",
    *,
    neck: str = "pan",
    attention: str = "CoordAtt",
    edge: bool | None = None,
    repeats: int | None = None,
    width: int | None = None,
    levels: str | None = None,
    nms: str = "plain",
    grid: str = "none",
) -> dict[str, Any]:
    """Put blocks into any model YAML, at places found from the model itself.

    Args:
        cfg: A model YAML: its name (`yolo12n.yaml`), its path, or its content as a dict.
        coordatt: Places of attention, separated by commas: `P2`...`P5` for the end of that stage of the backbone (in
            the deepest stage before its pooling), `deepest`, `N3`...`N5` for the neck output of that level,
            `bottleneck` for the inside of the backbone's bottlenecks; or `none`.
        bifpn: `concat` to weight every concatenation of the neck, `add` for the neck of the BiFPN paper, or `none`.
        neck: `pan` to keep the neck's paths, `fpn` to keep only its top-down path, `dualpath` for spatial attention
            where the two paths meet and a detail path that starts at P2.
        attention: The attention block, by class name or word: `CoordAtt`, `CBAM`, `SE`, `timm_eca`, or a block of your
            own that keeps the channels.
        edge: With bifpn, whether the middle levels get the same-level edge from the backbone; True if None.
        repeats: With `bifpn="add"`, the number of BiFPN layers; if None, 3 as in EfficientDet-D0.
        width: With `bifpn="add"`, channels of all levels, before the model's width multiple; if None, 256, which gives
            the 64 channels of EfficientDet-D0 at scale n.
        levels: Levels of the head: `P2` to add it, or a range such as `P2-P4`; those of the model if None.
        nms: `adaptive` for a density head, with which NMS is adaptive, or `plain`.
        grid: `P3` or `P4`: the stage of the backbone after which images without objects are skipped; or `none`.

    Returns:
        A new YAML dict, from which a model has been built; `cfg` is not changed. If `cfg` is a name with a scale, such
        as `yolo11x.yaml`, that scale comes first in `scales`, so a file written from the dict (`yaml.safe_dump` with
        `sort_keys=False`) has it as its default.

    Raises:
        GraftError: If an option is unknown, there is no place for a block, the block is there already, or the model
            cannot be built.
        HostError: If Ultralytics is missing or cannot be patched.
    """
    with host_needed():
        import ultralytics.nn.tasks  # noqa: F401 - patched as soon as it is imported
    variant = Variant(coordatt, bifpn, neck, attention, edge, repeats, width, levels, nms, grid)
    given = cfg if isinstance(cfg, dict) else load(cfg)
    before, found = _inspected(given)
    rows = graft_rows(given, found, variant)
    verify(before, rows.cfg(), variant)
    return _scale_first(rows.cfg())


def _inspected(cfg: dict[str, Any]) -> tuple[Any, list[Facts]]:
    """Build the model of a YAML dict and inspect its layers.

    Raises:
        GraftError: If its rows are malformed, or the host cannot build or run it.
    """
    try:
        check_rows(cfg)
    except GraftError as error:
        check_rows(cfg, places=False)
        try:
            model = build(cfg)
        except GraftError:
            raise error from None
        check_places(model.model)  # the rows are right in a fork that counts layers in another way
        raise
    model = build(cfg)
    with host_errors("run"):
        return model, facts(model)


def _scale_first(cfg: dict[str, Any]) -> dict[str, Any]:
    """Put the scale of a model YAML first, which the host takes if the name of a file has none."""
    scales, scale = cfg.get("scales"), cfg.get("scale")
    if not isinstance(scales, dict) or scale not in scales:
        return cfg
    return {**cfg, "scales": {scale: scales[scale], **scales}}


def _attention(name: str) -> str:
    """Return the class name of an attention block, registered now if it was not."""
    TABLE.discovery.find([name])
    block = TABLE.named(name) or TABLE.named(getattr(TABLE.variants.get(name), "__name__", ""))
    if block is None:
        missed = " ".join(f"{x}." for x in TABLE.discovery.missed)
        if TABLE.word(name) in TABLE.variants:  # one of this package, for which there is a reason
            raise GraftError(f"attention={name}: {missed}")
        known = ", ".join(x.__name__ for x in TABLE.variants.values())
        raise GraftError(
            f"attention={name}: no block of this name is known. Known are {known}; "
            f"for a block of your own see yolo_coordbifpn.register() or YOLO_COORDBIFPN_BLOCKS. {missed}".rstrip()
        )
    if not TABLE.keeps_channels(block):
        raise GraftError(
            f"attention={name}: {origin(block)} does not keep the channels of one layer, so it has no place by "
            "itself; write its row into a model YAML"
        )
    return block.__name__


def graft_text(file: Path, variant: Variant) -> tuple[str, Rows]:
    """Put a variant's blocks into a model YAML file, keeping its text and comments.

    Args:
        file: The model YAML.
        variant: What to put in.

    Returns:
        The new text and its rows; no model has been built from them yet.

    Raises:
        GraftError: If there is no place for a block, or the block is there already; the message names the file.
    """
    try:
        text = file.read_text(encoding="utf-8")
        cfg = yaml.safe_load(text)
        rows = graft_rows(cfg, _inspected(cfg)[1], variant)
        return rewrite(text, rows), rows
    except UnicodeDecodeError as error:
        raise GraftError(f"{file.name} is not UTF-8 text ({error}); save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise GraftError(f"{file.name} is not valid YAML: {error}") from error
    except GraftError as error:
        raise GraftError(f"{variant.name} in {file.name}: {error}") from error


def graft_file(file: Path, variant: Variant) -> tuple[str, Rows, dict[str, tuple[Summary, Summary]]]:
    """Put a variant's blocks into a model YAML file as `graft_text` does, and build and count every scale.

    Args:
        file: The model YAML.
        variant: What to put in.

    Returns:
        The new text with the sizes in its scale lines, its rows, and for each scale ("" if there are none) the size
        before and after.

    Raises:
        GraftError: As from `graft`; the message names the file.
    """
    text, rows = graft_text(file, variant)
    before, after = yaml.safe_load(file.read_text(encoding="utf-8")), yaml.safe_load(text)
    sizes = {}
    for scale in before.get("scales") or [""]:
        old = build({**before, "scale": scale})
        new = verify(old, {**after, "scale": scale}, variant)
        with host_errors("run"):
            sizes[scale] = (count(old), count(new))
    return annotate(text, {scale: size for scale, (_, size) in sizes.items()}), rows, sizes


def summarize(name: str) -> Summary:
    """Build a model from its YAML and count it.

    Args:
        name: A name or path that `ultralytics.YOLO` accepts, such as `yolo11n-coordatt.yaml`.
    """
    return count(build(load(name)))


def verify(old: Any, cfg: dict[str, Any], variant: Variant) -> Any:
    """Build the model with blocks, compare its strides with those of the model without, and return it.

    Args:
        old: The built model without blocks.
        cfg: The model YAML with blocks, as a dict.
        variant: What was put in.

    Raises:
        GraftError: If it cannot be built, or its head reads other strides than before, unless the variant says so.
    """
    new = build(cfg)
    if variant.levels is None and old.stride.tolist() != new.stride.tolist():
        raise GraftError(f"the head would read strides {new.stride.tolist()} in place of {old.stride.tolist()}")
    return new
