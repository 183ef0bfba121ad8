"""The start-up hook: waits for modules of the host to be imported, then patches them.

Armed when the package is imported, by code or by `yolo_coordbifpn_startup`, which may be before the host is there; so
this file imports nothing but the standard library.
"""

import os
import sys

HOST = "ultralytics.nn.tasks"
PARSERS = "YOLO_COORDBIFPN_PARSERS"  # environment variable: parser modules of forks, with commas between
_WAITS = {  # module of the host -> function of patches.py to call once it is loaded
    HOST: "install_quietly",
    "ultralytics.engine.model": "patch_engine",
}


class _Waiter:
    """A finder that finds nothing itself; it lets a module of the host run something once it is loaded."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        """Return the spec that the other finders give for a module of the host, None for any other."""
        if name not in _WAITS and name not in _forks:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                _after_loading(name, spec.loader)
                return spec
        return None


def _after_loading(name, loader):  # type: ignore[no-untyped-def]
    """Make a loader call us right after it has run the module."""
    run = loader.exec_module

    def exec_module(module):  # type: ignore[no-untyped-def]
        run(module)
        if armed():
            _patch(name)

    loader.exec_module = exec_module


def _patch(name):  # type: ignore[no-untyped-def]
    """Patch a loaded module; what goes wrong is kept and raised when one of our models is built."""
    try:
        from . import install as patches

        if name in _forks:
            patches.install_parser_quietly(name)
        else:
            getattr(patches, _WAITS[name])()
    except Exception as error:  # never break the import of the host
        sys.stderr.write(f"yolo_coordbifpn is not active: {type(error).__name__}: {error}\n")


waiter = _Waiter()
_forks = []  # type: ignore[var-annotated]  # parser modules of forks


def forks():  # type: ignore[no-untyped-def]
    """Return the parser modules of forks that the hook waits for, beside the host's own."""
    return list(_forks)


def wait_for(parser):  # type: ignore[no-untyped-def]
    """Wait for a parser module of a fork too."""
    if parser not in _forks and parser not in _WAITS:
        _forks.append(parser)


def arm():  # type: ignore[no-untyped-def]
    """Patch what is loaded of the host now, and the rest as soon as it is; calling it again changes nothing."""
    if waiter not in sys.meta_path:
        sys.meta_path.insert(0, waiter)
    for name in os.environ.get(PARSERS, "").replace(",", " ").split():
        wait_for(name)
    for name in (HOST, *_forks):
        if hasattr(sys.modules.get(name), "parse_model"):
            _patch(name)


def disarm():  # type: ignore[no-untyped-def]
    """Stop waiting for the host."""
    if armed():
        sys.meta_path.remove(waiter)


def armed():  # type: ignore[no-untyped-def]
    """Tell whether the hook waits for the host."""
    return waiter in sys.meta_path
