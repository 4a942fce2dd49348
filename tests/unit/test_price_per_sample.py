"""MACs are counted for one sample, whatever the batch of the example."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import prunus
from prunus.cost.price import cost_model


class Mixed(nn.Module):
    """Convolution, windows of a view, attention, a recurrent layer and a flattened batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.rows = nn.Linear(6, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        n, c, h, w = x.shape
        windows = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
        windows = windows + self.attention(windows, windows, windows, need_weights=False)[0]
        y = self.lstm(windows.reshape(n, h * w, c))[0]
        rows = self.rows(y.reshape(n * h * w, 6)).reshape(n, h * w, 5)
        return self.head(rows.mean(1))


def price(model: nn.Module, example: object) -> prunus.plans.Cost:
    return cost_model(prunus.couple(prunus.capture(model, example))).price()


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_the_batch_of_the_example_changes_no_price(batch: int) -> None:
    model = Mixed().eval()
    assert price(model, torch.zeros(batch, 3, 4, 4)) == price(model, torch.zeros(1, 3, 4, 4))


def test_the_price_of_a_linear_layer_is_its_weights() -> None:
    assert price(nn.Linear(7, 5), torch.zeros(6, 7)).macs_forward == 35


@pytest.mark.parametrize("budget", [{"macs": 1500}, {"macs": 0.5}, {"params": 500}, {"flops": 3000}, {"macs": "50%"}])
def test_the_batch_of_the_example_changes_no_plan(budget: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    plans = [prunus.plan(model, torch.zeros(batch, 16), budget=budget) for batch in (1, 2, 8)]
    for plan in plans[1:]:
        assert plan.describe() == plans[0].describe()
    assert plans[0].after.macs_forward < plans[0].before.macs_forward


def test_an_image_without_a_batch_dim_is_one_sample() -> None:
    conv = nn.Conv2d(3, 8, 3, padding=1)
    assert price(conv, torch.zeros(3, 6, 6)) == price(conv, torch.zeros(1, 3, 6, 6))


class Edges(nn.Module):
    """Messages along edges: their number has nothing to do with the rows of the first input."""

    def __init__(self) -> None:
        super().__init__()
        self.node, self.edge = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        return self.node(x) + self.edge(edges).sum(0)


def test_a_call_counts_as_one_sample_where_an_op_has_no_dim_of_the_samples() -> None:
    assert price(Edges(), (torch.zeros(6, 4), torch.zeros(7, 4))).macs_forward == 6 * 16 + 7 * 16


def test_flops_are_two_for_each_mac() -> None:
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    macs = prunus.plan(model, torch.zeros(2, 16), budget={"macs": 600})
    assert prunus.plan(model, torch.zeros(2, 16), budget={"flops": 1200}).describe() == macs.describe()


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"params": "0%"}, "budget params is '0%'; allowed: a percentage above 0% and up to 100%."),
        ({"macs": "120%"}, "budget macs is '120%'; allowed: a percentage above 0% and up to 100%."),
        ({"macs": 5, "flops": 10}, "budget names macs and flops, which are one price"),
        ({"flops": "many"}, "budget flops is 'many'; allowed: a kept fraction"),
    ],
)
def test_budgets_that_say_nothing_are_refused_in_a_line(budget: dict[str, object], words: str) -> None:
    with pytest.raises(prunus.PrunusError) as error:
        prunus.plan(nn.Linear(4, 4), torch.zeros(1, 4), budget=budget)
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)
