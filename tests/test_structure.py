"""The rooms of the package: which may import which, and which ask Ultralytics for anything."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import yolo_coordbifpn

PACKAGE = Path(yolo_coordbifpn.__file__).parent
ROOMS = [  # data flows down this list: a room imports from those above it alone
    ("errors", "files"),
    ("blocks",),
    ("suppression",),
    ("graph",),
    ("registry",),
    ("host",),
    ("grafting",),
    ("inspection",),
    ("grids",),
    ("patches",),
    ("crowds",),
    ("compare",),
    ("commands",),
]
RANK = {name: rank for rank, rooms in enumerate(ROOMS) for name in rooms}
ASK_THE_HOST = {"host", "grafting", "inspection", "grids", "patches", "crowds", "compare", "commands"}


def room(file: Path) -> str:
    """Return the room that a file is in."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


FILES = sorted(x for x in PACKAGE.rglob("*.py") if room(x) in RANK and "startup" not in x.parts)


def imported(file: Path, everywhere: bool = True) -> Iterator[str]:
    """Give the modules that a file imports, those of the package by their path in it.

    Args:
        file: A file of the package.
        everywhere: Also imports inside functions, which are carried out when those are called.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (x.name for x in node.names)
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                yield node.module or ""
                continue
            home = file.relative_to(PACKAGE).parts[: -node.level]
            for name in node.names:
                yield ".".join(["yolo_coordbifpn", *home, *filter(None, [node.module]), name.name])


@pytest.mark.parametrize("file", FILES, ids=lambda x: x.relative_to(PACKAGE).as_posix())
def test_rooms_import_those_above_them(file: Path) -> None:
    """No room imports one further down, not even inside a function."""
    for name in imported(file):
        words = name.split(".")
        if words[0] == "yolo_coordbifpn" and len(words) > 1 and words[1] in RANK and words[1] != room(file):
            assert RANK[words[1]] < RANK[room(file)], name


@pytest.mark.parametrize("file", FILES, ids=lambda x: x.relative_to(PACKAGE).as_posix())
def test_rooms_that_know_no_host(file: Path) -> None:
    """Blocks, graph and registry run without Ultralytics; only SE and CBAM take theirs when they are built."""
    asks = any(name.split(".")[0] == "ultralytics" for name in imported(file))
    assert not asks or room(file) in ASK_THE_HOST or file.name == "cbam.py"


def test_every_room_is_known() -> None:
    """A new folder or file of the package has a place in the order."""
    there = {x.stem for x in PACKAGE.iterdir() if x.is_dir() or x.suffix == ".py"}
    there -= {"__init__", "__main__", "__pycache__", "model_yamls"}
    assert there == set(RANK)


def test_blocks_import_torch_alone() -> None:
    """The blocks need nothing but torch and the standard library, so that they can be used anywhere."""
    for file in (PACKAGE / "blocks").glob("*.py"):
        names = {x for x in imported(file, everywhere=False) if not x.startswith("yolo_coordbifpn.blocks")}
        assert {x.split(".")[0] for x in names} <= {"torch", *sys.stdlib_module_names}, file


def test_modules_do_not_import_each_other() -> None:
    """No module imports, at its top, one that imports it."""
    modules = {".".join(["yolo_coordbifpn", *x.relative_to(PACKAGE).with_suffix("").parts]): x for x in FILES}
    reads = {
        name: {m for x in imported(file, everywhere=False) for m in (x, x.rpartition(".")[0]) if m in modules}
        for name, file in modules.items()
    }
    seen: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"{' -> '.join(path[path.index(name) :])} -> {name}"
        if name not in seen:
            for other in reads[name]:
                walk(other, (*path, name))
            seen.add(name)

    for name in modules:
        walk(name, ())


@pytest.mark.parametrize(
    "name", ["blocks", "compare", "crowds", "grafting", "graph", "grids", "inspection", "registry"]
)
def test_the_index_of_a_room_names_every_file(name: str) -> None:
    """The docstring of a package lists its files."""
    text = (PACKAGE / name / "__init__.py").read_text(encoding="utf-8")
    files = {x.name for x in (PACKAGE / name).glob("*.py")} - {"__init__.py"}
    assert files == set(re.findall(r"\w+\.py", ast.get_docstring(ast.parse(text)) or ""))
