"""Show the versions, the start-up hook and the patches, and find conflicts.

    yolo-coordbifpn check

Exit status 0 means that `yolo train model=yolo11n-coordatt-bifpn.yaml ...` finds the blocks, 1 that it does not; then
the list says why.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from ..errors import HostError
from ..patches import hook

OPTIONS: dict[str, str] = {}
HOSTS = ("ultralytics", "ultralytics-opencv-headless")


def run(options: dict[str, str]) -> int:
    """Print the list; return 0 if `yolo` finds the blocks, else 1."""
    import yolo_coordbifpn

    from ..patches.install import host_version, install, lacking, register, status
    from ..patches.parser import parser_holds
    from ..registry import TABLE, environment
    from ..registry.entry_points import found, load, package
    from ..registry.table import clash

    print(f"{'Python':20}{platform.python_version()}  {sys.executable}")
    print(f"{'yolo_coordbifpn':20}{yolo_coordbifpn.__version__}  {Path(yolo_coordbifpn.__file__).parent}")
    hook.arm()
    alone = bool(hook.forks()) and importlib.util.find_spec("ultralytics") is None  # forks that need no Ultralytics
    problems = {name: _problem(install, name) for name in [*([] if alone else [None]), *hook.forks()]}
    faults = [x for x in problems.values() if x]
    host = sys.modules.get("ultralytics")
    if host is None:
        print(f"{'ultralytics':20}missing{', which the parsers below do not need' if alone else ''}")
    else:
        import torch

        print(f"{'torch':20}{torch.__version__}")
        print(f"{'ultralytics':20}{host_version()}  {Path(str(host.__file__)).parent}")
        for name, holds in status()[0].items():
            print(f"{'patch: ' + name:26}{'holds' if holds else 'does NOT hold'}")
            if not holds and not problems.get(None):
                faults.append(f"the patch of the {name} was undone by other code")
        for name, reason in lacking().items():
            print(f"{'patch: ' + name:26}not made, the others work without it: {reason}")
        for problem in filter(None, (clash(x, vars(sys.modules[hook.HOST])) for x in TABLE)):
            print(f"{'block of the host':26}{problem}")
    for name in hook.forks():
        print(f"{'parser: ' + name:26}{'holds' if parser_holds(sys.modules.get(name)) else 'does NOT hold'}")
    for entry in environment.entries():
        problem = environment.load(entry, register)
        print(f"{'block: ' + entry:26}{'registered' if not problem else 'NOT registered'}")
        faults += [problem] if problem else []
    for entry_point in found():
        problem = load(entry_point, register)
        state = "NOT registered" if problem else "registered"
        print(f"{'block: ' + entry_point.name:26}{state}, of {package(entry_point)}")
        faults += [problem] if problem else []
    active, reason = _hook()
    print(f"{'start-up hook':26}{reason}")
    if not active:
        faults.append(f"the start-up hook is not active: {reason}; `import yolo_coordbifpn` in a script does the same")
    faults += _switches()
    installed = [x for x in HOSTS if _installed(x)]
    if len(installed) > 1:
        faults.append(f"{' and '.join(installed)} are installed over each other: uninstall both, install one")
    for fault in faults:
        print(f"{'conflict':26}{fault}")
    if not faults:
        print(f"{'conflicts':26}none")
    return 1 if faults else 0


def _problem(install: Callable[[str | None], None], name: str | None) -> str:
    """Install a parser, None for the host; return why that failed, an empty string if it did not."""
    try:
        install(name)
    except HostError as error:
        return str(error)
    return ""


def _switches() -> list[str]:
    """Name the environment variables of this package with values that it does not know."""
    from ..patches import adaptive_nms, training_log

    known = {hook.AUTOLOAD: hook.SWITCH, training_log.SETTING: hook.SWITCH, adaptive_nms.SETTING: adaptive_nms.KINDS}
    given = {variable: os.environ.get(variable, "").strip().lower() for variable in known}
    return [f"{x}={given[x]}: expected {', '.join(known[x])}" for x in known if given[x] and given[x] not in known[x]]


def _hook() -> tuple[bool, str]:
    """Start a new interpreter, as `yolo` does; return whether it has the hook, and the reason."""
    code = "import sys; print('yolo_coordbifpn_startup' in {type(x).__module__ for x in sys.meta_path})"
    # in the root folder, so that the current folder adds nothing to the path
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path("/").resolve())
    if answer.stdout.strip() == "True":
        return True, "active"
    if not hook.is_on(hook.AUTOLOAD):
        return False, f"off by {hook.AUTOLOAD}={os.environ[hook.AUTOLOAD]}"
    return False, "not installed where this Python looks for .pth files"


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
