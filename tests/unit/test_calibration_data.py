"""Calibration data in the forms that people have them: accepted alike everywhere, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import prunus
from prunus.data.calibration import batches_of
from prunus.errors import DataError, OptionError


class Two(nn.Module):
    """Takes two arguments of one shape that mean different things."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, p: Tensor, q: Tensor) -> Tensor:
        out: Tensor = self.out(torch.relu(self.left(p)) * 2 + torch.tanh(self.right(q)))
        return out


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.down, self.out = (
            nn.Embedding(40, 16),
            nn.Linear(16, 32),
            nn.Linear(32, 16),
            nn.Linear(16, 40),
        )

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        out: Tensor = self.out(x + self.down(torch.relu(self.up(x))))
        return out


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))


def kept(model: nn.Module, example: Any, data: Any, criterion: str | None, **options: Any) -> dict[str, list[bool]]:
    plan = prunus.plan(model, example, budget={"params": 0.6}, criterion=criterion, data=data, **options)
    return {axis: mask.tolist() for axis, mask in plan.axes.items()}


@pytest.mark.parametrize("criterion", [None, "fisher", "contribution", "wanda", "redundancy"])
def test_one_tensor_of_samples_is_one_batch(criterion: str | None) -> None:
    model, x = mlp(), torch.randn(24, 6)
    assert kept(model, x[:2], x, criterion) == kept(model, x[:2], [x], criterion)


@pytest.mark.parametrize("criterion", [None, "contribution"])
@pytest.mark.parametrize("samples", [2, 24], ids=["as many as the example", "more"])
def test_named_arguments_count_by_name_in_any_order_and_labels_beside_them_do_not(
    criterion: str | None, samples: int
) -> None:
    model, example = Two(), {"p": torch.randn(2, 6), "q": torch.randn(2, 6)}
    p, q = torch.randn(samples, 6), 5 * torch.randn(samples, 6) + 2
    first = kept(model, example, [{"p": p, "q": q}], criterion)
    assert first != kept(model, example, [{"p": q, "q": p}], criterion)
    assert first == kept(model, example, [{"q": q, "p": p}], criterion)
    assert first == kept(model, example, [{"q": q, "labels": torch.zeros(samples), "p": p}], criterion)


def test_repair_takes_named_arguments_in_any_order() -> None:
    model, example = Two(), {"p": torch.randn(2, 6), "q": torch.randn(2, 6)}
    p, q = torch.randn(64, 6), 5 * torch.randn(64, 6) + 2
    found = [
        prunus.prune(model, example, budget={"params": 0.6}, data=[batch], repair="refold").repair
        for batch in ({"p": p, "q": q}, {"q": q, "p": p})
    ]
    assert found[0] is not None
    assert found[0] == found[1]
    assert found[0].chosen == "refold"


_X, _Y = torch.zeros(8, 6), torch.zeros(8, dtype=torch.int64)
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "a number": (lambda: 3, "data is a int; allowed: an iterable of batches"),
    "a path": (lambda: Path("x.pt"), "data is a PosixPath"),
    "a function": (lambda: lambda: [_X], "data is a function"),
    "one batch by name": (lambda: {"x": _X}, "data is a dict"),
    "a data set of the wrong width": (lambda: TensorDataset(_X[:, :5], _Y), "does not go through the model"),
    "inputs and targets": (lambda: (_X, _Y), r"one pair \(inputs, targets\)"),
    "an array": (lambda: [np.zeros((8, 6))], "batch 0"),
    "no samples": (lambda: [(_X[:0], _Y[:0])], "batch 0 holds no samples"),
    "dtype": (lambda: [(_X[:2].double(), _Y[:2])], "float64|double|dtype|Double"),
    "width": (lambda: [(_X[:, :5], _Y)], "does not go through the model"),
}


@pytest.mark.parametrize("criterion", [None, "fisher", "taylor", "sensitivity"])
@pytest.mark.parametrize("case", BAD)
def test_data_that_cannot_be_used_are_refused_in_one_line(criterion: str | None, case: str) -> None:
    make, part = BAD[case]
    with pytest.raises(DataError, match=part) as raised:
        prunus.plan(mlp(), torch.zeros(2, 6), budget={"params": 0.6}, criterion=criterion, data=make())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("criterion", [None, "fisher", "taylor", "sensitivity"])
def test_a_data_set_counts_as_its_loader(criterion: str | None) -> None:
    model, data = mlp(), TensorDataset(torch.randn(100, 6), torch.randint(0, 4, (100,)))
    assert kept(model, _X[:2], data, criterion) == kept(model, _X[:2], DataLoader(data, 64), criterion)


def test_a_criterion_called_on_its_own_takes_batches() -> None:
    with pytest.raises(DataError, match="a data set into a DataLoader"):
        batches_of(TensorDataset(_X, _Y))


