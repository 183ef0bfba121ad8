"""Runs the other scripts, so that each reports a wrong option in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from yolo_coordbifpn.commands import UsageError


def run_script(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Call a script's main function with the words of the command line, and exit with the status that it returns."""
    try:
        sys.exit(main(sys.argv[1:]))
    except UsageError as error:
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")
