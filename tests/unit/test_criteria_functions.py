"""A plain function is a criterion: what it is given, what it may return, and every place that takes one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunus
from factories_digits import fresh_subject
from prunus.criteria import (
    UNIT_CRITERIA,
    Calibration,
    Evidence,
    Group,
    UnitEvidence,
    UnitRule,
    collect_evidence,
    criterion_name,
    criterion_of,
    damage_curves,
    groups_of,
    needs_of,
    probes_for,
    weight_criterion_of,
)
from prunus.errors import OptionError
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.masks import importance_masks
from prunus.methods.scored_units import unit_plan, unit_scores
from prunus.methods.scored_weights import ranked_plan
from prunus.pruner import Pruner, PrunerOptions


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.cell, self.head = nn.GRU(6, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.a(x)))
        x = x + self.b(x)
        return self.head(self.cell(x.flatten(2).transpose(1, 2))[0][:, -1])


def analysed() -> tuple[Net, Coupling]:
    model = Net().eval()
    return model, couple(capture(model, torch.randn(2, 3, 4, 4)))


def producing_norm(group: Group) -> Tensor:
    return torch.cat(list(group.producers.values()), 1).norm(dim=1)


def size_of(name: str, weight: Tensor) -> Tensor:
    return weight.abs()


def scored(model: nn.Module, coupling: Coupling, criterion: Any) -> dict[str, np.ndarray]:
    evidence = UnitEvidence(coupling, dict(model.named_parameters()))
    return {axis: scores.numpy() for axis, scores in criterion_of(criterion)(evidence).items()}


def test_a_group_holds_what_its_units_own() -> None:
    model, coupling = analysed()
    named = {n: p.detach().double() for n, p in model.named_parameters()}
    groups = {group.id: group for group in groups_of(coupling, named)}
    assert groups.keys() == coupling.axes.keys()
    stream = groups["a:out"]
    assert (stream.id, stream.size, stream.modules) == ("a:out", 6, ("a", "norm", "b", "cell"))
    assert torch.equal(stream.producers["a.weight"], named["a.weight"].flatten(1))
    assert torch.equal(stream.producers["b.weight"], named["b.weight"].flatten(1))
    assert torch.equal(stream.readers["b.weight"], named["b.weight"].transpose(0, 1).flatten(1))
    assert torch.equal(stream.readers["cell.weight_ih_l0"], named["cell.weight_ih_l0"].t())
    assert torch.equal(stream.others["norm.weight"], named["norm.weight"][:, None])
    assert stream.weights["b.weight"].shape == (6, 108), "as producer and as reader"
    state = next(g for g in groups.values() if "head.weight" in g.readers)
    # Row u of three stacked gates belongs to unit u.
    gates = named["cell.weight_ih_l0"].reshape(3, 5, 6)
    assert torch.equal(state.producers["cell.weight_ih_l0"], gates.transpose(0, 1).flatten(1))
    stream.producers["a.weight"].zero_()
    assert model.a.weight.abs().sum() > 0, "what a function does to its group leaves the model alone"


def test_a_function_scores_as_the_enrolled_criterion_does() -> None:
    model, coupling = analysed()
    wanted = scored(model, coupling, "magnitude")
    found = scored(model, coupling, producing_norm)
    assert found.keys() == wanted.keys()
    for axis, scores in wanted.items():
        np.testing.assert_allclose(found[axis], scores)
    rule = UnitRule(UNIT_CRITERIA.get("magnitude").score, scale="norm")  # type: ignore[attr-defined]
    assert all((scored(model, coupling, rule)[a] == s).all() for a, s in wanted.items())


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor, lambda x: torch.tensor(x, dtype=torch.int64)])
def test_scores_may_be_any_list_of_numbers(make: Any) -> None:
    _, coupling = analysed()
    weights = {n: p.detach() for n, p in Net().named_parameters()}
    found = criterion_of(lambda group: make(list(range(group.size))))(UnitEvidence(coupling, weights))
    assert found["a:out"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert found["a:out"].dtype == torch.float64


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            lambda g: [1.0] * (g.size - 1),
            r"returned scores of shape \(5,\) for group 'a:out' of 6 units; allowed: "
            r"finite numbers of shape \(6,\), higher = keep\.$",
        ),
        (lambda g: torch.ones(g.size, 1), r"returned scores of shape \(6, 1\) for group 'a:out'"),
        (lambda g: 1.0, r"returned a float for group 'a:out' of 6 units; allowed"),
        (lambda g: None, r"returned a NoneType for group 'a:out'"),
        (lambda g: "abcdef", r"returned a str for group 'a:out'"),
        (lambda g: ["x"] * g.size, r"returned a list that holds no real numbers for group 'a:out'"),
        (lambda g: torch.ones(g.size) * 1j, r"returned a Tensor that holds no real numbers"),
        (lambda g: [float("nan")] * g.size, r"returned NaN or infinite scores for group 'a:out' of 6 units; allowed"),
        (lambda g: np.full(g.size, np.inf), r"returned NaN or infinite scores"),
    ],
)
def test_what_is_no_score_is_one_line(returned: Any, message: str) -> None:
    model, coupling = analysed()
    returned.__name__ = "mine"
    with pytest.raises(OptionError, match=f"^criterion function 'mine' {message}"):
        scored(model, coupling, returned)


def test_weights_have_one_score_each() -> None:
    weights = {"w": torch.tensor([[1.0, -3.0], [2.0, 0.5]])}
    assert torch.equal(weight_criterion_of(size_of)(Evidence(weights))["w"], weights["w"].abs().double())
    with pytest.raises(
        OptionError, match=r"^criterion function 'mean' returned scores of shape \(\) for weight 'w' of "
    ):
        weight_criterion_of(mean)(Evidence(weights))


def mean(name: str, weight: Tensor) -> Tensor:
    return weight.mean()


def test_an_error_inside_a_function_says_where() -> None:
    model, coupling = analysed()

    def faulty(group: Group) -> Tensor:
        return group.producers["no.such"]

    said = r"^criterion function .faulty. for group .a:out. of 6 units raised KeyError at test_criteria_\w+\.py:\d+: "
    with pytest.raises(OptionError, match=said) as caught:
        scored(model, coupling, faulty)
    assert isinstance(caught.value.__cause__, KeyError)


def test_what_is_no_criterion_is_one_line() -> None:
    def magnitude(group: Group) -> Tensor:
        return torch.ones(group.size)

    with pytest.raises(OptionError, match="'magnitude' has the name of an enrolled unit_criterion; give the name as"):
        criterion_of(magnitude)
    with pytest.raises(
        OptionError, match=r"unit_criterion is 3; allowed: a name out of .*, or a function \(group\) → sc"
    ):
        criterion_of(3)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"criterion is .*Net'>; allowed: .* or a function \(name, weight\) → scores"):
        weight_criterion_of(Net)
    with pytest.raises(OptionError, match=r"Unknown unit_criterion 'magnitud'\. Did you mean 'magnitude'"):
        criterion_of("magnitud")


def test_it_needs_no_data_and_counts_as_energy() -> None:
    model, coupling = analysed()
    assert needs_of(producing_norm) == probes_for(producing_norm) == ()
    evidence = collect_evidence(producing_norm, Calibration(model, coupling, [], nn.functional.cross_entropy))
    scores = {a: s.numpy() for a, s in criterion_of(producing_norm)(evidence).items()}
    given, nameless = (damage_curves(coupling, scores, c) for c in (producing_norm, "of no criterion"))
    assert all((given[a] == nameless[a]).all() for a in scores)
    assert [criterion_name(c) for c in ("fpgm", producing_norm, lambda g: g, Callable())] == [
        "fpgm",
        "producing_norm",
        "<lambda>",
        "Callable",
    ]


class Callable:
    def __call__(self, group: Group) -> list[float]:
        return [1.0] * group.size


def test_methods_take_one() -> None:
    subject = fresh_subject()
    plan = unit_plan(subject, subject.limits(0.5), producing_norm)
    assert {d.reason for d in plan.decisions} == {"lowest producing_norm of the axis"}
    # The second function may come to lie where the first one was.
    first = unit_scores(subject, lambda group: [1.0] * group.size)
    second = unit_scores(subject, lambda group: [2.0] * group.size)
    assert all((first[a] == 1).all() and (second[a] == 2).all() for a in first)
    wanted = ranked_plan(subject, subject.limits(0.5), "magnitude", "small").masks
    assert all(
        (ranked_plan(subject, subject.limits(0.5), size_of, "small").masks[n] == m).all() for n, m in wanted.items()
    )


def test_the_weight_level_takes_one() -> None:
    model, x, budget = Net(), torch.randn(2, 3, 4, 4), {"params": 0.5}
    wanted = prunus.plan(model, x, budget=budget, levels=("weight",))
    for function, same in ((size_of, True), (lambda name, weight: -weight.abs(), False)):
        found = prunus.plan(model, x, budget=budget, levels=("weight",), criterion=function)
        assert found.settings["criterion"] == criterion_name(function)
        assert all((found.masks[n] == m).all() for n, m in wanted.masks.items()) is same
    evidence = Evidence({n: p.detach() for n, p in model.named_parameters() if p.dim() > 1})
    by_name, by_function = (importance_masks(evidence, variant=v, kept=0.5) for v in ("magnitude", size_of))
    assert all(torch.equal(by_function[n], mask) for n, mask in by_name.items())


@pytest.mark.parametrize(("method", "criterion"), [("gradual", size_of), ("units", producing_norm)])
def test_the_pruner_takes_one(method: str, criterion: Any) -> None:
    model = Net()
    options = PrunerOptions(kept=0.5, method=method, criterion=criterion)
    assert json.loads(json.dumps(options.describe()))["criterion"] == criterion.__name__
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(4, 3, 4, 4), torch.tensor([0, 1, 2, 3])
    pruner = Pruner(model, options, example_inputs=x)
    pruner.train_begin(optimizer, total_steps=6)
    for _ in range(6):
        pruner.step_begin()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        pruner.before_optimizer_step(loss)
        optimizer.step()
        pruner.after_optimizer_step()
        optimizer.zero_grad()
    pruner.train_end()
    zeros = sum(int((p == 0).sum()) for p in model.parameters())
    assert zeros > 0.3 * sum(p.numel() for p in model.parameters())


def test_the_pruner_refuses_what_is_no_criterion() -> None:
    options = PrunerOptions(kept=0.5, criterion=3)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="criterion is 3"):
        Pruner(Net(), options)
