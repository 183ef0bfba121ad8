"""Python in a new process, in less time: a fork of a process that has imported what Ultralytics imports.

Most of the time of a short program is the import of torch. On Linux, a server imports it once and forks for each
program. A fork has loaded neither Ultralytics nor this package; it gets its own environment, folder, arguments and
`sys.path`, and then runs the start-up file of this package, as a new Python does.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SERVER = """
import atexit, gc, importlib, json, os, runpy, signal, site, sys, sysconfig, types

for name in ("torch", "torchvision", "cv2", "matplotlib.pyplot", "polars", "psutil", "requests", "scipy.spatial"):
    importlib.import_module(name)
installed = sys.path[1:]
gc.freeze()
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()

signal.alarm(job["limit"])
os.environ.clear()
os.environ.update(job["env"])
os.chdir(job["folder"])
for number, file in enumerate((os.devnull, job["out"], job["err"])):
    os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
first, *rest = job["words"]
search = [x for x in os.environ.get("PYTHONPATH", "").split(os.pathsep) if x]
sys.path[:] = ["" if first in ("-c", "-m") else os.path.dirname(os.path.abspath(first)), *search, *installed]
site.addpackage(sysconfig.get_path("purelib"), "yolo_coordbifpn.pth", set())
status = 0
try:
    if first == "-c":
        sys.argv[:] = ["-c", *rest[1:]]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    elif first == "-m":
        sys.argv[:] = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = job["words"]
        runpy.run_path(first, run_name="__main__")
except SystemExit as end:
    status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    if isinstance(end.code, str):
        print(end.code, file=sys.stderr)
except BaseException:
    sys.excepthook(*sys.exc_info())
    status = 1
atexit._run_exitfuncs()
sys.stdout.flush()
sys.stderr.flush()
os._exit(status)  # without the time to take the imported modules apart
"""


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Start the server, which ends when its standard input does."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env={**env, "YOLO_COORDBIFPN_AUTOLOAD": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)
    return server


def run_fresh(*words: str, folder: Path, limit: int = 400, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a new process, started as a user starts it.

    Args:
        words: What follows `python` on the command line: a script, or `-c` or `-m` and their value; then arguments. The
            command of a package is run as it is.
        folder: Working folder.
        limit: Seconds after which the process is killed.
        env: Environment variables to add.
    """
    command = [] if os.access(words[0], os.X_OK) else [sys.executable]
    return subprocess.run(
        [*command, *words], cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, timeout=limit
    )


def run_python(*words: str, folder: Path, limit: int = 400, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a new process as `run_fresh` does, on Linux in a fork."""
    if sys.platform != "linux":
        return run_fresh(*words, folder=folder, limit=limit, **env)
    server = _server()
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place, "out"), Path(place, "err")
        files = {"folder": str(folder), "out": str(out), "err": str(err)}
        print(json.dumps({**files, "words": words, "limit": limit, "env": {**os.environ, **env}}), file=server.stdin)
        server.stdin.flush()
        status = server.stdout.readline()
        assert status, "the server has ended"
        texts = [x.read_text(encoding="utf-8", errors="replace") for x in (out, err)]
    return subprocess.CompletedProcess(words, int(status), *texts)