@pytest.mark.parametrize("criterion", ["taylor", "taylor-sample", "sensitivity"])
@pytest.mark.parametrize(
    "targets", [torch.full((8,), 9), torch.zeros(7, dtype=torch.int64), torch.zeros(8)], ids=["class", "count", "float"]
)
def test_targets_that_the_loss_does_not_take_are_told_with_their_form(criterion: str, targets: Tensor) -> None:
    with pytest.raises(DataError, match=r"loss 'cross_entropy' refuses .* targets torch\.\w+ \(\d,\)"):
        prunus.plan(mlp(), _X[:2], budget={"params": 0.6}, criterion=criterion, data=[(_X, targets)])


def test_what_was_opted_in_holds_for_batches_of_other_shapes() -> None:
    model, ids = Tokens(), torch.randint(0, 40, (24, 5))
    chosen = {"opt_in": ("vocabulary",)}
    vocabulary = 40
    assert kept(model, ids[:2], [ids], "obs-units", **chosen).keys() >= {"up:out"}
    result = prunus.prune(
        model, ids[:2], budget={"params": 0.6}, criterion="contribution", data=[ids], repair="refold", **chosen
    )
    assert result.repair is not None
    assert result.repair.chosen == "refold"
    assert len(result.plan.keep["table.weight"][0]) < vocabulary


class Dropping(nn.Module):
    """Dropout that is always on."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.two(nn.functional.dropout(self.one(x).relu(), 0.3, training=True))
        return out


@pytest.mark.parametrize("criterion", ["fisher", "taylor", "contribution"])
def test_scoring_a_model_that_draws_leaves_the_random_state(criterion: str) -> None:
    model, data = Dropping(), [(torch.randn(16, 6), torch.zeros(16, dtype=torch.int64))]
    before = torch.get_rng_state()
    first = kept(model, torch.zeros(2, 6), data, criterion)
    assert torch.equal(before, torch.get_rng_state())
    assert kept(model, torch.zeros(2, 6), data, criterion) == first


@pytest.mark.parametrize("wrong", [["fisher"], 3, len])
def test_criteria_and_repairs_are_names(wrong: Any) -> None:
    if wrong is not len:  # a function is a criterion too
        with pytest.raises(OptionError, match=r"criterion .* is unknown"):
            prunus.plan(mlp(), _X, budget={"params": 0.6}, criterion=wrong)
    with pytest.raises(OptionError, match=r"repair .* is unknown"):
        prunus.prune(mlp(), _X, budget={"params": 0.6}, repair=wrong)


def test_labels_that_are_texts_are_named() -> None:
    with pytest.raises(DataError, match=r"with targets \(?\[?'a'.*Check the labels"):
        prunus.plan(mlp(), _X, budget={"params": 0.6}, criterion="sensitivity", data=[(torch.randn(3, 6), ["a"] * 3)])


@pytest.mark.parametrize("made", ["with gradients", "in inference mode"])
def test_data_of_any_making_are_taken_as_numbers(made: str) -> None:
    model, x, y = mlp(), torch.randn(32, 6), torch.zeros(32, dtype=torch.int64)
    with torch.inference_mode(made == "in inference mode"):
        given = x.clone() if made == "in inference mode" else x.clone().requires_grad_()
    for criterion in ("taylor", "sensitivity"):
        assert kept(model, x[:2], [(given, y)], criterion) == kept(model, x[:2], [(x, y)], criterion)
    result = prunus.prune(model, x[:2], budget={"params": 0.6}, data=[given], repair="blockwise")
    assert result.repair is not None
    assert result.repair.chosen == "blockwise"
    assert given.grad is None


@pytest.mark.parametrize(
    "wrong", [{"repair": "refolt"}, {"criterion": "fischer"}, {"allocator": "even"}, {"recover": {"step": 3}}]
)
def test_a_misspelt_option_does_not_use_an_iterator_up(wrong: dict[str, Any]) -> None:
    model, x = mlp(), torch.randn(32, 6)
    data = iter([x])
    with pytest.raises(OptionError):
        prunus.prune(model, x[:2], budget={"params": 0.6}, data=data, **wrong)
    assert next(data) is x


@pytest.mark.parametrize("criterion", [None, "contribution"])
@pytest.mark.parametrize("samples", [2, 24], ids=["as many as the example", "more"])
def test_named_batches_fit_a_model_that_was_captured_by_position(criterion: str | None, samples: int) -> None:
    model, example = Two(), (torch.randn(2, 6), torch.randn(2, 6))
    p, q = torch.randn(samples, 6), 5 * torch.randn(samples, 6) + 2
    first = kept(model, example, [((p, q), None)], criterion)
    assert first == kept(model, example, [{"q": q, "labels": torch.zeros(samples), "p": p}], criterion)
