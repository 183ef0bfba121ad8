"""Installed as a top-level module beside the package; Python runs it at every start, unless it is switched off.

It loads the package when one of the modules that the package patches is first imported, so a Python that imports none
of them pays for this file alone.
"""

import os
import sys


class _Starter:
    """A finder that finds nothing itself; it loads the package when the first of some modules is asked for."""

    def __init__(self, names):  # type: ignore[no-untyped-def]
        self.names = names

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        """Return the spec of a module that the package patches, None for any other."""
        if name not in self.names:
            return None
        self.names = ()
        try:
            from yolo_coordbifpn.patches.hook import waiter  # importing the package arms the hook
        except Exception:
            return None  # a broken package must not break Python
        return waiter.find_spec(name, path, target)


def run():  # type: ignore[no-untyped-def]
    """Wait for Ultralytics and the parsers of forks to be imported; YOLO_COORDBIFPN_AUTOLOAD=0 switches this off."""
    if os.environ.get("YOLO_COORDBIFPN_AUTOLOAD", "").strip().lower() not in ("0", "false", "no", "off"):
        forks = os.environ.get("YOLO_COORDBIFPN_PARSERS", "").replace(",", " ").split()
        sys.meta_path.insert(0, _Starter({"ultralytics.nn.tasks", "ultralytics.engine.model", *forks}))
