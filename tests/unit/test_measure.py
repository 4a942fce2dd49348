"""`measure` and prices: exact counts, what is not zero, quality on data, time against a baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import prunus
from factories_states import snapshot
from prunus.cost.price import cost_model
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.measurement.network import Measurement
from prunus.plans import Cost

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


def price(model: nn.Module, inputs: Any) -> Cost:
    return cost_model(couple(capture(model, inputs))).price()


class Dot(nn.Module):
    """Self-attention of the inputs with themselves: products without a weight."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ x.transpose(-2, -1)).softmax(-1) @ x


class Scaled(nn.Module):
    """The fused product: queries of 5 tokens, one head of size 6."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(x, x, x)


# Forward MACs of one sample by hand: positions × contracted size × outputs.
COUNTS = {
    "linear": (nn.Linear(6, 3), (2, 6), 6 * 3),
    "linear over tokens": (nn.Linear(6, 3), (2, 5, 6), 5 * 6 * 3),
    "convolution": (nn.Conv2d(3, 4, 3, padding=1), (1, 3, 8, 8), 64 * 27 * 4),
    "strided": (nn.Conv2d(3, 4, 3, stride=2, padding=1), (1, 3, 8, 8), 16 * 27 * 4),
    "grouped": (nn.Conv2d(4, 8, 3, groups=2), (1, 4, 8, 8), 36 * 18 * 8),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), (1, 4, 8, 8), 36 * 9 * 4),
    "transposed": (nn.ConvTranspose2d(3, 4, 2, 2), (1, 3, 8, 8), 64 * 3 * 4 * 4),
    "over time": (nn.Conv1d(3, 4, 3), (2, 3, 8), 6 * 9 * 4),
    "lstm": (nn.LSTM(6, 8, batch_first=True), (2, 5, 6), 5 * 4 * 8 * (6 + 8)),
    "gru, both ways": (nn.GRU(6, 8, batch_first=True, bidirectional=True), (2, 5, 6), 2 * 5 * 3 * 8 * (6 + 8)),
    "product": (Dot(), (2, 5, 6), 2 * 25 * 6),
    "attention": (Scaled(), (2, 5, 6), 2 * 25 * 6),
    "norms and activations": (nn.Sequential(nn.LayerNorm(6), nn.GELU()), (2, 6), 0),
}


@pytest.mark.parametrize("name", COUNTS)
def test_forward_macs_are_those_counted_by_hand(name: str) -> None:
    model, shape, expected = COUNTS[name]
    found = price(model, torch.randn(shape))
    assert found.macs_forward == expected
    assert found.params == sum(p.numel() for p in model.parameters())


def test_backward_macs_count_what_needs_a_gradient() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    first, last = 6 * 8, 8 * 3
    assert price(model, X).macs_backward == first + 2 * last, "the input needs none"
    model[0].requires_grad_(False)
    assert price(model, X).macs_backward == last
    model.requires_grad_(False)
    assert price(model, X).macs_backward == 0


def test_tied_and_unused_parameters_count_once() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    model.spare = nn.Linear(3, 3)
    model.forward = lambda x: model[1](model[0](x))  # type: ignore[method-assign]
    assert price(model, X).params == sum(p.numel() for p in model.parameters()) == 36 + 6 + 6 + 12


def test_bytes_follow_the_dtype_of_each_parameter() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)).double()
    assert price(model, X.double()).param_bytes == 8 * (28 + 10)


def test_prices_take_counts_or_masks() -> None:
    cost = cost_model(couple(capture(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)), X)))
    assert cost.price({"0:out": 3}) == cost.price({"0:out": np.arange(8) < 3})
    assert cost.price({"0:out": 3}).params == 3 * 7 + 3 * 3 + 3
    assert cost.amounts(cost.params, {"0:out": 3}) == {"0.weight": 18, "0.bias": 3, "1.weight": 9, "1.bias": 3}
    params, macs = cost.touching("0:out")
    assert {t.owner for t in params} == {"0.weight", "0.bias", "1.weight"}
    assert len(macs) == 2


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def test_measuring_counts_and_changes_nothing() -> None:
    model = classifier().train()
    with torch.no_grad():
        model[0].weight[:4] = 0
    before = snapshot(model)
    found = prunus.measure(model, X)
    assert snapshot(model) == before
    assert found == Measurement(price(model, X), nonzero=163 - 24)
    assert "163 (139 not zero)" in str(found)
    assert "accuracy" not in str(found)


def test_quality_is_measured_on_the_data() -> None:
    model = classifier().eval()
    labels = model(X).argmax(-1)
    found = prunus.measure(model, X, data=[(X, labels)])
    assert found.quality is not None
    assert found.quality.accuracy == 1.0
    assert "accuracy       1.0000" in str(found)


def test_time_is_measured_against_a_baseline() -> None:
    model, larger = classifier(), nn.Sequential(nn.Linear(6, 3000), nn.ReLU(), nn.Linear(3000, 3))
    found = prunus.measure(model, X, baseline=larger, rounds=10)
    assert found.forward is not None
    assert found.backward is not None
    assert 0 < found.forward.low <= found.forward.median <= found.forward.high
    assert found.forward.median < 1
    assert not found.forward.backward
    assert found.backward.backward
    text = str(found)
    assert "forward  time ×" in text
    assert "backward time ×" in text


def test_wrappers_and_keyword_inputs() -> None:
    model = classifier()
    plain = prunus.measure(model, X)
    assert prunus.measure(nn.DataParallel(model), X) == plain
    assert prunus.measure(model, {"input": X}, baseline=model, rounds=3).cost == plain.cost
