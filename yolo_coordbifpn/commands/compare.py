"""Train several models with several seeds, and report which is better on your data, with confidence intervals.

    yolo-coordbifpn compare models=yolo11n variants=coordatt,bifpn data=my.yaml epochs=50 pretrained=yolo11n.pt
    yolo-coordbifpn compare models=yolo11n.yaml,yolo11n-bifpn.yaml,yolo11s.yaml data=my.yaml seeds=0-4 epochs=9 dry=True

models=     model YAMLs, checkpoints and names without .yaml, separated by commas; the first is the baseline
variants=   for names without .yaml: what to train besides the stock model; default coordatt,bifpn,coordatt-bifpn
labels=     names of the models in tables, separated by commas; default the file's name, or the run's for a checkpoint
seeds=      whole numbers and ranges such as 0-4,7; every model is trained with each; default 0,1,2, or 0-9 in a race
budget=     a time such as 2h, 90m or 1h30m, which makes it a race: all models get one seed, then the next, and from the
            third seed on, variants that are clearly not the best get no more seeds; no run starts after that time;
            default no limit
devices=    cpu, or GPUs such as 0,1,2,3; one run at a time on each, cpu,cpu runs two at a time; default 0, else cpu;
            with engine=ray: cpu or gpu, one for each run
engine=     local, or ray for a cluster that shares the folder (pip install "yolo_coordbifpn[ray]"); default local
dry=        True or False: check everything, print the plan with an estimate of the time, and stop; default False
project=    parent of the folder of the comparison; default runs/compare
name=       name of the folder of the comparison; default compare

Everything else is an argument of the stock `yolo train`, the same for all runs: data, epochs, imgsz, pretrained, ...
Models, data and arguments are checked before anything is trained. After an interrupt the same command continues, even
in the middle of a run; more seeds, more models or another budget extend the comparison. It writes runs.csv (one row for
each run), summary.csv, report.md, report.html, report.tex, curves.png and pareto.png.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import CompareError
from . import UsageError, folder_of, need, truth

OPTIONS = {
    "models": "",
    "variants": "",
    "labels": "",
    "seeds": "",
    "budget": "",
    "devices": "",
    "engine": "local",
    "dry": "False",
    "project": "",
    "name": "",
    "*": "",  # arguments of the host
}
OWN = {"model", "seed", "device", "resume", "exist_ok", "save", "mode", "task", "save_dir"}  # set by the comparison
VARIANTS = "coordatt,bifpn,coordatt-bifpn"
SEEDS, RACE_SEEDS = "0,1,2", "0-9"  # by default; in a race they are an upper bound
SUFFIXES = (".yaml", ".yml", ".pt")  # of a model


def run(options: dict[str, str]) -> int:
    """Run the comparison and write its report; return 1 if a run failed, 130 after an interrupt."""
    need("compare", "compare", "faster_coco_eval", "filelock", "jinja2", "rich", "scipy")
    from ..patches.install import install

    install()
    given = {k: v for k, v in options.items() if k not in OPTIONS}
    refused = sorted(OWN & given.keys())
    if refused:
        instead = f" Did you mean {refused[0]}s=?" if f"{refused[0]}s" in OPTIONS else ""
        raise UsageError(f"{refused[0]}= is set by the comparison.{instead}")
    for key, meaning in (("data", "the data to compare on"), ("epochs", "the length of each training")):
        if key not in given:
            raise UsageError(f"{key}= must be given: {meaning}.")
    return _compare(options, given, truth(options, "dry"))


def _compare(options: dict[str, str], given: dict[str, str], dry: bool) -> int:
    """Check the comparison unless it continues unchanged, and run it unless it is dry."""
    from ..compare.arguments import train_arguments
    from ..compare.devices import read_devices
    from ..compare.plan import Plan
    from ..compare.preview import preview
    from ..compare.session import compare

    budget = _budget(options["budget"])
    seeds = _seeds(options["seeds"] or (SEEDS if budget is None else RACE_SEEDS))
    folder = folder_of(options, "compare").absolute()

    def planned() -> tuple[Plan, list[str]]:
        models, (train, problems) = _models(options), train_arguments(given)
        return Plan(folder, models, _labels(options["labels"], models, folder), seeds, train, budget), problems

    plan, problems = planned()
    try:
        devices = read_devices(options["devices"], options["engine"])
    except CompareError as error:
        problems.append(str(error))
        devices = []
    if problems or dry or plan.stored != plan.content:
        print(preview(plan, devices, options["engine"], problems), flush=True)
        plan, _ = planned()  # weights that the host has downloaded for the preview have a path now
    return 0 if dry else compare(plan, devices, options["engine"])


def _models(options: dict[str, str]) -> tuple[str, ...]:
    """Return the models, with absolute paths for files, and with the variants of each name without .yaml."""
    from ..compare.arguments import absolute
    from ..grafting.names import split

    words = _words(options["models"])
    if not words:
        raise UsageError(
            "models= must name models such as yolo11n.yaml,yolo11n-bifpn.yaml, or yolo11n for its variants."
        )
    models: list[str] = []
    for word in words:
        if word.endswith(SUFFIXES):
            models.append(word)
        else:
            if split(f"{word}.yaml"):
                raise UsageError(
                    f"models= takes {word}.yaml, or a stock name such as yolo11n with variants=, got {word}."
                )
            variants = _words(options["variants"] or VARIANTS)
            models += [f"{word}.yaml", *(f"{word}-{variant}.yaml" for variant in variants)]
    if options["variants"] and all(x.endswith(SUFFIXES) for x in words):
        raise UsageError("variants= needs a name without .yaml, such as models=yolo11n.")
    return tuple(map(absolute, models))


def _labels(text: str, models: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """Return the names of the models: those given, those of the stored plan, or new ones."""
    from ..compare.labels import label_models, refuse_twice
    from ..compare.plan import Plan

    refuse_twice(models)
    labels = tuple(_words(text))
    if not labels:
        stored = Plan.read(folder) if (folder / "plan.json").is_file() else None
        return label_models(models, dict(zip(stored.models, stored.labels)) if stored else {})
    if len({x.lower() for x in labels}) < len(labels) or len(labels) != len(models):
        raise UsageError(f"labels= must be {len(models)} different names, one for each of the models, got {text!r}.")
    reserved = '/\\:*?"<>|'
    if any(set(x) & set(reserved) for x in labels):
        raise UsageError(
            f"labels= are names of folders too, so they must not contain {' '.join(reserved)}, got {text!r}."
        )
    return labels


def _seeds(text: str) -> tuple[int, ...]:
    """Read whole numbers and ranges."""
    seeds: list[int] = []
    for word in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", word.strip())
        found = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
        if not found or any(x in found for x in seeds) or found[-1] >= 2**32:
            raise UsageError(
                "seeds= must be different whole numbers below 2**32, or ranges of them, such as 0,1,2 or 0-4, got "
                f"{text!r}."
            )
        seeds += found
    return tuple(seeds)


def _budget(text: str) -> int | None:
    """Read a time as minutes; None without a time."""
    if not text:
        return None
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?", text.strip())
    minutes = 60 * int(match[1] or 0) + int(match[2] or 0) if match else 0
    if not minutes:
        raise UsageError(f"budget= must be a time such as 2h, 90m or 1h30m, got {text!r}.")
    return minutes


def _words(text: str) -> list[str]:
    return [x.strip() for x in text.split(",") if x.strip()]
