"""The start-up hook: it patches modules of the host, and parsers of forks, right after they are imported.

It is armed when the package is imported, by code or by `yolo_coordbifpn_startup`. The host may not be installed then,
so this file imports nothing but the standard library.
"""

import os
import sys

HOST = "ultralytics.nn.tasks"
ENGINE = "ultralytics.engine.model"
AUTOLOAD = "YOLO_COORDBIFPN_AUTOLOAD"  # environment variable: off to leave the host alone until this is imported
OFF = ("0", "false", "no", "off")  # values of a switch
SWITCH = ("1", "true", "yes", "on", *OFF)
PARSERS = "YOLO_COORDBIFPN_PARSERS"  # environment variable: parser modules of forks, separated by commas


class _Waiter:
    """A finder that waits for modules of the host: the other finders find them, and they are patched once loaded."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        """Return the other finders' spec for a module to patch, None for any other module."""
        if name not in (HOST, ENGINE, *_forks):
            return None
        for other in list(sys.meta_path):
            if other is self or not hasattr(other, "find_spec"):
                continue
            spec = other.find_spec(name, path, target)
            if spec is None:
                continue
            if hasattr(spec.loader, "exec_module"):
                spec.loader = _Loader(name, spec)  # type: ignore[assignment]
            else:  # a folder without __init__.py
                sys.stderr.write(
                    f"yolo_coordbifpn: {PARSERS} names {name}, which is a folder; name the module in it that has "
                    f"parse_model, such as {name}.yolo\n"
                )
            return spec
        return None


class _Loader:
    """A loader that patches a module after its own loader has run it."""

    def __init__(self, name, spec):  # type: ignore[no-untyped-def]
        """Take the place of the loader in the spec of a module."""
        self._name, self._spec, self._loader = name, spec, spec.loader

    def __getattr__(self, name):  # type: ignore[no-untyped-def]
        """Return what the module's own loader has."""
        return getattr(self._loader, name)

    def exec_module(self, module):  # type: ignore[no-untyped-def]
        """Give the module its own loader back, run it, and patch it."""
        self._spec.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        if armed():
            _patch(self._name)


def _patch(name):  # type: ignore[no-untyped-def]
    """Patch a loaded module; a failure is kept and raised when one of our models is built."""
    try:
        from . import install as patches

        if name in _forks:
            patches.install_parser_quietly(name)
        else:
            patches.install_quietly()
    except Exception as error:  # the import of the host must not fail
        sys.stderr.write(f"yolo_coordbifpn is not active: {type(error).__name__}: {error}\n")


waiter = _Waiter()
_forks = []  # type: ignore[var-annotated]  # parser modules of forks


def forks():  # type: ignore[no-untyped-def]
    """Return the names of the forks' parser modules that the hook patches besides the host's own."""
    return list(_forks)


def wait_for(parser):  # type: ignore[no-untyped-def]
    """Patch a fork's parser module too when it is imported."""
    if parser not in (HOST, ENGINE, *_forks):
        _forks.append(parser)


def is_on(variable):  # type: ignore[no-untyped-def]
    """Return whether a switch among the environment variables is on, as it is if it is not set.

    A value that is neither on nor off is reported on standard error, and the switch stays on.
    """
    value = os.environ.get(variable, "").strip().lower()
    if value and value not in SWITCH:
        sys.stderr.write(f"yolo_coordbifpn: {variable}={value!r} is neither on (1, true, yes) nor off (0, false, no)\n")
    return value not in OFF


def arm():  # type: ignore[no-untyped-def]
    """Patch the modules that are loaded now, and the others when they are; calling it again changes nothing."""
    if waiter not in sys.meta_path:
        is_on(AUTOLOAD)  # whatever it says, we have been imported
        sys.meta_path.insert(0, waiter)
    for name in os.environ.get(PARSERS, "").replace(",", " ").split():
        wait_for(name)
    for name in (HOST, *_forks):
        if hasattr(sys.modules.get(name), "parse_model"):
            _patch(name)


def disarm():  # type: ignore[no-untyped-def]
    """Stop patching what is imported from now on."""
    if armed():
        sys.meta_path.remove(waiter)


def armed():  # type: ignore[no-untyped-def]
    """Return whether the hook patches what is imported."""
    return waiter in sys.meta_path
