"""List the shipped models and what they cost against the stock models, counted on the Ultralytics in hand; copy them.

    yolo-coordbifpn models                scale n of each, about a minute
    yolo-coordbifpn models only=yolo11*   those whose names begin so, in seconds
    yolo-coordbifpn models scale=nsx      these scales
    yolo-coordbifpn models of=yolo12n     every variant that one stock model takes by its name, with or without a file
    yolo-coordbifpn models only=yolov5-repository/* copy=models
                                          copy files into a folder, here those for the repository ultralytics/yolov5

Parameters are in millions, GFLOPs at 640 px; the percentages are against the stock model of the same scale.
"""

from __future__ import annotations

import functools
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

from . import UsageError

OPTIONS = {"scale": "n", "only": "*", "of": "", "copy": ""}
SCALES = "nsmlx"


def run(options: dict[str, str]) -> int:
    """Print the table; return 1 if a model could not be built."""
    from ..errors import GraftError, HostError
    from ..grafting.graft import summarize
    from ..grafting.names import VARIANTS, scaled, shipped, split
    from ..patches.install import install

    if options["copy"]:
        return _copy(options["only"], Path(options["copy"]))
    scales = options["scale"]
    if not scales or set(scales) - set(SCALES):
        raise UsageError(f"scale= takes letters of {SCALES}, such as scale=n or scale=nsmlx, got {scales!r}.")
    names = [x for x in shipped() if fnmatch(x.removesuffix(".yaml"), options["only"])]
    if not names:
        raise UsageError(f"only= must match names such as yolo11-coordatt, got {options['only']!r}.")
    names.sort(key=lambda x: ((split(x) or x)[0], len(x)))
    if options["of"]:
        names, scales = [f"{options['of'].removesuffix('.yaml')}-{variant}.yaml" for variant in VARIANTS], "-"
    try:
        install()
    except HostError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{'model':34}{'variant':18}{'params (M)':>11}{'':9}{'GFLOPs':>8}")
    stock_summary = functools.cache(summarize)  # one for all variants of a family
    status = 0
    told: set[str] = set()
    for file in names:
        for name in dict.fromkeys(file if s == "-" else scaled(file, s) for s in scales):
            base, variant = split(name) or ("", None)
            assert variant is not None  # every shipped name has one
            try:
                stock = stock_summary(base)
                if base not in told:
                    _row(base, "(stock)", stock, stock)
                    told.add(base)
                ours = summarize(name)
            except (GraftError, HostError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                status = 1
                if not told:  # the stock model itself is not there
                    return status
                continue
            _row(name, variant.name, ours, stock)
    return status


def _copy(pattern: str, to: Path) -> int:
    """Copy the shipped files whose names, with their folder, match a pattern; none is written over."""
    from ..grafting.names import folder

    names = {x: x.relative_to(folder()).with_suffix("").as_posix() for x in sorted(folder().rglob("*.yaml"))}
    files = [x for x, name in names.items() if fnmatch(name, pattern) and name.count("/") == pattern.count("/")]
    if not files:
        raise UsageError(f"only= must match names such as yolo11-coordatt or yolov5-repository/*, got {pattern!r}.")
    there = [x.name for x in files if (to / x.name).exists()]
    if there:
        raise UsageError(f"{to} already has {', '.join(there)}; nothing was copied.")
    to.mkdir(parents=True, exist_ok=True)
    for file in files:
        print(shutil.copyfile(file, to / file.name))
    return 0


def _row(name, variant, ours, stock) -> None:  # type: ignore[no-untyped-def]
    share = [f"{a / b - 1:+8.2%}" if a is not b else " " * 8 for a, b in zip(ours[1::2], stock[1::2])]
    print(f"{name:34}{variant:18}{ours.parameters / 1e6:11.3f}{share[0]} {ours.gflops:8.2f}{share[1]}", flush=True)
