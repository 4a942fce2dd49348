"""Criteria that read weights or outputs alone, against their formulas written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import prunus
from prunus import analyse as prunus_score
from prunus.criteria import (
    UNIT_CRITERIA,
    Calibration,
    UnitEvidence,
    collect_evidence,
    comparable_scores,
    damage_curves,
    noise_batches,
)
from prunus.errors import OptionError
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.methods.scored_units import unit_scores


class Net(nn.Module):
    """A convolution with a norm, a grouped one, a flattened linear layer."""

    def __init__(self):
        super().__init__()
        self.c1, self.n1 = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.c2 = nn.Conv2d(6, 4, 1)
        self.fc, self.head = nn.Linear(4 * 9, 7), nn.Linear(7, 3)

    def forward(self, x):
        x = torch.relu(self.n1(self.c1(x)))
        return self.head(torch.relu(self.fc(torch.relu(self.c2(x)).flatten(1))))


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    model = Net().eval()
    nn.init.normal_(model.n1.weight)
    x = torch.randn(10, 2, 3, 3)
    return model, couple(capture(model, x[:2])), x


def _scores(made, name, batches=()):
    model, coupling, _ = made
    evidence = collect_evidence(name, Calibration(model, coupling, batches, F.cross_entropy))
    return UNIT_CRITERIA.get(name)(evidence)


def test_norms_and_distances(made):
    model, _, _ = made
    rows = model.c1.weight.detach().double().flatten(1)
    torch.testing.assert_close(_scores(made, "l1")["c1:out"], rows.abs().sum(1))
    torch.testing.assert_close(_scores(made, "magnitude")["c1:out"], rows.norm(dim=1))
    torch.testing.assert_close(_scores(made, "fpgm")["c1:out"], torch.cdist(rows, rows).sum(1))


def test_fpgm_of_gru_units_joins_gates_and_both_weights():
    torch.manual_seed(0)
    gru = nn.GRU(4, 5, batch_first=True)

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.head = gru, nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.gru(x)[0][:, -1])

    model = Last()
    coupling = couple(capture(model, torch.randn(2, 3, 4)))
    (axis,) = coupling.axes
    rows = torch.cat([gru.weight_ih_l0, gru.weight_hh_l0], 1).detach().double()
    units = rows.reshape(3, 5, -1).transpose(0, 1).flatten(1)
    scores = UNIT_CRITERIA.get("fpgm")(UnitEvidence(coupling, dict(model.named_parameters())))
    torch.testing.assert_close(scores[axis], torch.cdist(units, units).sum(1))


def test_norm_scales_and_the_axes_without_a_norm(made):
    model, _, _ = made
    scores = _scores(made, "bn-scale")
    torch.testing.assert_close(scores["c1:out"], model.n1.weight.detach().abs().double())
    torch.testing.assert_close(scores["c2:out"], _scores(made, "magnitude")["c2:out"])
    bare = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(OptionError, match="this model has none there"):
        UNIT_CRITERIA.get("bn-scale")(UnitEvidence(couple(capture(bare, torch.ones(1, 3))), {}))


def test_activity_and_inputs(made):
    model, _, x = made
    with torch.no_grad():
        first = torch.relu(model.n1(model.c1(x))).double()
        second = torch.relu(model.c2(first.float())).double()
    batches = [x[:4], x[4:]]  # no labels
    over = (0, 2, 3)
    torch.testing.assert_close(_scores(made, "mean-activation", batches)["c1:out"], first.mean(over))
    torch.testing.assert_close(_scores(made, "apoz", batches)["c1:out"], (first > 0).double().mean(over))
    rms = first.square().mean(over).sqrt()
    wanda = _scores(made, "wanda", batches)
    size = model.c2.weight.detach().abs().double().sum((0, 2, 3))
    torch.testing.assert_close(wanda["c1:out"], size * rms, rtol=1e-5, atol=1e-9)
    # Flattened: each of the nine places of a channel has its own columns and its own size.
    places = second.flatten(1).square().mean(0).sqrt() * model.fc.weight.detach().abs().double().sum(0)
    torch.testing.assert_close(wanda["c2:out"], places.reshape(4, 9).sum(1), rtol=1e-5, atol=1e-9)


def test_redundancy_is_one_minus_the_largest_squared_correlation(made):
    model, _, x = made
    scores = _scores(made, "redundancy", [x[:3], x[3:]])["c1:out"]
    with torch.no_grad():
        lines = torch.relu(model.n1(model.c1(x))).transpose(0, 1).flatten(1).double()
    squared = torch.corrcoef(lines).square().fill_diagonal_(0)
    assert float(scores.min()) == pytest.approx(1 - float(squared.max()), rel=1e-4)
    assert float(scores.max()) == 2.0


def test_a_twin_is_redundant():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        model[0].weight[4] = 2 * model[0].weight[1]
        model[0].bias[4] = 2 * model[0].bias[1]
    coupling = couple(capture(model, torch.ones(2, 3)))
    evidence = collect_evidence("redundancy", Calibration(model, coupling, [torch.randn(50, 3)], F.cross_entropy))
    scores = UNIT_CRITERIA.get("redundancy")(evidence)["0:out"]
    assert int(scores.argmin()) == 1  # of the two the one of less variance
    assert float(scores[1]) == pytest.approx(0.0, abs=1e-6)


def test_damage_counts_layers_and_shares_not_sizes(made):
    _, coupling, _ = made
    scores = {a: s.numpy() for a, s in _scores(made, "magnitude").items()}
    curves = damage_curves(coupling, scores, "magnitude")
    larger = damage_curves(coupling, {a: s * (100 if a == "c1:out" else 1) for a, s in scores.items()}, "magnitude")
    for axis, curve in curves.items():
        np.testing.assert_allclose(larger[axis], curve)
        assert curve.shape == (len(scores[axis]) + 1,)
        assert curve[-1] == 0
        assert (np.diff(curve) <= 0).all()
        best = np.sort(scores[axis])[::-1] ** 2
        np.testing.assert_allclose(curve[2], -np.log(best[:2].sum() / best.sum()) / 3)
        mean = comparable_scores(scores)[axis].mean()
        assert mean == pytest.approx(1.0)


def test_damage_of_losses_knows_which_axis_matters(made):
    _, coupling, _ = made
    scores = {a: np.ones(axis.size) for a, axis in coupling.axes.items()}
    louder = {**scores, "c1:out": 9 * scores["c1:out"]}
    plain, loud = (damage_curves(coupling, s, "fisher") for s in (scores, louder))
    ratio = loud["c1:out"][:-1] / loud["fc:out"][0] / (plain["c1:out"][:-1] / plain["fc:out"][0])
    np.testing.assert_allclose(ratio, 3.0)
    assert not np.isnan(damage_curves(coupling, {a: 0 * s for a, s in scores.items()}, "fisher")["c1:out"]).any()


def test_scores_below_zero_are_lifted(made):
    _, coupling, _ = made
    scores = {a: np.linspace(-1, 1, axis.size) for a, axis in coupling.axes.items()}
    assert all((s >= 0).all() for s in comparable_scores(scores).values())
    assert all(np.isfinite(c).all() for c in damage_curves(coupling, scores, "movement").values())


def test_a_loud_axis_is_spared_by_no_allocator(made):
    model, _, x = made
    parent = prunus_score(model, x[:2])
    raised = {a: s * (1000 if a == "c1:out" else 1) for a, s in unit_scores(parent, "magnitude").items()}
    loud = replace(parent, memo={"units:magnitude": raised})
    for allocator in ("isomorphic", "lagrangian", "knapsack", "viterbi", "global"):
        plain, other = (p.plan({"params": 0.5}, allocator=allocator) for p in (parent, loud))
        assert {a: m.tolist() for a, m in plain.axes.items()} == {a: m.tolist() for a, m in other.axes.items()}


def test_noise_looks_like_the_example_and_is_the_same_again():
    example = {"x": 3 + 2 * torch.randn(40, 5), "ids": torch.tensor([[2, 9]] * 40), "mask": torch.ones(40, 2).bool()}
    first, second = (noise_batches(example, samples=200, batch_size=64, seed=1) for _ in range(2))
    assert [len(batch["x"]) for batch in first] == [64, 64, 64, 8]
    assert all(
        torch.equal(a["x"], b["x"]) and torch.equal(a["ids"], b["ids"]) for a, b in zip(first, second, strict=True)
    )
    values, ids = (torch.cat([batch[key] for batch in first]) for key in ("x", "ids"))
    assert abs(float(values.mean()) - 3) < 0.4
    assert abs(float(values.std()) - 2) < 0.3
    assert (int(ids.min()), int(ids.max())) == (2, 9)
    assert first[0]["mask"].all()
    with pytest.raises(OptionError, match="no tensor with samples"):
        noise_batches(3)


def test_prune_takes_noise_and_says_what_scored(made):
    model, _, x = made
    result = prunus.prune(model, x[:4], budget={"params": 0.6}, criterion="fisher", data="noise", repair=None)
    assert "scored by: fisher" in str(result)
    bare = prunus.prune(model, x[:4], budget={"params": 0.6})
    assert "scored by: magnitude, from the weights alone" in str(bare)
    with pytest.raises(OptionError, match="data is 'nois'"):
        prunus.plan(model, x[:4], budget={"params": 0.6}, data="nois")
