"""Capture in parts: models whose forward is no one program, such as detectors that loop over boxes in Python."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from factories_states import snapshot
from prunus.errors import CaptureError, OptionError
from prunus.graph.partial_capture import capture_or_parts

HALF = {"params": 0.5}


class Backbone(nn.Module):
    """Convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 8, 1),
        )

    def forward(self, x: torch.Tensor, *, scale: float = 1.0) -> dict[str, torch.Tensor]:
        return {"out": self.body(x) * scale}


class Head(nn.Module):
    """Boxes from features."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.boxes = nn.Linear(8, 24), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.boxes(self.hidden(x).relu())


class Detector(nn.Module):
    """A backbone, then a loop in Python over what the values say."""

    def __init__(self, how: str = "item") -> None:
        super().__init__()
        self.backbone, self.head, self.classes = Backbone(), Head(), nn.Linear(8, 12)
        self.last = nn.Linear(12, 3)
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.backbone(x, scale=2.0)["out"]
        boxes = self.head(features.flatten(2).transpose(1, 2))
        found = []
        for i in range(len(x)):
            for j in self.chosen(boxes[i, :, 0]):
                found.append(self.classes(features[i].flatten(1)[:, j]))
        return self.last(torch.stack(found)) if found else x.new_zeros(0, 3)

    def chosen(self, scores: torch.Tensor) -> list[int]:
        if self.how == "item":
            return [j for j in range(len(scores)) if scores[j].item() > 0]
        if self.how == "tolist":
            return [j for j, s in enumerate(scores.tolist()) if s > 0]
        return [int(j) for j in (scores.detach().numpy() > 0).nonzero()[0]]


def detector(how: str) -> Detector:
    torch.manual_seed(0)
    return Detector(how).eval()


@pytest.mark.parametrize("how", ["item", "tolist", "numpy"])
def test_a_detector_is_cut_inside_its_parts(how: str) -> None:
    model, x = detector(how), torch.randn(2, 3, 16, 16)
    before = snapshot(model)
    result = prunus.prune(model, x, budget=HALF)
    assert snapshot(model) == before
    assert result.parts == ("backbone", "head", "classes", "last")
    assert result.check.ok
    assert 0 < result.after.params <= 0.5 * result.before.params
    assert result.before.params == sum(p.numel() for p in model.parameters())
    assert result.after.params == sum(p.numel() for p in result.model.parameters())
    assert type(result.model) is Detector
    assert result.model.backbone.body[0].out_channels < 16
    assert result.model.classes.weight.shape == (12, 8), "borders stay"
    for _ in range(3):
        assert result.model(torch.randn(3, 3, 24, 24)).shape[1] == 3
    assert "captured in parts" in str(result)
    assert "backbone" in str(result)


def test_parts_compute_what_they_computed() -> None:
    """Zeroing what goes in the original gives the outputs of the cut network, loop included."""
    model, x = detector("item"), torch.randn(2, 3, 16, 16)
    result = prunus.prune(model, x, budget={"params": 0.7})
    masked = detector("item")
    masked.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, dims in result.plan.keep.items():
            tensor = masked.get_parameter(name) if name in dict(masked.named_parameters()) else masked.get_buffer(name)
            for dim, kept in dims.items():
                gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
                gone[torch.from_numpy(kept)] = False
                tensor[(slice(None),) * dim + (gone,)] = 0
    assert len(model(x)) > 0
    assert torch.allclose(result.model(x), masked(x), atol=1e-5)


def test_plan_apply_save_and_load(tmp_path: Path) -> None:
    model, x = detector("tolist"), torch.randn(2, 3, 16, 16)
    plan = prunus.plan(model, x, budget=HALF)
    assert type(prunus.apply(model, plan, x).model) is Detector
    result = prunus.prune(model, x, budget=HALF)
    prunus.save(result, tmp_path / "small")
    again = prunus.load(tmp_path / "small", detector("tolist"))
    assert torch.equal(again(x), result.model(x))


def test_budgets_and_criteria_in_parts() -> None:
    model, x = detector("item"), torch.randn(2, 3, 16, 16)
    result = prunus.prune(model, x, budget={"macs": 0.5})
    assert result.after.macs_forward <= 0.5 * result.before.macs_forward
    data = [(x, torch.zeros(len(model(x)), dtype=torch.int64))]
    assert prunus.prune(model, x, budget=HALF, criterion="taylor", data=data).check.ok
    with pytest.raises(OptionError, match=r"captured in parts \(backbone, head, .*use magnitude or taylor"):
        prunus.prune(model, x, budget=HALF, criterion="contribution", data=data)


def test_the_reason_names_the_line() -> None:
    captured = capture_or_parts(detector("item"), torch.randn(2, 3, 16, 16))
    assert re.search(r"test_capture_parts\.py:\d+", captured.reason), captured.reason


def test_a_forward_on_values_that_change_nothing_stays_whole() -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not bool(x.isfinite().all()):
                raise ValueError("not finite")
            return self.last(self.first(x).relu())

    captured = capture_or_parts(Careful(), torch.randn(4, 6))
    assert captured.parts == ()
    assert "real" in captured.graph.how


class Shared(Detector):
    """Its head is also reached from outside: the first layer by a call, the second by its weight."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.head.hidden(self.backbone(x)["out"].flatten(2).transpose(1, 2))
        return super().forward(x) if hidden.sum().item() > 0 else hidden.sum() + super().forward(x)


def test_a_submodule_with_other_callers_is_no_part() -> None:
    torch.manual_seed(0)  # which way it runs depends on the values
    captured = capture_or_parts(Shared().eval(), torch.randn(2, 3, 16, 16))
    assert captured.parts[0] == "backbone"
    assert "head" not in captured.parts
    assert {"head.hidden", "head.boxes"} <= set(captured.parts)


def test_a_tensor_tied_across_the_border_is_no_part() -> None:
    model = detector("item")
    model.tied = model.backbone.body[3].weight
    captured = capture_or_parts(model, torch.randn(2, 3, 16, 16))
    assert "backbone" not in captured.parts
    assert "head" in captured.parts


def test_a_model_that_fails_is_still_refused() -> None:
    with pytest.raises(CaptureError, match=r"could not be captured.*at .*test_capture_parts\.py:\d+"):
        prunus.prune(detector("item"), torch.randn(2, 4, 16, 16), budget=HALF)
