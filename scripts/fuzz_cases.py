"""What `scripts/fuzz.py` draws: model YAMLs with and without mistakes, options of a graft, damaged files."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from yolo_coordbifpn import install
from yolo_coordbifpn.graph.rows import flow
from yolo_coordbifpn.registry import TABLE
from yolo_coordbifpn.registry.shipped import declared

install()


def defaults(block: type) -> list[Any]:
    """Return the default arguments of a block, without its channels."""
    return [x.default for x in inspect.signature(block).parameters.values() if x.default is not x.empty]


TABLE.discovery.find_all()  # also those that are registered when they are first named
NAMES = [block.__name__ for block in declared()]
FUSIONS = [
    "SpatialGate",
    *(block.__name__ for block in declared() if hasattr(block, "normalized_weights")),
]  # they read several layers
RIGHT = {block.__name__: [[*defaults(block)[:n]] for n in range(len(defaults(block)) + 1)] for block in declared()}
VARIANTS = [*TABLE.variants]
INSIDE = [f"{stock}_{name}" for stock in ("C3k2", "C2f", "C3", "Conv", "Nothing") for name in NAMES]
NEARLY = ["coordatt", "CoordAttn", "CoordAtt ", "BiFPN", "BiFPN_concat", "BiFPN_Sum", "Separable", "_CoordAtt", "se"]
OTHERS = ["Concat", "Conv", "nn.Identity", "C3k2", "SPPF", "Foo", "nn.Foo", ""]

few = st.sampled_from([-2, -1, 0, 1, 2, 3, 7, 8, 16, 32, 33, 64])
scalars = st.one_of(
    few,
    st.sampled_from([None, True, False, 1024, 10**9, 2**70]),
    st.sampled_from([0.0, -1.0, 1e-4, 0.5, 1.0, 4.0, 1e30, 1e308, math.nan, math.inf, -math.inf]),
    st.sampled_from(["", "x", "None", "n", "nc", "ch", "d", "args", "scale", "1", "1e-4", "[1]", "(", "a b", "\u00e9"]),
)
odd = st.one_of(scalars, st.lists(scalars, max_size=3), st.sampled_from([{}, {"a": 1}, [[1]], [[]]]))
wrong_kinds: list[Any] = [None, True, 0.5, 1.0, math.nan, "x", "None", "nc", "", [], [1], [3, 3], {}]
mild = st.one_of(few, st.sampled_from(wrong_kinds))
factors = st.sampled_from([*wrong_kinds, math.inf, -1, 0, 0.1, 1])  # none above 1, to keep the models small


@dataclass(frozen=True)
class Base:
    """A model YAML that builds and runs at a tiny scale."""

    name: str
    cfg: dict[str, Any]
    size: int  # of the image, in pixels
    text: str = ""  # of the file


SMALL = Base(
    "a small model",
    {
        "nc": 2,
        "backbone": [[-1, 1, "Conv", [c, 3, 2]] for c in (8, 8, 16, 16)],
        "head": [
            [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
            [[-1, 2], 1, "Concat", [1]],
            [[5, 3], 1, "Detect", ["nc"]],
        ],
    },
    64,
)


@dataclass
class Case:
    """One case: a model YAML, and the options for it."""

    kind: str
    base: Base
    cfg: dict[str, Any]
    options: dict[str, Any]
    text: str = ""

    def __str__(self) -> str:
        """Write the case as a user would."""
        lines = [f"# {self.kind}, from {self.base.name}, {self.base.size} px"]
        lines += [f"# {key}={value!r}" for key, value in self.options.items()]
        for key, value in self.cfg.items() if not self.text else ():
            rows = key in ("backbone", "head") and isinstance(value, list)
            lines += [f"{key}:", *(f"  - {flow(row)}" for row in value)] if rows else [f"{key}: {flow(value)}"]
        return "\n".join([*lines, self.text])


def plain(bases: Sequence[Base]) -> list[Base]:
    """Return the model YAMLs without our blocks."""
    return [x for x in bases if "-coordatt" not in x.name and "-bifpn" not in x.name]


def strategy(kind: str, bases: Sequence[Base]) -> st.SearchStrategy[Case]:
    """Return what is drawn for one kind of case, see `scripts/fuzz.py`."""
    return {"rows": row_cases, "yamls": yaml_cases, "grafts": graft_cases, "files": file_cases}[kind](bases)


@st.composite
def row_cases(draw: Any, bases: Sequence[Base]) -> Case:
    """Put one or two rows of ours into a stock YAML."""
    base = draw(st.sampled_from(plain(bases)))
    cfg = copy.deepcopy(base.cfg)
    for _ in range(draw(st.integers(1, 2))):
        index = draw(st.integers(0, len(cfg["backbone"] + cfg["head"]) - 2))
        if draw(st.booleans()):
            put_in(draw, cfg, index)
        else:
            put_over(draw, cfg, index)
    return Case("rows", base, cfg, {})


@st.composite
def yaml_cases(draw: Any, bases: Sequence[Base]) -> Case:
    """Change a stock or shipped YAML."""
    base = draw(st.sampled_from(bases))
    cfg = copy.deepcopy(base.cfg)
    for _ in range(draw(st.integers(1, 2))):
        change(draw, cfg)
    return Case("yamls", base, cfg, {})


@st.composite
def graft_cases(draw: Any, bases: Sequence[Base]) -> Case:
    """Change a YAML, or not, and draw options of `graft()`."""
    base = draw(st.sampled_from(plain(bases)))
    cfg = copy.deepcopy(base.cfg)
    if draw(st.booleans()):
        change(draw, cfg)
    return Case("grafts", base, cfg, draw(options(scalars)))


@st.composite
def file_cases(draw: Any, bases: Sequence[Base]) -> Case:
    """Damage the text of a YAML, or not, and draw a command and its options."""
    base = draw(st.sampled_from([x for x in plain(bases) if x.text]))
    lines = base.text.splitlines(keepends=True)
    for _ in range(draw(st.integers(0, 2))):
        k = draw(st.integers(0, len(lines) - 1))
        cut = draw(st.integers(0, len(lines[k])))
        head, tail = lines[k][:cut], lines[k][cut:]
        damaged = [[], [lines[k], lines[k]], [head], [head, "\n", tail], [head, "]", tail]]
        lines[k : k + 1] = draw(st.sampled_from(damaged))
    name = draw(st.sampled_from(["graft", "graft", "graph", "upgrade"]))
    words = {"graft": graft_words, "graph": st.just({}), "upgrade": upgrade_words}[name]
    other = {"save": saves, "against": st.just("x.yaml"), "x": saves} if name == "graph" else {"save": saves}
    drawn = {**draw(words), **draw(st.fixed_dictionaries({}, optional=other))}
    return Case("files", base, base.cfg, {"command": name, **drawn}, "".join(lines))


@st.composite
def options(draw: Any, wrong: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Draw options of a graft; at most one of them is likely to be wrong."""
    places = ["P5", "P3", "P4,P5", "deepest", "N3", "N4", "bottleneck", "none", "P5,P5", "P9", "Q5"]
    right = {
        "coordatt": st.sampled_from(places),
        "bifpn": st.sampled_from(["concat", "add", "none"]),
        "neck": st.sampled_from(["pan", "pan", "fpn", "dualpath"]),
        "levels": st.sampled_from(["P2", "P2", "P2-P4", "P3-P4", "P3-P5", "P1", "P4-P2"]),
        "attention": st.sampled_from([*VARIANTS, *VARIANTS, *NAMES, "Conv", "Nothing"]),
        "edge": st.booleans(),
        "repeats": st.integers(1, 3),
        "width": st.sampled_from([8, 64, 256]),
    }
    drawn: dict[str, Any] = draw(st.fixed_dictionaries({}, optional=right))
    return {**drawn, draw(st.sampled_from([*right])): draw(wrong)} if draw(st.booleans()) else drawn


