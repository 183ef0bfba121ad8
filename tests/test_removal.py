"""The way back: weights of a model with blocks, loaded into the model without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import gap
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

from yolo_coordbifpn import BiFPN_Concat

pytestmark = pytest.mark.usefixtures("quick_builds")


@pytest.mark.parametrize(
    "name", ["yolo11n-coordatt-bifpn", "yolov8n-coordatt-bifpn", "yolo26n-bifpn", "yolo11n-seg-bifpn"]
)
def test_weights_of_a_model_with_blocks_fit_the_stock_model(name: str, log: Any) -> None:
    """All stock items are loaded, aligned; with fusions alone off their start, the output stays as it was."""
    stock = name.replace("-coordatt", "").replace("-bifpn", "")
    original = YOLO(f"{stock}.yaml").model
    ours = YOLO(f"{name}.yaml").model
    ours.load(original)
    for m in ours.modules():
        if isinstance(m, BiFPN_Concat):
            m.weight.data = torch.rand(len(m.weight)) + 0.2
    back = YOLO(f"{stock}.yaml").model
    log.clear()
    back.load(ours)
    (warning,) = [x for x in log.messages if "yolo_coordbifpn" in x]
    total = len(back.state_dict())
    assert "this model has none" in warning
    assert f"of {total} items loaded" in warning
    assert gap(back, ours) < 1e-5
    assert ("blocks 9 CoordAtt" in warning) == ("coordatt" in name)


def test_the_source_is_not_changed() -> None:
    """Neither the fusions nor the dtype of the given model change."""
    ours = YOLO("yolo11n-coordatt-bifpn.yaml").model.half()
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    YOLO("yolo11n.yaml").model.load(ours)
    assert sum(isinstance(m, BiFPN_Concat) for m in ours.modules()) == 4
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in ours.state_dict().items())


def test_weights_of_another_family_are_left_to_the_host(log: Any) -> None:
    """Weights with blocks of another scale are loaded as the host does, without our warning."""
    models = [DetectionModel("yolo11s.yaml", verbose=False) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    others = DetectionModel("yolo11n-bifpn.yaml", verbose=False)
    models[0].load(others)
    assert not [x for x in log.messages if "yolo_coordbifpn" in x]
    type(others).load.__wrapped__(models[1], others)  # the host's own
    states = [x.state_dict() for x in models]
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
