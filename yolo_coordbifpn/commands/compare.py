"""Train several models with several seeds, and report with intervals which is better on your data.

    yolo-coordbifpn compare models=yolo11n variants=coordatt,bifpn data=my.yaml epochs=50 pretrained=yolo11n.pt
    yolo-coordbifpn compare models=yolo11n.yaml,yolo11n-bifpn.yaml,best.pt data=my.yaml seeds=0,1,2 epochs=50 imgsz=640

models=     model YAMLs, checkpoints and names without .yaml, with commas between; the first is the baseline
variants=   for names without .yaml: what to train besides the stock model; default coordatt,bifpn,coordatt-bifpn
seeds=      whole numbers with commas between; every model is trained with each; default 0,1,2
devices=    cpu, or GPUs such as 0,1,2,3; one run at a time on each, cpu,cpu for two at a time; default 0, else cpu
engine=     local, or ray for a cluster that shares the folder (pip install 'yolo_coordbifpn[ray]'); default local
project=    parent of the folder of the comparison; default runs/compare
name=       name of the folder of the comparison; default compare

Everything else is an argument of the stock `yolo train`, the same for all runs: data, epochs, imgsz, pretrained, ...
After an interrupt the same command continues, in the middle of a run too. It writes runs.csv (one row for each run),
summary.csv, report.md, report.html, report.tex, curves.png and pareto.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

from . import UsageError

OPTIONS = {
    "models": "",
    "variants": "",
    "seeds": "0,1,2",
    "devices": "",
    "engine": "local",
    "project": "",
    "name": "",
    "*": "",  # arguments of the host
}
OWN = {"model", "seed", "device", "resume", "exist_ok", "save", "mode", "task", "save_dir"}  # set by the comparison
VARIANTS = "coordatt,bifpn,coordatt-bifpn"


def run(options: dict[str, str]) -> int:
    """Run the comparison and write its report; return 1 if a run failed, 130 after an interrupt."""
    try:
        import faster_coco_eval
        import filelock
        import jinja2
        import rich
        import scipy
    except ModuleNotFoundError as error:
        raise UsageError(f"compare needs {error.name}: pip install 'yolo_coordbifpn[compare]'.") from error
    del faster_coco_eval, filelock, jinja2, rich, scipy
    from ..compare.arguments import train_arguments
    from ..compare.plan import Plan
    from ..errors import CompareError, HostError
    from ..patches.install import install

    try:
        install()
        given = {k: v for k, v in options.items() if k not in OPTIONS}
        refused = sorted(OWN & given.keys())
        if refused:
            raise UsageError(f"{refused[0]}= is set by the comparison; it takes models=, seeds=, devices=, name=.")
        if "data" not in given or "epochs" not in given:
            raise UsageError(
                "data= and epochs= must be given: the data to compare on, and the length of each training."
            )
        plan = Plan(
            folder=(Path(options["project"] or "runs/compare") / (options["name"] or "compare")).absolute(),
            models=_models(options),
            seeds=_seeds(options["seeds"]),
            train=train_arguments(given),
        )
        from ..compare.session import compare

        return compare(plan, _devices(options["devices"]), options["engine"])
    except (CompareError, HostError) as error:
        print(f"yolo-coordbifpn compare: {error}", file=sys.stderr)
        return 1


def _models(options: dict[str, str]) -> tuple[str, ...]:
    """Return the models, with the variants of each name without .yaml; check that all of them exist."""
    from ..compare.arguments import checked_model

    words = [x.strip() for x in options["models"].split(",") if x.strip()]
    if not words:
        raise UsageError(
            "models= must name models such as yolo11n.yaml,yolo11n-bifpn.yaml, or yolo11n for its variants."
        )
    models: list[str] = []
    for word in words:
        if word.endswith((".yaml", ".yml", ".pt")):
            models.append(word)
            continue
        variants = [x.strip() for x in (options["variants"] or VARIANTS).split(",") if x.strip()]
        models += [f"{word}.yaml", *(f"{word}-{variant}.yaml" for variant in variants)]
    if options["variants"] and all(x.endswith((".yaml", ".yml", ".pt")) for x in words):
        raise UsageError("variants= needs a name without .yaml, such as models=yolo11n.")
    return tuple(checked_model(x) for x in models)


def _seeds(text: str) -> tuple[int, ...]:
    words = [x.strip() for x in text.split(",")]
    if not all(x.isdecimal() for x in words) or len(set(words)) < len(words):
        raise UsageError(f"seeds= must be different whole numbers such as 0,1,2, got {text!r}.")
    return tuple(int(x) for x in words)


def _devices(text: str) -> list[str]:
    import torch

    count = torch.cuda.device_count()
    known = {"cpu", *map(str, range(count)), *(["mps"] if torch.backends.mps.is_available() else [])}
    devices = [x.strip() for x in text.split(",") if x.strip()] or (["0"] if count else ["cpu"])
    for device in devices:
        if device not in known:
            raise UsageError(f"devices= takes {', '.join(sorted(known))} on this machine, got {device!r}.")
    return devices
