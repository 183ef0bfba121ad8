"""List the shipped models and their cost compared with the stock models, counted by the installed Ultralytics.

    yolo-coordbifpn models
    yolo-coordbifpn models only="yolo11*" scale=nsx
    yolo-coordbifpn models of=yolo12n
    yolo-coordbifpn models of=yolo12n only="*-bifpn*"
    yolo-coordbifpn models only="yolov5-repository/*" copy=models

scale=      scales to count, letters of nsmlx; default n
only=       pattern of the models' names; default *, all of them, which takes about a minute
of=         a stock model such as yolo12n, to list every variant that its name takes, with or without a file
copy=       folder to copy the files of only= to, instead of listing them

Parameters are in millions, GFLOPs at 640 px; percentages are relative to the stock model of the same scale. An existing
file is not overwritten.
"""

from __future__ import annotations

import functools
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

from ..host.cost import Summary
from . import UsageError

OPTIONS = {"scale": "n", "only": "*", "of": "", "copy": ""}
SCALES = "nsmlx"


def run(options: dict[str, str]) -> int:
    """Print the table; return 1 if a model could not be built."""
    from ..errors import GraftError, HostError
    from ..grafting.graft import summarize
    from ..grafting.names import scaled, shipped, split, variants
    from ..patches.install import install
    from ..registry import TABLE

    of = options["of"].removesuffix(".yaml")
    if of and (options["copy"] or options["scale"] != OPTIONS["scale"]):
        raise UsageError("of= lists the variants of one model, such as of=yolo12s; scale= and copy= are not for it.")
    if of and split(f"{of}.yaml"):
        raise UsageError(f"of= takes a stock model such as yolo12n, got the variant {of}.")
    if options["copy"]:
        return _copy(options["only"], Path(options["copy"]).expanduser())
    scales = options["scale"]
    if not scales or set(scales) - set(SCALES):
        raise UsageError(f"scale= takes letters of {SCALES}, such as scale=n or scale=nsmlx, got {scales!r}.")
    names = sorted(shipped(), key=lambda x: ((split(x) or x)[0], len(x)))
    if of:
        TABLE.discovery.find_all()
        names, scales = [f"{of}-{variant}.yaml" for variant in variants()], "-"
    names = [x for x in names if fnmatch(x.removesuffix(".yaml"), options["only"])]
    if not names:
        raise UsageError(f"only= must match names such as {of or 'yolo11'}-coordatt, got {options['only']!r}.")
    install()
    print(f"{'model':38}{'variant':20}{'params (M)':>11}{'':9}{'GFLOPs':>8}")
    stock_summary = functools.cache(summarize)  # one for all variants of a family
    status = 0
    listed: set[str] = set()
    for file in names:
        for name in dict.fromkeys(file if s == "-" else scaled(file, s) for s in scales):
            base, variant = split(name) or ("", None)
            assert variant is not None  # every shipped name has one
            try:
                stock = stock_summary(base)
                if base not in listed:
                    _row(base, "(stock)", stock, stock)
                    listed.add(base)
                ours = summarize(name)
            except (GraftError, HostError) as error:
                if of and listed:
                    print(f"{name:38}{variant.name:20}{str(error).partition(': ')[2] or error}")
                    continue
                print(f"yolo-coordbifpn models: {name}: {error}", file=sys.stderr)
                status = 1
                if not listed:  # there is no such stock model
                    return status
                continue
            _row(name, variant.name, ours, stock)
    return status


def _copy(pattern: str, to: Path) -> int:
    """Copy the shipped files whose names, with their folder, match a pattern; overwrite none."""
    from ..grafting.names import folder

    names = {x: x.relative_to(folder()).with_suffix("").as_posix() for x in sorted(folder().rglob("*.yaml"))}
    files = [x for x, name in names.items() if fnmatch(name, pattern) and name.count("/") == pattern.count("/")]
    if not files:
        raise UsageError(f"only= must match names such as yolo11-coordatt or yolov5-repository/*, got {pattern!r}.")
    existing = [x.name for x in files if (to / x.name).exists()]
    if existing:
        raise UsageError(f"{to} already has {', '.join(existing)}; nothing was copied.")
    to.mkdir(parents=True, exist_ok=True)
    for file in files:
        print(shutil.copyfile(file, to / file.name))
    return 0


def _row(name: str, variant: str, ours: Summary, stock: Summary) -> None:
    """Print one model, with its cost relative to the stock model."""
    share = [f"{a / b - 1:+8.2%}" if a is not b else " " * 8 for a, b in zip(ours[1::2], stock[1::2])]
    print(f"{name:38}{variant:20}{ours.parameters / 1e6:11.3f}{share[0]} {ours.gflops:8.2f}{share[1]}", flush=True)
