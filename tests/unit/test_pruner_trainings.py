"""One pruner through several trainings, stored states, other number formats, and levels that cannot be reached."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from factories_training import OPTIMIZERS, blocks, fit, samples
from prunus.errors import BudgetError, OptionError
from prunus.pruner import Pruner
from prunus.pruner.distributed import carrier

STEPS = 12
EXAMPLE = samples().inputs[:4]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return OPTIMIZERS["sgd with momentum"](model.parameters())


def trained(options: dict[str, Any], model: nn.Module | None = None) -> tuple[Pruner, nn.Module]:
    model = model or blocks()
    pruner = Pruner(model, {"every": 2, **options}, example_inputs=EXAMPLE)
    fit(model, pruner, sgd(model), STEPS)
    return pruner, model


@pytest.mark.parametrize("method", ["units", "group-lasso", "growing-regularisation"])
def test_a_budget_of_units_that_cannot_be_met_is_refused_before_the_first_step(method: str) -> None:
    model = blocks()
    pruner = Pruner(model, {"kept": 0.001, "method": method}, example_inputs=EXAMPLE)
    with pytest.raises(BudgetError, match="the least reachable is"):
        pruner.train_begin(sgd(model), STEPS)


@pytest.mark.parametrize(
    "options", [{}, {"pattern": "2:4", "kept": 0.5}, {"method": "granet"}, {"method": "movement"}], ids=str
)
def test_a_second_training_keeps_what_is_masked(options: dict[str, Any]) -> None:
    pruner, model = trained({"kept": 0.3, **options})
    least = seen = pruner.kept
    optimizer = sgd(model)
    with pruner.attached(optimizer, STEPS):
        for _ in range(STEPS):
            torch.autograd.backward(nn.functional.cross_entropy(model(samples().inputs), samples().targets))
            optimizer.step()
            optimizer.zero_grad()
            seen = max(seen, pruner.kept)
    assert seen == least == pruner.kept


def test_nothing_to_cut_is_no_error() -> None:
    pruner, _ = trained({"kept": 1.0, "method": "units", "cut": "final"})
    assert pruner.plans == []
    assert pruner.kept == 1.0


def test_a_state_belongs_to_options_network_and_length() -> None:
    pruner, model = trained({"kept": 0.4})
    assert pruner.step == STEPS
    state = pruner.state_dict()
    assert state["step"] == STEPS
    again = Pruner(model, {"kept": 0.4, "every": 2})
    again.load_state_dict(state)
    again.load_state_dict(state)  # as a trainer does that validates first
    again.train_begin(sgd(model), STEPS)
    assert again.step == STEPS
    with pytest.raises(OptionError, match="of a network with other weights than this Sequential"):
        Pruner(nn.Sequential(nn.Linear(4, 3)), {"kept": 0.4, "every": 2}).load_state_dict(state)
    with pytest.raises(OptionError, match="keys model; give what state_dict returned"):
        Pruner(model, {"kept": 0.4}).load_state_dict({"model": 1})


def test_a_schedule_is_not_bent_by_another_length() -> None:
    model = blocks()
    pruner = Pruner(model, {"kept": 0.4, "every": 2})
    pruner.train_begin(sgd(model), STEPS)
    pruner.step_begin()
    half = pruner.state_dict()
    pruner.detach()
    other = Pruner(model, {"kept": 0.4, "every": 2})
    other.load_state_dict(half)
    with pytest.raises(OptionError, match="stands at step 0 of 12, this one has 20 steps"):
        other.train_begin(sgd(model), 20)
    over = Pruner(model, {"kept": 0.4, "every": 2})
    over.load_state_dict(trained({"kept": 0.4}, model)[0].state_dict())
    over.train_begin(sgd(model), 20)  # what is over may be trained on, with its masks
    assert (over.step, over.kept) == (0, pytest.approx(0.4, abs=0.01))


@pytest.mark.parametrize("method", ["gradual", "movement", "units"])
def test_what_is_restored_shares_no_memory_with_its_source(method: str) -> None:
    options = {"kept": 0.4, "method": method, "every": 5}
    options |= {"criterion": "importance"} if method == "gradual" else {}
    model = blocks()
    first, second = (Pruner(model, options, example_inputs=EXAMPLE) for _ in range(2))

    def step(pruner: Pruner) -> None:
        optimizer = sgd(model)
        pruner.train_begin(optimizer, STEPS)
        pruner.step_begin()
        torch.autograd.backward(nn.functional.cross_entropy(model(samples().inputs), samples().targets))
        pruner.before_optimizer_step()
        pruner.detach()

    step(first)
    before = [tensor.clone() for tensor in first._strategy.evidence()]
    second.load_state_dict(first.state_dict())
    step(second)
    assert any(tensor.any() for tensor in before)
    assert all(torch.equal(a, b) for a, b in zip(before, first._strategy.evidence(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(before, second._strategy.evidence(), strict=True))


def test_squares_of_half_precision_gradients_do_not_vanish() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False)).half()
    pruner = Pruner(model, {"kept": 0.25, "criterion": "importance", "every": 1, "end_step": 1})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    pruner.train_begin(optimizer, 3)
    pruner.step_begin()
    steep = torch.arange(64).reshape(8, 8) >= 48
    model[0].weight.grad = torch.where(steep, 2e-4, 1e-4).half()  # their squares are below the least half
    pruner.before_optimizer_step()
    optimizer.step()
    pruner.after_optimizer_step()
    pruner.step_begin()
    assert torch.equal(pruner.masks["0.weight"], steep)


def test_sums_on_the_processor_travel_by_the_accelerator_where_the_backend_asks_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert carrier(torch.zeros(2)) == torch.device("cuda", 1)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    assert carrier(torch.zeros(2)) == torch.device("cpu")
