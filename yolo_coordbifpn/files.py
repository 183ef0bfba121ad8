"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write(file: Path, content: str | bytes) -> None:
    """Write a file so that it is there as a whole or not at all, whatever happens meanwhile."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    with part.open("wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)
