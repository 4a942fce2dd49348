"""Will it pay: forecasts for eager, ONNX Runtime and sparse kernels, and plain warnings where it will not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from prunus.analysis.score import make_plan
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.measurement.forecast import Forecast, forecast, onnx_ratio, warnings_of
from prunus.surgery.rewriting.rewrite_graph import rewrite


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 8))


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(16, 512)


def first(coupling: Coupling, count: int) -> dict[str, np.ndarray]:
    return {a.id: np.arange(a.size) < count for a in coupling.axes.values()}


def test_a_quarter_of_the_width_is_forecast_to_be_faster(net: nn.Sequential, inputs: torch.Tensor) -> None:
    coupling = couple(capture(net, inputs))
    plan = make_plan(coupling, first(coupling, 256))
    found = forecast(net, coupling, inputs, plan, batch=16)
    assert found.eager is not None
    assert found.eager < 0.7
    assert found.sparse is None
    assert found.packed_bytes == found.dense_bytes == plan.after.param_bytes
    assert list(warnings_of(replace(found, onnx=None))) == []


def test_masks_cost_a_bit_a_weight_and_do_not_pay_when_few_weights_go(net: nn.Sequential, inputs: torch.Tensor) -> None:
    coupling = couple(capture(net, inputs))
    mask = np.random.default_rng(0).random((1024, 1024)) < 0.9
    plan = make_plan(coupling, {}, masks={"2.weight": mask})
    found = forecast(net, coupling, inputs, plan, batch=16)
    assert found.packed_bytes == plan.after.param_bytes - 4 * mask.size + 4 * int(mask.sum()) + mask.size // 8
    assert found.eager == 1.0
    said = " ".join(warnings_of(found))
    assert "eager PyTorch" in said
    assert "sparse kernels win in no layer" in said


def test_onnx_runtime_is_asked_about_its_own_ops(net: nn.Sequential, inputs: torch.Tensor) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    conv = nn.Sequential(nn.Conv2d(8, 64, 3, 2, 1), nn.Conv2d(64, 64, 3, padding="same", groups=2), nn.Flatten())
    for model, x in ((net, inputs), (conv, torch.randn(1, 8, 32, 32))):
        coupling = couple(capture(model, x))
        axes = {a.id: np.arange(a.size) < max(1, a.size // 4) for a in coupling.axes.values()}
        ratio = onnx_ratio(coupling.graph, rewrite(coupling, axes), rounds=5)
        assert ratio is not None
        assert 0 < ratio < 0.8
    bare = couple(capture(nn.ReLU(), torch.randn(2, 3)))
    assert onnx_ratio(bare.graph, bare.graph) is None


def test_every_runtime_that_does_not_gain_is_named() -> None:
    slow = Forecast(0.99, 1.2, None, 100, 100, (), 1, 1)
    assert [w.split(":")[0] for w in warnings_of(slow)] == [
        "It will not pay on eager PyTorch",
        "It will not pay on ONNX Runtime",
    ]
    assert list(warnings_of(Forecast(0.5, 0.6, 0.3, 100, 50, (), 1, 1))) == []
