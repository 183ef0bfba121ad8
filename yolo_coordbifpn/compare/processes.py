"""Child processes of a comparison, which end with their parent or on an interrupt."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

POLL = 0.2  # seconds between two looks at the children


def start(module: str, *words: str, log: Path, **env: str) -> subprocess.Popen[bytes]:
    """Run a module in a child process, in its own session (on POSIX), with its output appended to a log.

    Variables in `env` are added to its environment.

    Its standard input is a pipe that only this process holds open, which `end_with_parent` relies on.
    """
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            start_new_session=os.name == "posix",
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a child and its own children, and wait until it has ended. A run loses no more than the current epoch."""
    if process.poll() is None:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def end_with_parent() -> None:
    """End this process and its children as soon as its parent is gone, even after `kill -9`.

    The parent keeps the other end of the standard input open and writes nothing, so end of file means that it is gone.
    Has no effect unless the standard input is a pipe. Afterwards the standard input is empty: on Windows, a child of
    this process, such as a worker of the data loader, would wait in its start-up for a pipe that is being read.
    """
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return
    pipe = os.dup(0)  # which children do not inherit
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    threading.Thread(target=_end_at_end_of_file, args=(pipe,), daemon=True).start()


def _end_at_end_of_file(pipe: int) -> None:
    os.read(pipe, 1)
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


@contextlib.contextmanager
def held_interrupts() -> Iterator[Callable[[], None]]:
    """Defer SIGINT and SIGTERM, so that neither can arrive between starting a child and recording it.

    Yields:
        A function that raises `KeyboardInterrupt` if one of them has arrived.
    """
    arrived: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        arrived.append(number)

    def check() -> None:
        if arrived:
            raise KeyboardInterrupt

    previous = {x: signal.signal(x, note) for x in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_to_end(module: str, *words: str, log: Path) -> int:
    """Run a module in a child process; return its exit status, see `failure`.

    Raises:
        KeyboardInterrupt: On SIGINT or SIGTERM, after the child has been ended.
    """
    with held_interrupts() as check:
        process = start(module, *words, log=log)
        try:
            while process.poll() is None:
                time.sleep(POLL)
                check()
        finally:
            stop(process)
    return process.returncode


def failure(code: int, log: Path) -> str:
    """Return why a child failed: the signal that killed it, or the last line of its log.

    Args:
        code: Its exit status; negative for a signal, as `subprocess` has it.
        log: Its log.
    """
    if code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    return next((x.strip() for x in reversed(lines) if x.strip()), f"exit status {code}, and nothing in its log")
