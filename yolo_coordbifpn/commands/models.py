"""List the shipped models and what they cost against the stock models, counted on the Ultralytics in hand.

    yolo-coordbifpn models             scale n of each
    yolo-coordbifpn models scale=nsx   these scales

Parameters are in millions, GFLOPs at 640 px; the percentages are against the stock model of the same scale.
"""

from __future__ import annotations

import functools
import sys

from . import UsageError

OPTIONS = {"scale": "n"}
SCALES = "nsmlx"


def run(options: dict[str, str]) -> int:
    """Print the table; return 1 if a model could not be built."""
    from ..errors import HostError
    from ..host.names import shipped
    from ..host.patches import install
    from ..host.summary import summarize

    scales = options["scale"]
    if not scales or set(scales) - set(SCALES):
        raise UsageError(f"scale= takes letters of {SCALES}, such as scale=n or scale=nsmlx, got {scales!r}.")
    try:
        install()
    except HostError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{'model':34}{'arm':18}{'params (M)':>11}{'':9}{'GFLOPs':>8}")
    stock_summary = functools.cache(summarize)  # one for all arms of a family
    status = 0
    last = ""
    names = [x.removesuffix(".yaml").split("-", 1) for x in shipped()]
    for family, arm in sorted(names, key=lambda x: (x[0], len(x[1]))):
        for scale in scales:
            try:
                stock = stock_summary(f"{family}{scale}.yaml")
                ours = summarize(f"{family}{scale}-{arm}.yaml")
            except HostError as error:
                print(f"{family}{scale}-{arm}.yaml: {error}", file=sys.stderr)
                status = 1
                continue
            if family != last:
                _row(f"{family}{scale}.yaml", "(stock)", stock, stock)
            _row(f"{family}{scale}-{arm}.yaml", arm, ours, stock)
        last = family
    return status


def _row(name, arm, ours, stock) -> None:  # type: ignore[no-untyped-def]
    share = [f"{a / b - 1:+8.2%}" if a is not b else " " * 8 for a, b in zip(ours[1::2], stock[1::2])]
    print(f"{name:34}{arm:18}{ours.parameters / 1e6:11.3f}{share[0]} {ours.gflops:8.2f}{share[1]}")
