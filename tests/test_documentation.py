"""The pages: links, tables, sizes, and whether the commands and the Python that they show work."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT, SHARED

from yolo_coordbifpn.commands import COMMANDS, parse

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md"]
PAGES += sorted(x for name in ("scripts", "model_yamls", "yolo_coordbifpn") for x in (ROOT / name).rglob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", x.lower()).replace(" ", "-") for x in headings}


def test_the_readme_is_one_page() -> None:
    """README.md stays under 10 KiB, and has one line for each of the two commands from a fresh clone."""
    assert len(README.encode()) < 10_240
    for command in (".venv/bin/yolo-coordbifpn demo", ".venv/bin/pytest"):
        assert sum(command in line for line in README.splitlines()) == 1, command


@pytest.mark.parametrize("page", PAGES, ids=lambda x: x.relative_to(ROOT).as_posix())
def test_relative_links_exist(page: Path) -> None:
    """Every relative link leads to a file or a folder, and its anchor to a heading."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith(("http:", "https:")):
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_tables_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    """Each table says what its CSV says, and a changed one is found."""
    import make_tables

    assert make_tables.main(["--check"]) == 0, capsys.readouterr().out
    page = (ROOT / "scripts" / "README.md").read_text(encoding="utf-8")
    number = re.search(r"(?m)^\|[^|\n]*\|[^|\n]*\d\.(\d+)", page)
    assert number is not None
    changed = page[: number.start(1)] + "9" * 7 + page[number.end(1) :]
    assert make_tables.filled(changed) == page != changed


def test_numbers_in_sentences_are_inside_a_line() -> None:
    """No line begins with the comment of a number, which Markdown would read as the start of an HTML block."""
    for page in PAGES:
        assert not re.search(r"(?m)^ *<!-- table: \S+ -->[^\n]", page.read_text(encoding="utf-8")), page


def test_every_result_is_shown() -> None:
    """Each CSV of results has a link in scripts/README.md, and each table a place on a page."""
    import make_tables

    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r"<!-- table: (\S+) -->", text)) == set(make_tables.TABLES)
    page = (ROOT / "scripts" / "README.md").read_text(encoding="utf-8")
    for file in (ROOT / "scripts" / "results").iterdir():
        assert f"results/{file.name}" in page, file.name


@pytest.mark.parametrize("page", PAGES, ids=lambda x: x.relative_to(ROOT).as_posix())
def test_commands_exist(page: Path) -> None:
    """Each `yolo-coordbifpn` command of a page exists and has the options; each script is there."""
    for line in "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|;", line):
            words = [x for x in shlex.split(part, comments=True) if not re.match(r"[A-Z_]+=", x)]
            if words[:1] and words[0].endswith("yolo-coordbifpn"):
                assert words[1] in COMMANDS, line
                parse(words[2:], import_module(f"yolo_coordbifpn.commands.{words[1]}").OPTIONS)
            elif words[:1] == ["python"] and words[1].endswith(".py") and words[1].startswith("scripts/"):
                assert (ROOT / words[1]).is_file(), line


@pytest.mark.slow
def test_the_python_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The five lines of the README run as they are, with stock weights and COCO8, and print what the README says."""
    weights, data = SHARED / "weights" / "yolo11n-coco-int8dq.pt", SHARED / "data" / "coco8" / "data.yaml"
    if not (weights.is_file() and data.is_file()):
        pytest.skip("YOLO_COORDBIFPN_SHARED has no weights of yolo11n or no COCO8")
    code, expected = blocks(ROOT / "README.md", "python")[0], blocks(ROOT / "README.md", "text")[0]
    for name, value in (
        ('"yolo11n.pt"', repr(str(weights))),
        ('"coco8.yaml"', repr(str(data))),
        ("epochs=3, imgsz=640", f"epochs=1, imgsz=64, device='cpu', workers=0, plots=False, project={str(tmp_path)!r}"),
    ):
        assert name in code
        code = code.replace(name, value)
    monkeypatch.chdir(tmp_path)
    printed: list[str] = []
    exec(compile(code, "README.md", "exec"), {"print": lambda *words: printed.append(" ".join(map(str, words)))})  # noqa: S102
    assert printed == expected.splitlines()
