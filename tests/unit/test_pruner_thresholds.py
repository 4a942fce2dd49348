"""Thresholds that fall while a network trains: weights, neurons and branches, beside the pseudo-code they follow."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from factories_training import blocks, fit, samples
from prunus.errors import BudgetError, DataError, OptionError
from prunus.pruner import Pruner
from prunus.pruner.strategies.falling_threshold import one_by_one
from prunus.pruner.strategies.key_path_pace import KeyPathThreshold
from prunus.pruner.strategies.rounds import divided
from prunus.pruner.strategies.sensitivity import SensitivityThreshold
from prunus.training.schedules import kept_after


def pseudo_code(gradients: list[float], threshold: float) -> list[bool]:
    """Return what the loop of first 6.1.1 and 6.2.1 removes: each removal lowers the threshold at once."""
    removed = []
    for gradient in gradients:
        removed.append(abs(gradient) < threshold)
        if removed[-1]:
            threshold *= 0.9
    return removed


def steps(model: nn.Module, pruner: Pruner, slopes: list[list[list[float]]], total: int) -> list[list[bool]]:
    """Take a step for each list of gradients of the first weight; return its mask before each step and at the end."""
    optimizer, seen = torch.optim.SGD(model.parameters(), lr=0.0), []
    pruner.train_begin(optimizer, total)
    weight = next(iter(model.parameters()))
    for slope in slopes:
        pruner.step_begin()
        seen.append(pruner.masks[_first(model)].reshape(-1).tolist() if pruner.masks else [True] * weight.numel())
        weight.grad = torch.tensor(slope)
        pruner.before_optimizer_step(1.0)
        optimizer.step()
        pruner.after_optimizer_step()
    return seen


def _first(model: nn.Module) -> str:
    return next(name for name, _ in model.named_parameters())


TEN = [0.05, -0.3, 0.095, 0.45, -0.085, 0.11, -0.09, 0.8, 0.07, 0.02]


@pytest.mark.parametrize("per", ["part", "change"])
def test_ten_weights_go_as_the_pseudo_code_says(per: str) -> None:
    model = nn.Sequential(nn.Linear(10, 1, bias=False))
    settings = {"threshold": 0.1, "per": per}
    pruner = Pruner(
        model, {"kept": 0.1, "method": "gradient-threshold", "every": 1, "end_step": 3, "settings": settings}
    )
    seen = steps(model, pruner, [[TEN]] * 2, 4)
    literal = [not gone for gone in pseudo_code(TEN, 0.1)]
    assert literal == [abs(g) >= 0.1 or g in (0.095, -0.09) for g in TEN]
    assert seen[1] == (literal if per == "part" else [abs(g) >= 0.1 for g in TEN])


def test_the_mean_of_the_size_is_compared_and_signs_do_not_cancel() -> None:
    model = nn.Sequential(nn.Linear(3, 1, bias=False))
    options = {"kept": 0.34, "method": "gradient-threshold", "every": 2, "settings": {"threshold": 0.2}, "end_step": 4}
    pruner = Pruner(model, options)
    seen = steps(model, pruner, [[[0.3, 0.1, 0.0]], [[-0.3, 0.1, 0.3]], [[1.0, 1.0, 1.0]]], 5)
    assert seen[2] == [True, False, False]  # E|g| is 0.3, 0.1, 0.15


def test_tau_falls_by_the_factor_with_each_pruning_and_only_then() -> None:
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    settings = {"threshold": 1.0, "decay": 0.5}
    pruner = Pruner(
        model, {"kept": 0.25, "method": "gradient-threshold", "every": 1, "end_step": 6, "settings": settings}
    )
    seen = steps(
        model, pruner, [[[0.9, 2.0, 2.0, 2.0]], [[0.0, 0.6, 2.0, 2.0]], [[0.0, 0.4, 2.0, 2.0]], [[0.0] * 4]], 8
    )
    assert seen[1:] == [[False, True, True, True], [False, True, True, True], [False, False, True, True]]


@pytest.mark.parametrize(
    ("threshold", "words"),
    [(9.0, "removes all 10 weights by their mean .gradient.: the largest is 0.8. Give"), (0.0, "removes none of 10")],
)
def test_a_threshold_that_divides_nothing_is_refused_at_the_first_change(threshold: float, words: str) -> None:
    model = nn.Sequential(nn.Linear(10, 1, bias=False))
    options = {"kept": 0.1, "method": "gradient-threshold", "every": 1, "settings": {"threshold": threshold}}
    with pytest.raises(BudgetError, match=words):
        steps(model, Pruner(model, options), [[TEN]] * 2, 4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threshold": -1}, "'threshold' of 'a threshold on gradients' is -1"),
        ({"decay": 2}, "'decay' of"),
        ({"per": "weight"}, "setting 'per' of a threshold on gradients is 'weight'.*Allowed: change, part"),
    ],
)
def test_settings_are_strict(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Pruner(blocks(), {"kept": 0.5, "method": "gradient-threshold", "settings": settings})


def test_taking_in_blocks_is_taking_one_by_one() -> None:
    values = np.random.default_rng(0).random(20_000)
    taken, tau = one_by_one(values, 0.9, 0.9999)
    assert taken.tolist() == _by_hand(values.tolist(), 0.9, 0.9999)
    assert tau == pytest.approx(0.9 * 0.9999 ** int(taken.sum()))


def _by_hand(values: list[float], tau: float, decay: float) -> list[bool]:
    taken = []
    for value in values:
        taken.append(value < tau)
        tau = tau * decay if taken[-1] else tau
    return taken


def pruned(method: str, kept: float = 0.4, count: int = 24, **settings: Any) -> tuple[nn.Module, Pruner]:
    model = blocks()
    pruner = Pruner(
        model, {"kept": kept, "method": method, "every": 3, "settings": settings}, example_inputs=samples().inputs[:4]
    )
    fit(model, pruner, torch.optim.SGD(model.parameters(), lr=0.05), count)
    return model, pruner


def test_neurons_below_the_threshold_go_and_those_alone() -> None:
    """The first change removes exactly the units whose E[g²] is below τ; the gradients are taken by hand."""
    model, data = blocks(), samples()
    settings = {"threshold": 1e-5}
    options = {"kept": 0.05, "method": "sensitivity-threshold", "every": 2, "end_step": 8, "settings": settings}
    pruner = Pruner(model, options, example_inputs=data.inputs[:4])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    pruner.train_begin(optimizer, 10)
    squares = torch.zeros(12)
    for step in range(2):
        pruner.step_begin()
        rows = torch.arange(32) + 32 * step
        nn.functional.cross_entropy(model(data.inputs[rows]), data.targets[rows]).backward()
        squares += model[2].up.weight.grad.square().mean(1) / 2
        pruner.before_optimizer_step()
        optimizer.step()
        pruner.after_optimizer_step()
        optimizer.zero_grad()
    pruner._strategy.falling.tau = tau = float(squares.median()) * 1.01
    pruner.step_begin()
    rows_left = pruner.masks["2.up.weight"].any(1)
    assert torch.equal(rows_left, squares >= tau)
    assert pruner._strategy.falling.tau == pytest.approx(0.9 * tau)


def test_a_given_threshold_decides_and_kept_is_the_least_share() -> None:
    _, pruner = pruned("sensitivity-threshold", kept=0.1, threshold=1e-5)
    assert isinstance(pruner._strategy, SensitivityThreshold)
    assert 0.1 < pruner.kept < 1.0
    _, bounded = pruned("sensitivity-threshold", kept=0.6, threshold=0.002)
    assert 0.5 < bounded.kept <= 0.61


def test_branches_above_the_threshold_are_the_key_path() -> None:
    _, pruner = pruned("key-path-threshold", kept=0.2)
    assert isinstance(pruner._strategy, KeyPathThreshold)
    model, data = blocks(), samples()
    options = {"kept": 0.05, "method": "key-path-threshold", "every": 1, "end_step": 6, "settings": {"threshold": 1e-9}}
    with pytest.raises(BudgetError, match=r"removes none of 3 branches by their mean .gradient.: the smallest is"):
        fit(model, Pruner(model, options, example_inputs=data.inputs[:4]), torch.optim.SGD(model.parameters(), 0.1), 8)
    slopes = gate_slopes(blocks())
    middle = sorted(slopes)[1]
    options["settings"] = {"threshold": middle}
    model = blocks()
    pruner = Pruner(model, options, example_inputs=data.inputs[:4])
    pruner.train_begin(torch.optim.SGD(model.parameters(), lr=0.0), 8)
    pruner.step_begin()
    nn.functional.cross_entropy(model(data.inputs), data.targets).backward()
    pruner.before_optimizer_step()
    pruner.after_optimizer_step()
    pruner.step_begin()
    gone = [not pruner.masks.get(f"{i}.down.weight", torch.ones(1)).any() for i in (2, 3, 4)]
    assert gone == [slope <= middle for slope in slopes]
    assert pruner._strategy.falling.tau == pytest.approx(0.9 * middle)


def gate_slopes(model: nn.Module) -> list[float]:
    """Return |∂L/∂γ| of a gate on the weights of each block's last layer."""
    data = samples()
    nn.functional.cross_entropy(model(data.inputs), data.targets).backward()
    return [
        abs(
            float(
                (model[i].down.weight.detach() * model[i].down.weight.grad).sum()
                + (model[i].down.bias.detach() * model[i].down.bias.grad).sum()
            )
        )
        for i in (2, 3, 4)
    ]


