"""The plan of a comparison: its models, seeds and training arguments, and the folder in which its runs come to be."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CompareError
from ..files import write


@dataclass(frozen=True)
class Run:
    """One training: a model with a seed."""

    model: str  # what the host is given: a name or path of a YAML or a checkpoint
    label: str  # the model's name in tables
    seed: int
    folder: Path

    @property
    def result(self) -> dict[str, Any] | None:
        """Return what the run has come to, None while it has not."""
        file = self.folder / "result.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


@dataclass(frozen=True)
class Plan:
    """All runs of a comparison.

    Attributes:
        folder: Where everything is written.
        models: Names or paths of the models, the first is what the others are compared with.
        seeds: Seeds, each run with every model.
        train: Arguments of the host's `train`, the same for all runs.
    """

    folder: Path
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    train: dict[str, Any]

    @property
    def labels(self) -> list[str]:
        """Return the models' names in tables."""
        return [Path(x).stem for x in self.models]

    @property
    def runs(self) -> list[Run]:
        """Return all runs in their order: every model with the first seed, then every model with the next."""
        return [
            Run(model, label, seed, self.folder / "runs" / f"{label}-seed{seed}")
            for seed in self.seeds
            for model, label in zip(self.models, self.labels)
        ]

    @property
    def results(self) -> list[dict[str, Any]]:
        """Return the results that there are, in the order of the runs."""
        return [x for x in (run.result for run in self.runs) if x is not None]

    @property
    def complete(self) -> bool:
        """Tell whether every run has come to its end."""
        return len(self.results) == len(self.runs)

    def start(self) -> None:
        """Write the plan into its folder, or check that the one in it is the same.

        Raises:
            CompareError: If the folder holds another plan, naming what differs; or a model is given twice.
        """
        twice = sorted({x for x in self.labels if self.labels.count(x) > 1})
        if twice:
            raise CompareError(f"models= names {', '.join(twice)} twice; give each model once, seeds= repeats it")
        file = self.folder / "plan.json"
        if not file.is_file():
            if self.folder.is_dir() and any(x.name != "compare.lock" for x in self.folder.iterdir()):
                raise CompareError(f"{self.folder} is there already and holds no comparison; give another name=")
            self.folder.mkdir(parents=True, exist_ok=True)
            write(file, json.dumps(self._content(), indent=2))
            return
        there = json.loads(file.read_text(encoding="utf-8"))
        here = json.loads(json.dumps(self._content()))
        for key in ("models", "seeds"):
            if there[key] != here[key]:
                raise CompareError(self._changed(key, there[key], here[key]))
        for key in sorted({*there["train"], *here["train"]}):
            if there["train"].get(key) != here["train"].get(key):
                raise CompareError(self._changed(key, there["train"].get(key), here["train"].get(key)))

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Read the plan of a folder."""
        content = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        return cls(folder, tuple(content["models"]), tuple(content["seeds"]), content["train"])

    def write_rows(self) -> None:
        """Write `runs.csv`: one row for each finished run."""
        results = self.results
        keys = list(dict.fromkeys(key for r in results for key in (*_flat(r),)))
        text = io.StringIO()
        writer = csv.DictWriter(text, keys, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(_flat(r) for r in results)
        write(self.folder / "runs.csv", text.getvalue())

    def _content(self) -> dict[str, Any]:
        return {"models": list(self.models), "seeds": list(self.seeds), "train": self.train}

    def _changed(self, key: str, there: Any, here: Any) -> str:
        return (
            f"{key}= has changed: {self.folder} was begun with {_shown(there)}, this is {_shown(here)}. "
            f"Give what it was begun with to go on with it, or another name= to begin anew"
        )


def _shown(value: Any) -> str:
    if value is None:
        return "none given"
    return ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def _flat(result: dict[str, Any]) -> dict[str, Any]:
    """Spread the metrics of a result over columns of their own, and leave out what is no single value."""
    flat = {k: v for k, v in result.items() if not isinstance(v, (dict, list))}
    return {**flat, **result["metrics"]}