graft_words = options(st.sampled_from(["", "x", "0", "-1", "1.5", "nan", "None", "[1]", "\u00e9", "P9", "1e3"]))
upgrade_words = graft_words.map(
    lambda x: {k: x[k] for k in ("coordatt", "bifpn", "neck", "levels", "attention") if k in x}
)
saves = st.sampled_from(["", "x.yaml", "x.pt", "x.svg", "x.txt", "x", ".", "nowhere/x.svg"])


def put_in(draw: Any, cfg: dict[str, Any], index: int) -> None:
    """Insert a row of ours; the indices of the layers after it are shifted."""

    def moved(source: Any) -> Any:
        return source + 1 if isinstance(source, int) and source >= index else source

    for row in (x for x in cfg["backbone"] + cfg["head"] if isinstance(x, list) and x):
        row[0] = [moved(x) for x in row[0]] if isinstance(row[0], list) else moved(row[0])
    section, k = at(cfg, index)
    section.insert(k, own_row(draw, index, None))


def put_over(draw: Any, cfg: dict[str, Any], index: int) -> None:
    """Replace a row by one of ours; a concatenation may keep its inputs."""
    section, k = at(cfg, index)
    source = section[k][0] if isinstance(section[k], list) and section[k] else None
    section[k] = own_row(draw, index, source)