def test_a_threshold_on_branches_needs_branches() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    options = {"kept": 0.5, "method": "key-path-threshold", "settings": {"threshold": 0.1}}
    pruner = Pruner(model, options, example_inputs=samples().inputs[:4])
    with pytest.raises(BudgetError, match=r"threshold is 0.1, and Sequential has no branch"):
        fit(model, pruner, torch.optim.SGD(model.parameters(), lr=0.1), 8)


@pytest.mark.parametrize("method", ["units-adaptive", "key-path-adaptive"])
def test_neurons_and_branches_wait_while_the_loss_rises(method: str) -> None:
    def kept_under(losses: list[float]) -> float:
        model, data = blocks(), samples()
        options = {"kept": 0.2, "method": method, "every": 4, "end_step": 80}
        pruner = Pruner(model, options, example_inputs=data.inputs[:4])
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        pruner.train_begin(optimizer, 100)
        for loss in losses:
            pruner.step_begin()
            nn.functional.cross_entropy(model(data.inputs[:8]), data.targets[:8]).backward()
            pruner.before_optimizer_step(loss)
            optimizer.step()
            pruner.after_optimizer_step()
        return pruner.kept

    rising, plateau = kept_under([1.0 + 0.05 * i for i in range(57)]), kept_under([1.0] * 57)
    assert plateau < rising == 1.0
    pruner = Pruner(blocks(), {"kept": 0.5, "method": method}, example_inputs=samples().inputs[:4])
    pruner.train_begin(torch.optim.SGD(pruner.model.parameters(), lr=0.1), 10)
    with pytest.raises(DataError, match=f"method '{method}' follows the loss"):
        pruner.before_optimizer_step()


