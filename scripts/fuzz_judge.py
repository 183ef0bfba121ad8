"""How `scripts/fuzz.py` judges a case: runs it, checks its error, and checks that the host is unchanged."""

from __future__ import annotations

import copy
import difflib
import os
import re
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from fuzz_cases import NAMES, Case, at
from fuzz_report import BUILT, FINDING, OURS, THEIRS
from fuzz_run import Refused, build_and_run, caught, commanded, grafted
from ultralytics.nn import tasks
from ultralytics.utils import LOGGER

from yolo_coordbifpn import errors
from yolo_coordbifpn.registry import TABLE

HOSTS_OWN = {"legacy", "default_act", "np"}  # attributes of classes that the parser of some hosts sets, for any row


@dataclass
class Verdict:
    """The outcome of a case."""

    outcome: str
    error: str = ""  # its type
    where: str = ""  # of a finding: the function in which it was raised
    detail: str = ""  # of a finding


def judge(case: Case, limit: float) -> Verdict:
    """Run a case within a time limit in seconds, and return its outcome."""
    before, act = host_state(), tasks.Conv.default_act  # type: ignore[attr-defined]
    work = {"grafts": grafted, "files": commanded}.get(case.kind, lambda x: build_and_run(x.cfg, x.base.size))
    verdict = explain(case, caught(lambda: work(case), limit), limit)
    tasks.Conv.default_act = act  # type: ignore[attr-defined]  # the host does not restore it after an error
    after = host_state()
    changed = [x for x in before.keys() | after.keys() if before.get(x) != after.get(x)]
    if changed:
        return Verdict(FINDING, "changed host", changed[0], f"changed: {', '.join(changed)}")
    return verdict


def explain(case: Case, error: BaseException | None, limit: float) -> Verdict:
    """Return whose error it is, with proof."""
    name = type(error).__name__
    if error is None:
        return Verdict(BUILT)
    if isinstance(error, Refused):
        return Verdict(OURS, str(error))
    if case.kind == "grafts" and isinstance(error, (errors.GraftError, errors.HostError)):
        return Verdict(OURS, name)
    if case.kind in ("rows", "yamls"):
        if names_our_row(error, case.cfg):
            return Verdict(OURS, name)
        traceback.clear_frames(error.__traceback__)  # which hold the model, and its memory
        others = without_ours(case.cfg)
        alike = error if others == case.cfg else caught(lambda: build_and_run(others, case.base.size), limit)
        if type(alike) is type(error) and not isinstance(error, errors.RowError):
            return Verdict(THEIRS, name)
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].name}"
    return Verdict(FINDING, name, where, "".join(traceback.format_exception(error)[-6:]))


# Whose an error is ---------------------------------------------------------------------------------------------------


def is_inside(word: Any) -> bool:
    """Return whether a word is the name of a stock block followed by one of ours."""
    return isinstance(word, str) and word.endswith(tuple(f"_{x}" for x in NAMES))


def is_ours(row: Any) -> bool:
    """Return whether a row names one of our blocks: alone, inside a stock block, or with a spelling mistake."""
    words = [x for x in (row if isinstance(row, (list, dict)) else [row]) if isinstance(x, str)]
    lower = [x.lower() for x in NAMES]
    return any(x in NAMES or is_inside(x) or difflib.get_close_matches(x.lower(), lower, 1, 0.8) for x in words)


def names_our_row(error: BaseException, cfg: dict[str, Any]) -> bool:
    """Return whether an error of ours names one of our rows and does not only pass on another error."""
    match = re.search(r"layer (\d+) ?[(),]", str(error))
    if match is None or not isinstance(error, ValueError):
        return False
    section, k = at(cfg, int(match[1]))
    passed_on = re.search(r"\b[A-Z]\w+Error: ", str(error).partition("]: ")[2])
    return is_ours(section[k]) and (not passed_on or any(map(is_inside, section[k])))


def without_ours(cfg: dict[str, Any]) -> dict[str, Any]:
    """Replace our rows by the nearest rows of the host."""
    cfg = copy.deepcopy(cfg)
    for key in ("backbone", "head"):
        if isinstance(cfg.get(key), list):
            cfg[key] = [nearest(x, key == "backbone" and k == 0) if is_ours(x) else x for k, x in enumerate(cfg[key])]
    return cfg


def nearest(row: Any, first: bool) -> Any:
    """Return the host's row that is nearest to one of ours.

    The host reads the module of the first row before its parser does, so that row keeps its form.
    """
    if not isinstance(row, list) or len(row) != 4 or not isinstance(row[2], str):
        forms: dict[Any, Any] = {list: list, dict: dict.fromkeys, str: "".join}
        renamed = forms[type(row)]("?" if isinstance(row, str) or is_ours(x) else x for x in row)
        return renamed if first else [-1, 1, "nn.Identity", []]
    source, repeats, name, args = row
    if is_inside(name):
        own = next(x for x in NAMES if name.endswith(f"_{x}"))
        return [source, repeats, name.removesuffix(f"_{own}"), args]
    if name == "BiFPN_Concat" and isinstance(source, list):
        return [source, 1, "Concat", [1]]
    read = source[0] if isinstance(source, list) and source else source
    return [read if isinstance(read, int) else -1, 1, "nn.Identity", []] if name in NAMES else row


def host_state() -> dict[str, Any]:
    """Describe the host: the module of its parser, code and class attributes, the block table, torch, the process."""
    state: dict[str, Any] = {}
    for name, value in vars(tasks).items():
        state[f"tasks.{name}"] = id(value)
        if isinstance(value, FunctionType):
            state[f"tasks.{name}()"] = (value.__code__, value.__defaults__)
        elif isinstance(value, type):
            state |= {f"{name}.{k}": id(x) for k, x in vars(value).items() if k not in HOSTS_OWN and k[:2] != "__"}
    state["blocks"] = ([*TABLE._by_name], [*map(id, TABLE._rules.values())], [*TABLE.variants])
    allowed: list[Any] = getattr(torch.serialization, "get_safe_globals", list)()
    state["allowed"] = {x for x in allowed if not x.__module__.startswith("torch.")}  # torch adds its own
    state["torch"] = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled())
    state["process"] = (LOGGER.level, Path.cwd(), {k: x for k, x in os.environ.items() if k.startswith("YOLO")})
    return state