def own_row(draw: Any, index: int, source: Any) -> Any:
    """Draw a row of ours; at most one of its parts is likely to be wrong."""
    name = draw(st.sampled_from(NAMES))
    earlier = st.integers(0, index - 1) if index else st.just(-1)
    sources: st.SearchStrategy[Any] = st.one_of(st.just(-1), st.just(-1), earlier)
    if name in FUSIONS:
        sources = st.lists(st.one_of(st.just(-1), earlier), min_size=2, max_size=3)
        sources = st.one_of(st.just(source), sources) if isinstance(source, list) else sources
    row = [draw(sources), 1, name, copy.deepcopy(draw(st.sampled_from(RIGHT[name])))]
    fault = draw(st.sampled_from(["", "", "from", "repeats", "args", "args", "name", "shape"]))
    if fault == "from":
        wrong = st.one_of(st.sampled_from([index, index + 1, -index - 1, -2, 10**9]), odd)
        row[0] = draw(st.one_of(wrong, st.lists(st.one_of(earlier, wrong), max_size=3)))
    elif fault == "repeats":
        row[1] = draw(st.one_of(st.sampled_from([2, 3, 10**5]), odd))
    elif fault == "args":
        row[3] = draw(st.one_of(st.lists(odd, max_size=4), odd))
    elif fault == "name":
        row[2] = draw(st.sampled_from([*INSIDE, *NEARLY]))
        row[3] = draw(st.sampled_from([row[3], [16], [16, True], [16, 3, 1]]))
    elif fault == "shape":
        fewer = st.integers(0, 3).map(lambda n: row[:n])
        return draw(st.one_of(st.permutations(row), fewer, st.sampled_from([[*row, 1], name, {name: []}])))
    return row


def change(draw: Any, cfg: dict[str, Any]) -> None:
    """Change one thing in a model YAML."""
    what = draw(st.sampled_from(["delete", "double", "swap", "shift", "from", "repeats", "module", "args", "key"]))
    if what == "key":
        change_key(draw, cfg)
        return
    if not all(isinstance(cfg.get(x), list) and cfg[x] for x in ("backbone", "head")):
        return
    count = len(cfg["backbone"]) + len(cfg["head"])
    section, k = at(cfg, draw(st.integers(0, count - 1)))
    if what == "delete":
        del section[k]
    elif what == "double":
        section.insert(k, copy.deepcopy(section[k]))
    elif what == "swap":
        other, j = at(cfg, draw(st.integers(0, count - 1)))
        section[k], other[j] = other[j], section[k]
    elif isinstance(section[k], list) and len(section[k]) == 4:
        change_row(draw, section[k], what, count)


def change_row(draw: Any, row: list[Any], what: str, count: int) -> None:
    """Change one part of a row."""
    if what == "shift":
        step = draw(st.sampled_from([-1, 1, 2]))
        sources = row[0] if isinstance(row[0], list) else [row[0]]
        moved = [x + step if isinstance(x, int) and x >= 0 else x for x in sources]
        row[0] = moved if isinstance(row[0], list) else moved[0]
    elif what == "from":
        row[0] = draw(st.one_of(st.integers(-3, count + 1), st.lists(st.integers(-2, count), max_size=4), mild))
    elif what == "repeats":
        row[1] = draw(st.one_of(st.integers(-1, 3), factors))
    elif what == "module":
        row[2] = draw(st.sampled_from([*NAMES, *NEARLY, *OTHERS]))
    elif isinstance(row[3], list) and row[3]:
        row[3][draw(st.integers(0, len(row[3]) - 1))] = draw(odd if row[2] in NAMES else mild)


def change_key(draw: Any, cfg: dict[str, Any]) -> None:
    """Change or remove one key of a model YAML."""
    plain = ["nc", "scale", "depth_multiple", "width_multiple", "kpt_shape", "reg_max", "end2end"]
    key = draw(st.sampled_from([*plain, "scales", "backbone", "head"]))
    if draw(st.booleans()):
        cfg.pop(key, None)
    elif key == "scales":
        letters = [{}, {"n": []}, {"n": [0.33, 0.125]}, {"n": None}, {"n": [0, 0, 0]}, {"m": [0.33, 0.125, 64]}]
        numbers = st.lists(factors, min_size=3, max_size=3).map(lambda x: {"n": x})
        cfg[key] = draw(st.one_of(st.sampled_from([*letters, [1], 3, "n"]), numbers))
    elif key in ("backbone", "head"):
        cfg[key] = draw(st.sampled_from([None, [], {}, "Conv", 3, [None], [[]], [[-1, 1, "Conv"]], [3], "SE", ["SE"]]))
    else:
        cfg[key] = draw(factors if key.endswith("multiple") else mild)


def at(cfg: dict[str, Any], index: int) -> tuple[list[Any], int]:
    """Return the section of a row and its index there."""
    size = len(cfg["backbone"])
    return (cfg["backbone"], index) if index < size else (cfg["head"], index - size)