@pytest.mark.parametrize("method", ["fine-tuning-weights", "fine-tuning-units"])
def test_rates_fall_round_by_round_and_weights_adapt_in_between(method: str) -> None:
    model, data, seen = blocks(), samples(), []
    pruner = Pruner(model, {"kept": 0.4, "method": method, "end_step": 20}, example_inputs=data.inputs[:4])
    optimizer, before = torch.optim.SGD(model.parameters(), lr=0.05), []
    pruner.train_begin(optimizer, 22)
    for _ in range(22):
        pruner.step_begin()
        seen.append(pruner.kept)
        before.append(model[5].weight.detach().clone())
        nn.functional.cross_entropy(model(data.inputs), data.targets).backward()
        pruner.before_optimizer_step()
        optimizer.step()
        pruner.after_optimizer_step()
        optimizer.zero_grad()
    levels = list(dict.fromkeys(seen))
    assert levels[1:] == pytest.approx(kept_after(0.4, 5), abs=0.02)
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(before[3:9]))


@pytest.mark.parametrize("method", ["fine-tuning-weights", "fine-tuning-units"])
def test_a_rate_that_removes_nothing_is_refused(method: str) -> None:
    options = {"kept": 0.5, "method": method, "settings": {"rate": 0}}
    with pytest.raises(OptionError, match="rate' of 'fine-tuning' is 0, so no round removes anything"):
        Pruner(blocks(), options, example_inputs=samples().inputs[:4])


def test_every_layer_loses_the_same_share_at_the_rate_that_is_given() -> None:
    options = {"kept": 0.01, "method": "fine-tuning-weights", "settings": {"rate": 0.5, "rounds": 2}}
    model = blocks()
    pruner = Pruner(model, options)
    fit(model, pruner, torch.optim.SGD(model.parameters(), lr=0.05), 20)
    shares = [float(mask.float().mean()) for mask in pruner.masks.values()]
    assert shares == pytest.approx([0.5 * 0.55] * len(shares), abs=0.02)
    assert divided(10, {"a": 30, "b": 60, "c": 1}) == {"a": 3, "b": 6, "c": 1}
    assert sum(divided(3, {"a": 1, "b": 1000, "c": 1}).values()) == 3
