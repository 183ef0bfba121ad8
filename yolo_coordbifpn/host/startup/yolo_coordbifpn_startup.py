"""Installed as a top-level module beside the package: what Python runs at every start, unless switched off."""

import os


def run():  # type: ignore[no-untyped-def]
    """Arm the start-up hook of yolo_coordbifpn; YOLO_COORDBIFPN_AUTOLOAD=0 switches it off."""
    if os.environ.get("YOLO_COORDBIFPN_AUTOLOAD", "1") == "0":
        return
    try:  # noqa: SIM105 - importing contextlib at every start of Python would cost more than the rest
        import yolo_coordbifpn  # noqa: F401 - the import arms the hook
    except Exception:
        pass  # a broken package must not break Python
