"""Predicted time: an exact fit of a handful of columns, and a model of it that shrinks with the widths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import prunus.measurement.timing.model
from prunus.foundation.cache import CacheWarning
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.measurement.timing import OpTimes, latency_model, time_ops
from prunus.measurement.timing.fit import fit_times


def test_the_fit_finds_what_made_the_times() -> None:
    generator = np.random.default_rng(0)
    amounts = generator.uniform(1, 100, (12, 3))
    weights, constant = fit_times(amounts, amounts @ [2e-6, 0.0, 5e-7] + 3e-6)
    assert weights == pytest.approx([2e-6, 0.0, 5e-7], abs=1e-12)
    assert constant == pytest.approx(3e-6)


def test_no_weight_is_negative_where_times_fall_with_an_amount() -> None:
    amounts = np.array([[1.0, 4.0], [2.0, 3.0], [3.0, 2.0], [4.0, 1.0]])
    weights, constant = fit_times(amounts, np.array([1.0, 2.0, 3.0, 4.0]))
    assert (weights >= 0).all()
    assert constant >= 0
    assert amounts @ weights + constant == pytest.approx([1, 2, 3, 4])


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 512), nn.Linear(512, 8))


def test_fewer_units_are_predicted_to_take_less_time(net: nn.Sequential) -> None:
    x = torch.randn(64, 256)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    coupling = couple(capture(net, x))
    net.train()
    model = latency_model(net, coupling, x, rounds=3)
    assert net.training
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    whole = model.ms()
    halves = {a.id: a.size // 2 for a in coupling.axes.values()}
    assert 0 < model.ms(halves) < whole
    masks = {a: np.arange(coupling.axis(a).size) < n for a, n in halves.items()}
    assert model.ms(masks) == model.ms(halves)
    for axis, count in halves.items():
        assert model.ms(halves) <= model.ms({axis: count}) <= whole


def test_times_are_measured_once_for_a_machine_a_torch_and_a_program(
    net: nn.Sequential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path))
    x = torch.randn(4, 256)
    coupling = couple(capture(net, x))
    runs: list[int] = []
    real = prunus.measurement.timing.model.time_ops

    def counted(*args: Any, **kwargs: Any) -> OpTimes:
        runs.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr("prunus.measurement.timing.model.time_ops", counted)
    first, second = (latency_model(net, coupling, x, rounds=2) for _ in range(2))
    assert len(runs) == 1
    assert first.ms() == second.ms()
    assert first.measured == second.measured
    latency_model(net, couple(capture(net, torch.randn(8, 256))), torch.randn(8, 256), rounds=2)
    assert len(runs) == 2
    monkeypatch.setattr("prunus.measurement.timing.table.machine", lambda: "another")
    latency_model(net, coupling, x, rounds=2)
    assert len(runs) == 3
    for file in (tmp_path / "timing").iterdir():
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.warns(CacheWarning, match="damaged"):
        latency_model(net, coupling, x, rounds=2)
    assert len(runs) == 4


def test_every_op_is_timed_at_every_width(net: nn.Sequential) -> None:
    x = torch.randn(4, 256)
    coupling = couple(capture(net, x))
    keep = {a.id: np.arange(a.size) < 16 for a in coupling.axes.values()}
    found = time_ops(net, coupling, x, [keep], rounds=2)
    assert found.seconds.shape == (2, len(found.nodes))
    assert (found.seconds > 0).all()
    assert found.model_seconds > 0
