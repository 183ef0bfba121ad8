"""Atomic writing of files."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any


def write(file: Path, content: str | bytes) -> None:
    """Write a file atomically: after an interruption it has either its old content or all of the new one.

    Args:
        file: The file; its folder must exist.
        content: What to write, a text as UTF-8.

    Raises:
        OSError: If the file cannot be written.
    """
    file = file.resolve()  # a link stays a link
    part = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with part.open("wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        if file.exists() and os.name == "posix":
            shutil.copymode(file, part)
        _replace(part, file)
    except OSError as error:
        error.filename = str(file)  # the name that the user knows
        raise
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _replace(part: Path, file: Path) -> None:
    """Replace a file; on Windows, where another process may have it open for a moment, try for a second."""
    for _ in range(20 if os.name == "nt" else 0):
        try:
            part.replace(file)
        except PermissionError:
            time.sleep(0.05)
        else:
            return
    part.replace(file)


def write_figure(figure: Any, file: Path, dpi: int = 150) -> Path:
    """Write a figure of matplotlib as PNG, atomically; return the file."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=dpi, format="png")
    write(file, stream.getvalue())
    return file
