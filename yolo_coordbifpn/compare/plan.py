"""The plan of a comparison: its models, seeds and training arguments, and its folder."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CompareError
from ..files import write

FILES = ("data", "pretrained", "cfg", "distill_model")  # training arguments that name a file


@dataclass(frozen=True)
class Run:
    """One training: a model with a seed."""

    model: str  # as given to the host: name or path of a YAML or a checkpoint
    label: str  # the model's name in tables
    seed: int
    folder: Path

    @property
    def result(self) -> dict[str, Any] | None:
        """Return the result of the run, or None if it is not finished."""
        file = self.folder / "result.json"
        return _parsed(file, file.stat().st_mtime_ns) if file.is_file() else None


@functools.lru_cache(maxsize=4096)
def _parsed(file: Path, modified: int) -> dict[str, Any]:
    """Return the content of a result, which a report asks for many times, without reading it again."""
    return json.loads(file.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Plan:
    """All runs of a comparison.

    Attributes:
        folder: Folder that everything is written to.
        models: Names or paths of the models; the others are compared with the first.
        labels: Names of the models in tables, plots and folders.
        seeds: Seeds; every model is trained with each.
        train: Arguments of the host's `train`, the same for all runs.
        budget: Minutes for all runs together, which makes the comparison a race; None for no limit.
    """

    folder: Path
    models: tuple[str, ...]
    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    train: dict[str, Any]
    budget: int | None = None

    @property
    def runs(self) -> list[Run]:
        """Return all runs in order: every model with the first seed, then every model with the second, and so on."""
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

    def scores(self, metric: str) -> dict[str, dict[int, float]]:
        """Return a metric by model and seed, for all models in their order; a value that is not finite is left out."""
        found: dict[str, dict[int, float]] = {label: {} for label in self.labels}
        for result in self.results:
            if math.isfinite(result["metrics"][metric]):
                found[result["model"]][result["seed"]] = result["metrics"][metric]
        return found

    @property
    def seed_counts(self) -> str:
        """Return how many seeds the models with results have: `3`, or `3 to 8` if they differ."""
        counts = Counter(x["model"] for x in self.results).values()
        return str(min(counts)) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"

    @property
    def stored(self) -> dict[str, Any] | None:
        """Return the contents of the plan in the folder, or None if there is none."""
        file = self.folder / "plan.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    @functools.cached_property
    def content(self) -> dict[str, Any]:
        """Return the contents of this plan as they are stored, with a hash of each file."""
        parts = {key: getattr(self, key) for key in ("models", "labels", "seeds", "train", "budget")}
        files = [*self.models, *(self.train.get(x) for x in FILES)]
        hashes = {x: _hash(Path(x)) for x in files if isinstance(x, str) and Path(x).is_file()}
        return json.loads(json.dumps({**parts, "files": hashes}))

    def check(self) -> None:
        """Check that the plan can be carried out in its folder; write nothing.

        A stored plan may grow by models and seeds, and its budget may change; files must not.

        Raises:
            CompareError: If the folder cannot be written to, or contains something else or another plan; the message
                names the difference.
        """
        stored, given = self.stored, self.content
        if stored is None:
            return self._check_new()
        for key in ("models", "seeds"):
            if not set(stored[key]) <= set(given[key]):
                raise CompareError(self._changed(key, stored[key], given[key]))
        labels = dict(zip(given["models"], given["labels"]))
        now = [labels[x] for x in stored["models"]]
        if now != stored["labels"]:
            raise CompareError(self._changed("labels", stored["labels"], now))
        for key in sorted({*stored["train"], *given["train"]}):
            if stored["train"].get(key) != given["train"].get(key):
                raise CompareError(self._changed(key, stored["train"].get(key), given["train"].get(key)))
        for file, was in stored.get("files", {}).items():
            if given["files"].get(file, was) != was:
                raise CompareError(
                    f"{file} has changed since {self.folder} was started, so more runs could not be compared with its "
                    "results. Restore it to continue, or give another name= to start a new comparison"
                )

    def _check_new(self) -> None:
        parent = next(x for x in (self.folder, *self.folder.parents) if x.exists())
        if parent == self.folder and (
            not parent.is_dir() or any(x.name != "compare.lock" for x in self.folder.iterdir())
        ):
            raise CompareError(f"{self.folder} exists and contains no comparison; give another name=")
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise CompareError(f"{parent} is not a folder that can be written to; give another project=")

    def start(self) -> None:
        """Write the plan into its folder; remove what a killed process has left of files and of finished runs.

        Raises:
            CompareError: See `check`.
        """
        self.check()
        self.folder.mkdir(parents=True, exist_ok=True)
        leftovers = [*self.folder.glob("*.part"), *(x.folder / "resume.pt" for x in self.runs if x.result is not None)]
        for file in leftovers:
            file.unlink(missing_ok=True)
        if self.stored != self.content:
            write(self.folder / "plan.json", json.dumps(self.content, indent=2))

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Read the plan of a folder."""
        content = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        models, labels, seeds = (tuple(content[x]) for x in ("models", "labels", "seeds"))
        return cls(folder, models, labels, seeds, content["train"], content["budget"])

    def write_rows(self) -> None:
        """Write `runs.csv`: one row for each finished run."""
        rows = [_row(x) for x in self.results]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for x in rows for key in x)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write(self.folder / "runs.csv", text.getvalue())

    def _changed(self, key: str, stored: Any, given: Any) -> str:
        return (
            f"{key}= has changed: {self.folder} was started with {_text(stored)}, now it is {_text(given)}. "
            "Give the first value to continue, or another name= to start a new comparison"
        )


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _text(value: Any) -> str:
    if value is None:
        return "no value"
    return ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def _row(result: dict[str, Any]) -> dict[str, Any]:
    """Return the scalar values and the metrics of a result as a row."""
    return {**{k: v for k, v in result.items() if not isinstance(v, (dict, list))}, **result["metrics"]}
