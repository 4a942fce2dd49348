"""Repair of models that were captured in parts: part by part, on what the dense model hands to each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import prunus
from factories_states import snapshot
from prunus.errors import DataError

HALF = {"params": 0.5}


class Backbone(nn.Module):
    """Features of two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1))
        self.second = nn.Sequential(nn.Conv2d(8, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 8, 1))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        first = self.first(x)
        return [first, self.second(first)]


class Detector(nn.Module):
    """Takes a list of pictures, calls one head on features of every size, and loops over what the values say."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 5, 1))
        self.unused = nn.Sequential(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 2))

    def forward(self, pictures: list[torch.Tensor]) -> list[torch.Tensor]:
        boxes = torch.cat([self.head(x).flatten(2) for x in self.backbone(torch.stack(list(pictures)))], 2)
        found = [box[:, box[0] > box[0].median().item()].T for box in boxes]
        if max(box.abs().max().item() for box in boxes) > 100:
            return [self.unused(box) for box in found]
        return found


def dense() -> Detector:
    torch.manual_seed(0)
    model = Detector()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight)
    return model.eval()


def pictures(count: int, size: int = 16) -> list[torch.Tensor]:
    return [torch.rand(3, size, size) + torch.rand(3, 1, 1) for _ in range(count)]


def batches(count: int, size: int = 16) -> list[Any]:
    return [(pictures(4, size), [{"boxes": torch.zeros(1, 4)}] * 4) for _ in range(count)]


def error(model: nn.Module, small: nn.Module) -> float:
    """How far the parts that run are from the dense ones, on pictures that nothing was fitted to."""
    x = torch.stack(pictures(32, 24))
    with torch.no_grad():
        wanted, found = (torch.cat([m.head(f).flatten() for f in m.backbone(x)]) for m in (model, small))
    return float((wanted - found).norm() / wanted.norm())


@pytest.mark.parametrize("repair", ["auto", "refold"])
def test_every_part_is_repaired_on_all_its_calls(repair: str) -> None:
    model, example, data = dense(), (pictures(2),), batches(16)
    bare = prunus.prune(model, example, budget=HALF)
    before = snapshot(model)
    result = prunus.prune(model, example, budget=HALF, data=data, repair=repair)
    assert snapshot(model) == before
    assert not any(module._forward_pre_hooks for module in (*model.modules(), *result.model.modules()))
    assert result.parts == ("backbone", "head")
    assert result.repair is not None
    assert result.repair.chosen != "none"
    assert error(model, result.model) < 0.7 * error(model, bare.model)
    told = str(result.repair)
    assert "backbone: " in told
    assert "head: " in told
    assert type(result.model) is Detector
    assert len(result.model(pictures(3, 20))) == 3


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_model_that_takes_a_list_gets_a_list_and_pictures_are_counted(
    wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Strict(Detector):
        """Takes nothing but a list."""

        def forward(self, pictures: list[torch.Tensor]) -> list[torch.Tensor]:
            assert isinstance(pictures, list)
            return super().forward(pictures)

    monkeypatch.setattr("prunus.repairs.partial_models.MOST", 12)
    data = [((part[0],), None) if wrapped else (tuple(part[0]), None) for part in batches(8)]
    result = prunus.prune(Strict().eval(), (pictures(2),), budget=HALF, data=data, repair="refold")
    assert result.repair is not None
    assert result.repair.samples == 2 * 12, "three batches of four, each of which calls the head twice"


def test_masked_weights_of_a_part_stay_zero() -> None:
    model = dense()
    result = prunus.prune(model, (pictures(2),), budget=HALF, levels=("weight",), data=batches(8), repair="refold")
    assert result.repair is not None
    assert result.repair.chosen == "refold"
    values = dict(result.model.named_parameters())
    for name, mask in result.plan.masks.items():
        assert not values[name].detach()[~torch.from_numpy(mask)].any(), name


def test_a_part_that_the_data_do_not_reach_is_named() -> None:
    class Rare(Detector):
        """Its example reaches what ordinary pictures do not."""

    model = Rare().eval()
    bright = [picture * 1e4 for picture in pictures(2)]
    result = prunus.prune(model, (bright,), budget=HALF, data=batches(8), repair="refold")
    assert "unused" in result.parts
    assert "unused: not repaired: the data never reach it" in str(result.repair)


def test_batches_that_do_not_fit_are_refused_in_one_line() -> None:
    model, example = dense(), (pictures(2),)
    wrong = [([torch.rand(4, 16, 16)], None)]
    with pytest.raises(DataError, match="calibration batch 0 does not go through the model"):
        prunus.prune(model, example, budget=HALF, data=wrong, repair="refold")
    assert "not repaired: calibration batch 0" in str(prunus.prune(model, example, budget=HALF, data=wrong).repair)
    spoilt = batches(4)
    spoilt[1][0][0][0, 0, 0] = float("nan")
    with pytest.raises(DataError, match="calibration batch 1 holds NaN"):
        prunus.prune(model, example, budget=HALF, data=spoilt)
    with pytest.raises(DataError, match="no calibration batches"):
        prunus.prune(model, example, budget=HALF, data=[])
    few = prunus.prune(model, example, budget=HALF, data=batches(1)[:1])
    assert few.repair is not None
