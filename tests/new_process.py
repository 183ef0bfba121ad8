"""Python in a new process, in less time: a fork of a process that has imported what Ultralytics imports.

Most of the time of a short program is the import of torch. On Linux, a server imports it once and forks for each
program. A fork has loaded neither Ultralytics nor this package; it gets its own environment, folder, arguments and
`sys.path`, and then runs the start-up file of this package, as a new Python does.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import multiprocessing.process
import os
import runpy
import select
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

IMPORTED = (
    "torch", "torchvision", "cv2", "matplotlib.pyplot", "polars", "requests", "scipy.spatial",
    "ray", "thop",  # by integrations of the host and by its count of operations
    "torch._inductor.config",  # by `use_deterministic_algorithms`, at the start of a training
)  # fmt: skip

# the command `compare`, which on Linux starts its runs as forks of its own process
COMPARE = f"""
import sys
from yolo_coordbifpn.commands import main
from yolo_coordbifpn.compare import executors, processes

if sys.platform == "linux":
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from new_process import Fork
    executors.start = processes.start = Fork
sys.exit(main(["compare", *sys.argv[1:]]))
"""


def run_fresh(*words: str, folder: Path, limit: int = 400, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a new process, started as a user starts it.

    Args:
        words: What follows `python` on the command line: a script, or `-c` or `-m` and their value; then arguments. The
            command of a package is run as it is.
        folder: Working folder.
        limit: Seconds after which the process is killed.
        env: Environment variables to add.
    """
    runs_itself = os.access(words[0], os.X_OK) and not words[0].endswith(".py")  # on Windows every file has X_OK
    command = [*words] if runs_itself else [sys.executable, *words]
    env = {**os.environ, **env}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=limit)


def run_python(*words: str, folder: Path, limit: int = 400, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a new process as `run_fresh` does, on Linux in a fork."""
    if sys.platform != "linux":
        return run_fresh(*words, folder=folder, limit=limit, **env)
    return Program(*words, folder=folder, limit=limit, **env).ended()


def all_end(processes: Sequence[psutil.Process], seconds: float) -> bool:
    """Wait until processes have ended; return whether they did.

    An orphan that waits to be reaped has ended; the first process of a container may reap once a second.
    """
    end = time.monotonic() + seconds
    while any(map(_runs, processes)):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Program:
    """A program that runs in a fork of the server, which runs one at a time.

    Attributes:
        pid: Its process.
    """

    def __init__(self, *words: str, folder: Path, limit: int = 400, **env: str) -> None:
        """Start it; the arguments are those of `run_fresh`."""
        self._words, self._place, self._server = words, tempfile.TemporaryDirectory(), _server()
        self._files = [str(Path(self._place.name, x)) for x in ("out", "err")]
        job = {"words": words, "folder": str(folder), "limit": limit, "files": self._files}
        self._server.stdin.write(json.dumps({**job, "env": {**os.environ, **env}}).encode() + b"\n")
        self.pid = int(self._server.stdout.readline())

    def runs(self) -> bool:
        """Return whether it has not ended."""
        return not select.select([self._server.stdout], [], [], 0)[0]

    def ended(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end, and return its exit status and its output; to be called once."""
        status = int(self._server.stdout.readline())
        texts = [Path(x).read_text(encoding="utf-8", errors="replace") for x in self._files]
        self._place.cleanup()
        return subprocess.CompletedProcess(self._words, status, *texts)


@functools.cache
def _server() -> subprocess.Popen[bytes]:
    """Start the server, which ends when its standard input does."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    server = subprocess.Popen(
        [sys.executable, __file__],
        env={**env, "YOLO_COORDBIFPN_AUTOLOAD": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    atexit.register(server.communicate)
    return server


# In the server and its forks -----------------------------------------------------------------------------------------


def serve() -> None:
    """Fork for each job that is read from the standard input; print the process, and its exit status when it ends."""
    installed = sys.path[1:]  # before Ray adds to it
    for name in IMPORTED:
        with contextlib.suppress(ImportError):  # other hosts need other packages
            importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _work(json.loads(line), installed)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _work(job: dict[str, Any], installed: list[str]) -> None:
    """Do a job in this fork."""
    signal.alarm(job["limit"])
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["folder"])
    multiprocessing.process.ORIGINAL_DIR = os.getcwd()  # type: ignore[attr-defined]  # of the main program's file
    for number, file in enumerate((os.devnull, *job["files"])):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    first = job["words"][0]
    search = [x for x in os.environ.get("PYTHONPATH", "").split(os.pathsep) if x]
    sys.path[:] = ["" if first in ("-c", "-m") else str(Path(first).resolve().parent), *search, *installed]
    site.addpackage(sysconfig.get_path("purelib"), "yolo_coordbifpn.pth", set())
    become(job["words"])


def become(words: Sequence[str]) -> None:
    """Run a program in this process as its main program, and end the process.

    Args:
        words: What follows `python` on the command line.
    """
    first, *rest = words
    status = 0
    try:
        if first == "-c":
            sys.argv[:] = ["-c", *rest[1:]]
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(compile(rest[0], "<string>", "exec"), vars(main))  # noqa: S102
        elif first == "-m":
            sys.argv[:] = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv[:] = words
            runpy.run_path(first, run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # without the time to take the imported modules apart


class Fork:
    """A fork of this process that runs a module, in place of what `compare.processes.start` starts."""

    def __init__(self, module: str, *words: str, log: Path, **env: str) -> None:
        """Start the fork in its own session, with its output in a log and a pipe as its standard input."""
        sys.stdout.flush()
        sys.stderr.flush()
        theirs, self.stdin = os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            os.close(theirs)
            return
        os.setsid()
        os.environ.update(env)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number, file in enumerate((theirs, stream, stream)):
            os.dup2(file, number)
        os.closerange(3, 256)  # locks of the parent, and the pipes of its other children
        atexit._clear()  # such as the removal of its temporary folders
        become(["-m", module, *words])

    def poll(self, options: int = os.WNOHANG) -> int | None:
        """Return the exit status, negative for a signal, None if the fork runs."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self) -> int | None:
        """Wait for the end of the fork."""
        return self.poll(0)


if __name__ == "__main__":
    serve()
