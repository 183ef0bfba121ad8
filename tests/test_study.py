"""The study: its treatments differ from the stock model in what they say, and in nothing else."""

from __future__ import annotations

import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import csv_rows
import numpy as np
import pytest
import study_report
import study_run
from PIL import Image
from study_plan import STAGES, TREATMENTS
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn.tasks import DetectionModel

from yolo_coordbifpn import graft
from yolo_coordbifpn.blocks.rezero import ReZero
from yolo_coordbifpn.compare.simultaneous import differences


def test_every_stage_has_known_treatments() -> None:
    """A stage names treatments of the table, stock first, and each once."""
    for stage in STAGES.values():
        assert set(stage.treatments) <= set(TREATMENTS)
        assert stage.treatments[0] == "stock"
        assert len(set(stage.treatments)) == len(stage.treatments)
        assert set(stage.carried) <= set(stage.treatments)


def test_a_stage_is_drawn_once_it_has_a_difference(tmp_path: Path) -> None:
    """The plot has the stages with a treatment that shares a seed with stock, and no others."""

    def height(*runs: tuple[str, str]) -> int:
        """Draw runs of one seed, given as stage and treatment, and return the height of the plot."""
        rows = [{"stage": x, "treatment": y, "seed": "0", study_report.METRIC: "0.3"} for x, y in runs]
        study_report.draw(rows, csv_rows.read(study_report.RESULTS / "study_latency.csv"), tmp_path / "study.png")
        with Image.open(tmp_path / "study.png") as image:
            return image.height

    runs = [("screen-hituav", "stock"), ("screen-hituav", "coordatt"), ("levels-hituav", "p2")]
    assert height(*runs) == height(*runs[:2])
    assert height(*runs, ("levels-hituav", "stock")) > height(*runs)


def test_the_smallest_effect_is_seen_four_times_in_five() -> None:
    """A variant that is better by this much has an interval above 0 in about 80 % of simulated stages."""
    random = np.random.default_rng(0)

    def stage(gain: float) -> dict[str, dict[int, float]]:
        """Draw the scores of three treatments with eight seeds; the second is better than the first."""
        seeds = random.normal(0, 0.02, 8)
        return {x: dict(enumerate(seeds + random.normal(y, 0.01, 8))) for x, y in zip("abc", (0.3, 0.3 + gain, 0.3))}

    found = [study_report._smallest_effect(stage(0), 8) for _ in range(200)]
    effect = statistics.mean(x.mean**2 for x in found) ** 0.5  # that of the true variance
    seen = [differences(stage(effect))["b"].low for _ in range(1000)]
    assert sum(x > 0 for x in seen) / len(seen) == pytest.approx(0.8, abs=0.04)
    assert sum(x.low < effect < x.high for x in found) / len(found) == pytest.approx(0.95, abs=0.04)
    rows = [
        {"stage": "levels-bccd", "treatment": {"a": "stock"}.get(x, x), "seed": str(seed), study_report.METRIC: str(y)}
        for x, values in stage(0).items()
        for seed, y in values.items()
        if seed < 5 or x != "c"  # one treatment was not carried on
    ]
    *_, line = study_report.power(rows).splitlines()
    stock = statistics.mean(float(x[study_report.METRIC]) for x in rows if x["treatment"] == "stock")
    assert line.startswith(f"| `levels-bccd` | 20 | 2 | 8 | {stock:.3f} | 0.0")
    assert "levels-hituav" not in study_report.power([*rows, {**rows[0], "stage": "levels-hituav"}])


def test_only_the_blocks_learn_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a rate of 16 the blocks have 16 times the learning rate and no decay; all else is as without it."""
    cfg: Any = graft("yolo11.yaml", coordatt="P5", bifpn="concat") | {"scale": "n"}
    model: Any = DetectionModel(cfg, verbose=False)
    model.model[9] = ReZero(model.model[9])
    plain = settings(model)
    monkeypatch.setattr(BaseTrainer, "build_optimizer", BaseTrainer.build_optimizer)  # undone at the end
    study_run._set_rate(16)
    faster = settings(model)
    layers = [9, *(i for i, layer in enumerate(model.model) if type(layer).__name__ == "BiFPN_Concat")]
    blocks = {k for k in plain if int(k.split(".")[1]) in layers}
    assert plain.keys() == faster.keys()
    assert "model.9.weight" in blocks
    assert len(layers) == 5
    for name, (rate, decay) in plain.items():
        assert faster[name] == ((16 * rate, 0.0) if name in blocks else (rate, decay)), name


def settings(model: Any) -> dict[str, tuple[float, float]]:
    """Return the learning rate and the decay of each parameter, in the optimizer that the host builds."""
    trainer: Any = SimpleNamespace()
    optimizer = BaseTrainer.build_optimizer(trainer, model, "AdamW", 0.001, 0.9, 5e-4)
    names = {id(p): name for name, p in model.named_parameters()}
    found = [(names[id(p)], (g["lr"], g["weight_decay"])) for g in optimizer.param_groups for p in g["params"]]
    assert len(dict(found)) == len(found) == len(names)
    return dict(found)
