"""Members of outside packages are found by name wherever a name is asked for."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
import torch
from torch import nn

import prunus
from prunus.criteria import UNIT_CRITERIA
from prunus.registry import Registry


def test_a_name_is_in_the_registry_if_an_outside_package_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("tau", "math:tau", "prunus.number")]
    monkeypatch.setattr("prunus.registry.entry_points", lambda group: points if group == "prunus.number" else [])
    numbers = Registry[float]("number")
    assert "tau" in numbers
    assert "pi" not in numbers
    assert numbers.get("tau") > 6


def test_a_criterion_of_an_outside_package_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("outside-norm", "prunus.criteria.unit_norm:unit_l1", "prunus.unit_criterion")]
    monkeypatch.setattr("prunus.registry.entry_points", lambda group: points if group == points[0].group else [])
    monkeypatch.setattr(UNIT_CRITERIA, "_entry_points_read", False)
    monkeypatch.setattr(UNIT_CRITERIA, "_members", dict(UNIT_CRITERIA._members))
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(2, 6)
    found, wanted = (
        prunus.plan(model, x, budget={"params": 0.6}, criterion=name).axes for name in ("outside-norm", "l1")
    )
    assert found.keys() == wanted.keys()
    assert all((found[axis] == wanted[axis]).all() for axis in wanted)
