"""The start-up hook: waits for `ultralytics.nn.tasks` to be imported, then patches it.

Loaded by a `.pth` line at every start of Python, so this file imports nothing that a bare interpreter has not got.
"""

import sys

HOST = "ultralytics.nn.tasks"


class _Waiter:
    """A finder that finds nothing itself; it lets the host's module run something once it is loaded."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        """Return the spec that the other finders give for the host's module, None for any other."""
        if name != HOST:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                _after_loading(spec.loader)
                return spec
        return None


def _after_loading(loader):  # type: ignore[no-untyped-def]
    """Make a loader patch the host right after it has run the module."""
    run = loader.exec_module

    def exec_module(module):  # type: ignore[no-untyped-def]
        run(module)
        disarm()
        _patch()

    loader.exec_module = exec_module


def _patch():  # type: ignore[no-untyped-def]
    """Patch the loaded host; what goes wrong is kept and raised when one of our models is built."""
    try:
        from .patches import install_quietly

        install_quietly()
    except Exception as error:  # never break the import of the host
        sys.stderr.write(f"yolo_coordbifpn is not active: {type(error).__name__}: {error}\n")


_waiter = _Waiter()


def arm():  # type: ignore[no-untyped-def]
    """Patch the host if it is loaded, else as soon as it is; calling it again changes nothing."""
    host = sys.modules.get(HOST)
    if host is None:
        if _waiter not in sys.meta_path:
            sys.meta_path.insert(0, _waiter)
    elif hasattr(host, "parse_model"):
        _patch()


def disarm():  # type: ignore[no-untyped-def]
    """Stop waiting for the host."""
    if _waiter in sys.meta_path:
        sys.meta_path.remove(_waiter)


def armed():  # type: ignore[no-untyped-def]
    """Tell whether the hook waits for the host."""
    return _waiter in sys.meta_path
