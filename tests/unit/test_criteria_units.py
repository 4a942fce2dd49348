"""Unit criteria and activation statistics on networks whose units are known by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.criteria import (
    UNIT_CRITERIA,
    Calibration,
    UnitEvidence,
    activation_statistics,
    collect_evidence,
    collect_gradients,
)
from prunus.criteria.producers_consumers import find_places
from prunus.errors import DataError, OptionError
from prunus.graph.capture import capture
from prunus.graph.coupling import couple


class Residual(nn.Module):
    """The branch of one convolution puts c2's input and output on the same axis."""

    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.c2 = nn.Conv2d(6, 6, 3, padding=1)
        self.c3 = nn.Conv2d(6, 8, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.norm(self.c1(x)).relu_()
        x = torch.relu(x + self.c2(x))
        return self.head(self.drop(self.c3(x).relu().mean((2, 3))))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.recur = nn.GRU(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.recur(x)[0][:, -1])


def _build(kind=Residual, shape=(2, 1, 5, 5)):
    torch.manual_seed(0)
    model = kind()
    return model, couple(capture(model, torch.rand(shape)))


def _batch(size, shape=(1, 5, 5), seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, *shape, generator=generator), torch.randint(3, (size,), generator=generator)


def test_writes_are_output_dims_and_reads_are_what_contractions_take():
    _, coupling = _build()
    places = find_places(coupling)
    written = {axis: [(m.tensor, m.dim) for m in found] for axis, found in places.writes.items()}
    assert written == {"c1:out": [("c1.weight", 0), ("c2.weight", 0)], "c3:out": [("c3.weight", 0)]}
    ops = {
        axis: [coupling.graph.node(ref.node).op.split(".")[1] for ref in refs] for axis, refs in places.reads.items()
    }
    assert ops == {"c1:out": ["relu_", "relu"], "c3:out": ["dropout"]}


def test_magnitude_is_the_norm_of_all_producers():
    model, coupling = _build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = UNIT_CRITERIA.get("magnitude")(UnitEvidence(coupling, dict(model.named_parameters())))
    both = torch.cat([model.c1.weight.flatten(1), model.c2.weight.flatten(1)], 1)
    torch.testing.assert_close(scores["c1:out"], both.double().norm(dim=1).detach())
    torch.testing.assert_close(scores["c3:out"], model.c3.weight.double().flatten(1).norm(dim=1).detach())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_magnitude_of_gru_units_takes_all_three_gates():
    model, coupling = _build(Recurrent, (2, 6, 4))
    scores = UNIT_CRITERIA.get("magnitude")(UnitEvidence(coupling, dict(model.named_parameters())))
    (axis,) = coupling.axes
    rows = torch.cat([model.recur.weight_ih_l0, model.recur.weight_hh_l0], 1).double()
    torch.testing.assert_close(scores[axis], rows.reshape(3, 5, -1).square().sum((0, 2)).sqrt().detach())


def test_taylor_squares_the_sum():
    model, coupling = _build()
    names = ["c1.weight", "c2.weight", "c3.weight", "head.weight"]
    evidence = collect_gradients(model, [_batch(4)], F.cross_entropy, names)
    scores = UNIT_CRITERIA.get("taylor")(UnitEvidence(coupling, evidence.weights, grad=evidence.grad))
    expected = (evidence.weights["c3.weight"] * evidence.grad["c3.weight"]).double().flatten(1).sum(1).square()
    torch.testing.assert_close(scores["c3:out"], expected)


def test_statistics_equal_hooks_sample_by_sample():
    model, coupling = _build()
    x, y = _batch(4)
    found = activation_statistics(model, coupling, [(x, y)], F.cross_entropy)
    model.eval()
    read: list[torch.Tensor] = []
    model.c3.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    model.head.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    stream, pooled = torch.zeros(6, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    energy = torch.zeros(8, dtype=torch.float64)
    for index in range(4):
        read.clear()
        loss = F.cross_entropy(model(x[index : index + 1]), y[index : index + 1])
        at_stream, at_head = torch.autograd.grad(loss, read)
        stream += at_stream.double().square().sum((0, 2, 3)) / 4
        pooled += at_head.double().square().sum(0) / 4
        energy += read[1].detach().double().square().sum(0) / 4
    torch.testing.assert_close(found.sensitivity["c3:out"], pooled, rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(found.contribution["c3:out"], energy, rtol=1e-4, atol=1e-12)
    # The stream is read twice: by c2 before the addition and by c3 behind it, which is the part seen here.
    assert (found.sensitivity["c1:out"] > stream).all()
    assert found.samples == 4


@pytest.mark.parametrize(("kind", "shape"), [(Residual, (1, 5, 5)), (Recurrent, (6, 4))])
def test_splitting_the_batches_changes_nothing(kind, shape):
    model, coupling = _build(kind, (2, *shape))
    x, y = _batch(7, shape)
    whole = activation_statistics(model, coupling, [(x, y)], F.cross_entropy)
    parts = activation_statistics(model, coupling, [(x[:2], y[:2]), (x[2:], y[2:])], F.cross_entropy)
    for axis in coupling.axes:
        assert whole.sensitivity[axis].min() > 0
        torch.testing.assert_close(whole.sensitivity[axis], parts.sensitivity[axis], rtol=1e-4, atol=1e-12)
        torch.testing.assert_close(whole.contribution[axis], parts.contribution[axis], rtol=1e-4, atol=1e-9)


def test_a_batch_literal_in_a_view_is_captured_anew():
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            hidden = self.inner(x.reshape(-1, 4)).relu().view(x.shape[0], 5, 6)
            return self.head(hidden.mean(1))

    model, coupling = _build(Viewed, (1, 5, 4))
    x, y = _batch(3, (5, 4))
    found = activation_statistics(model, coupling, [(x, y)])
    (axis,) = coupling.axes
    torch.testing.assert_close(
        found.contribution[axis], model.inner(x).relu().mean(1).double().square().mean(0).detach(), rtol=1e-4, atol=1e-9
    )
    assert found.sensitivity is None


def test_the_model_is_left_as_found_and_may_be_frozen():
    model, coupling = _build()
    model.train().requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = activation_statistics(model, coupling, [_batch(3)], F.cross_entropy)
    assert found.sensitivity["c1:out"].sum() > 0
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def _evidence(model, coupling, name):
    if name == "movement":
        return UnitEvidence(coupling, {}, more={"movement": {n: p.detach().abs() for n, p in model.named_parameters()}})
    return collect_evidence(name, Calibration(model, coupling, [_batch(4)], F.cross_entropy, seed=1))


@pytest.mark.parametrize("name", UNIT_CRITERIA.names())
def test_every_unit_criterion_scores_every_axis(name):
    model, coupling = _build()
    evidence = _evidence(model, coupling, name)
    scores = UNIT_CRITERIA.get(name)(evidence)
    assert {axis: len(score) for axis, score in scores.items()} == {"c1:out": 6, "c3:out": 8}
    assert all((score >= 0).all() and score.dtype is torch.float64 for score in scores.values())
    again = UNIT_CRITERIA.get(name)(evidence)
    scores["c1:out"].fill_(-1.0)
    assert (again["c1:out"] >= 0).all()


@pytest.mark.parametrize("name", [name for name in UNIT_CRITERIA.names() if name != "random"])
def test_permuting_units_permutes_scores(name):
    model, coupling = _build()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    scores = []
    for _ in range(2):
        scores.append(UNIT_CRITERIA.get(name)(_evidence(model, coupling, name))["c3:out"])
        with torch.no_grad():
            model.c3.weight.copy_(model.c3.weight[order].clone())
            model.c3.bias.copy_(model.c3.bias[order].clone())
            model.head.weight.copy_(model.head.weight[:, order].clone())
    torch.testing.assert_close(scores[1], scores[0][order], rtol=1e-3, atol=1e-9)


def test_missing_and_broken_evidence_is_refused():
    model, coupling = _build()
    weights = dict(model.named_parameters())
    for name in ("taylor", "sensitivity", "contribution"):
        with pytest.raises(OptionError, match=f"{name!r} needs"):
            UNIT_CRITERIA.get(name)(UnitEvidence(coupling, weights))
    with pytest.raises(DataError, match=r"'c1:out' is written by 'c1\.weight'"):
        UNIT_CRITERIA.get("magnitude")(UnitEvidence(coupling, {}))
    with pytest.raises(DataError, match="'c1:out' has no statistic"):
        UNIT_CRITERIA.get("contribution")(UnitEvidence(coupling, weights, contribution={}))
    with pytest.raises(DataError, match="'c1:out' are NaN"):
        activation_statistics(model, coupling, [(torch.full((2, 1, 5, 5), torch.nan), torch.zeros(2).long())])
    with pytest.raises(DataError, match="no calibration batches"):
        activation_statistics(model, coupling, [])
