"""The plan of a comparison: its models, seeds and training arguments, and its folder."""

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

    model: str  # as given to the host: name or path of a YAML or a checkpoint
    label: str  # the model's name in tables
    seed: int
    folder: Path

    @property
    def result(self) -> dict[str, Any] | None:
        """Return the result of the run, None if it is not finished."""
        file = self.folder / "result.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


@dataclass(frozen=True)
class Plan:
    """All runs of a comparison.

    Attributes:
        folder: Where everything is written.
        models: Names or paths of the models; the others are compared with the first.
        seeds: Seeds; every model is trained with each.
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
        """Return all runs in order: every model with the first seed, then every model with the next."""
        return [
            Run(model, label, seed, self.folder / "runs" / f"{label}-seed{seed}")
            for seed in self.seeds
            for model, label in zip(self.models, self.labels)
        ]

    @property
    def results(self) -> list[dict[str, Any]]:
        """Return the results of the finished runs, in the order of the runs."""
        return [x for x in (run.result for run in self.runs) if x is not None]

    def results_of(self, label: str) -> list[dict[str, Any]]:
        """Return the results of one model, in the order of the seeds."""
        return [x for x in self.results if x["model"] == label]

    def values(self, label: str, metric: str) -> dict[int, float]:
        """Return a metric of one model by seed."""
        return {x["seed"]: x["metrics"][metric] for x in self.results_of(label)}

    def check(self) -> None:
        """Check that the plan can be carried out in its folder; write nothing.

        Raises:
            CompareError: If a model is given twice, or if the folder holds something else or another plan; the message
                names the difference.
        """
        twice = sorted({x for x in self.labels if self.labels.count(x) > 1})
        if twice:
            raise CompareError(f"models= names {', '.join(twice)} twice; give each model once, seeds= repeats it")
        file = self.folder / "plan.json"
        if not file.is_file():
            if self.folder.is_dir() and any(x.name != "compare.lock" for x in self.folder.iterdir()):
                raise CompareError(f"{self.folder} exists and holds no comparison; give another name=")
            return
        stored = json.loads(file.read_text(encoding="utf-8"))
        given = json.loads(json.dumps(self._content()))
        for key in ("models", "seeds"):
            if stored[key] != given[key]:
                raise CompareError(self._changed(key, stored[key], given[key]))
        for key in sorted({*stored["train"], *given["train"]}):
            if stored["train"].get(key) != given["train"].get(key):
                raise CompareError(self._changed(key, stored["train"].get(key), given["train"].get(key)))

    def start(self) -> None:
        """Write the plan into its folder, unless it is there; remove files that a killed process left half written.

        Raises:
            CompareError: See `check`.
        """
        self.check()
        self.folder.mkdir(parents=True, exist_ok=True)
        for part in self.folder.glob("*.part"):
            part.unlink()
        if not (self.folder / "plan.json").is_file():
            write(self.folder / "plan.json", json.dumps(self._content(), indent=2))

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Read the plan of a folder."""
        content = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        return cls(folder, tuple(content["models"]), tuple(content["seeds"]), content["train"])

    def write_rows(self) -> None:
        """Write `runs.csv`: one row for each finished run."""
        rows = [_row(x) for x in self.results]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for x in rows for key in x)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write(self.folder / "runs.csv", text.getvalue())

    def _content(self) -> dict[str, Any]:
        return {"models": list(self.models), "seeds": list(self.seeds), "train": self.train}

    def _changed(self, key: str, stored: Any, given: Any) -> str:
        return (
            f"{key}= has changed: {self.folder} was started with {_text(stored)}, now it is {_text(given)}. "
            f"Give the first value to continue, or another name= to start a new comparison"
        )


def _text(value: Any) -> str:
    if value is None:
        return "no value"
    return ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def _row(result: dict[str, Any]) -> dict[str, Any]:
    """Return the single values of a result, with its metrics, as a row."""
    return {**{k: v for k, v in result.items() if not isinstance(v, (dict, list))}, **result["metrics"]}
