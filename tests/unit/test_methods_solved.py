"""Methods on layer problems: what they read, what counts as a reader, what is measured, what each layer sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from factories_analysis import analysis_of, planned_by
from prunus.analysis import Analysis
from prunus.data.splits import Split
from prunus.errors import BudgetError
from prunus.methods.layer_inputs import readers_of, seen_inputs
from prunus.methods.level_scan import LevelScan
from prunus.methods.levels_from_data import unlabelled
from prunus.methods.obs_units import unit_levels
from prunus.methods.output_fisher import output_fisher
from prunus.methods.scored_units import unit_scores
from prunus.methods.solved_weights import solved_plan
from prunus.solvers import Pruned, refit


def subject(model: nn.Module, *shape: int, samples: int = 96, classes: int = 4, **options: str) -> Analysis:
    generator = torch.Generator().manual_seed(0)
    # Inputs that depend on each other: what goes can be made up for.
    inputs = torch.randn(samples, *shape, generator=generator).cumsum(-1)
    split = Split(inputs, torch.randint(classes, (samples,), generator=generator))
    return analysis_of(model.eval(), inputs[:2], split, split, **options)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))


class Separable(nn.Module):
    """A stem, a depthwise and a pointwise convolution, and a head that reads every place of every channel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.deep = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.point, self.head = nn.Conv2d(6, 5, 1, bias=False), nn.Linear(5 * 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.point(self.deep(torch.relu(self.stem(x))))).flatten(1))


def test_readers_are_the_layers_that_lose_inputs() -> None:
    found = subject(Separable(), 2, 2, 2)
    readers = {a: [r.seen.site.tensor for r in readers_of(found, axis)] for a, axis in found.coupling.axes.items()}
    # The depthwise convolution loses its filters with the units: the pointwise one reads them.
    assert readers == {"stem:out": ["point.weight"], "point:out": ["head.weight"]}
    head = readers_of(found, found.coupling.axes["point:out"])[0].consumers[0]
    assert head.unit.tolist() == [u for u in range(5) for _ in range(4)]
    point = readers_of(found, found.coupling.axes["stem:out"])[0]
    assert not point.seen.shifts
    assert torch.equal(point.consumers[0].moment, point.seen.moments.second[0])
    assert torch.equal(head.moment, seen_inputs(found)[_node(found, "head.weight")].moments.covariance()[0])


def _node(found: Analysis, tensor: str) -> str:
    return next(node for node, seen in seen_inputs(found).items() if seen.site.tensor == tensor)


def test_the_damage_of_a_level_is_that_of_the_cut_and_refitted_network() -> None:
    model = mlp()
    found = subject(model, 6)
    axis = found.coupling.axes["0:out"]
    kept = np.array([i % 3 > 0 for i in range(12)])
    error = LevelScan(found).error("0:out", kept, readers_of(found, axis))
    with torch.no_grad():
        inputs = next(iter(found.calibration.batches(96)))[0]
        hidden, dense = torch.relu(model[0](inputs)).double(), model(inputs)
        moment = torch.cov(hidden.T, correction=0)
        weight = model[2].weight.double()
        new = refit(weight, moment, torch.from_numpy(kept).expand(4, 12), damping=0.01)
        outputs = (hidden - hidden.mean(0)) @ new.T + hidden.mean(0) @ weight.T + model[2].bias
        # In the groups into which the samples are divided, each centred by itself, as the scan runs them.
        sizes = [group.count for group in unlabelled(found).groups]
        parts = list(zip(outputs.split(sizes), dense.double().split(sizes), strict=True))
        wanted = sum((o - d).square().mean() for o, d in parts) / sum((d - d.mean(0)).square().mean() for _, d in parts)
    assert error == pytest.approx(float(wanted), rel=1e-3)


def test_levels_fall_to_zero_and_beat_the_order_of_norms() -> None:
    found = subject(mlp(), 6)
    levels, axis = unit_levels(found), found.coupling.axes["0:out"]
    curve = levels.damage["0:out"]
    assert (np.diff(curve) <= 0).all()
    assert curve[-1] == 0 < curve[-2]
    scan, readers = LevelScan(found), readers_of(found, axis)
    for count in (3, 6, 9):
        ours, theirs = (np.argsort(-s["0:out"]) for s in (levels.scores, unit_scores(found, "magnitude")))
        kept = [np.isin(np.arange(12), order[:count]) for order in (ours, theirs)]
        assert scan.error("0:out", kept[0], readers) < scan.error("0:out", kept[1], readers)


class Slots(nn.Module):
    """Two branches that are added up, or written into places of one tensor, of which views are held before."""

    def __init__(self, views: bool) -> None:
        super().__init__()
        self.one, self.two, self.head, self.views = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 4), views

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.one(x).relu(), self.two(x).relu()
        if not self.views:
            return self.head(parts[0] + parts[1])
        slots = x.new_zeros(len(x), 2, 12)
        for slot, part in zip(slots.unbind(1), parts, strict=True):
            slot.add_(part)
        return self.head(slots.sum(1))


def test_levels_are_the_same_where_values_are_written_through_views() -> None:
    torch.manual_seed(0)
    plain, written = Slots(False), Slots(True)
    written.load_state_dict(plain.state_dict())
    one, other = (unit_levels(subject(model, 6, forward="rewrite")).damage for model in (plain, written))
    np.testing.assert_allclose(other["one:out"], one["one:out"], rtol=1e-5)


def test_what_a_level_does_hangs_not_on_the_axes_that_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4))
    found = subject(deep, 6)
    # Work for fewer samples than there are: 264 MACs a sample, six levels of two axes.
    monkeypatch.setattr("prunus.methods.level_scan.WORK", 40 * 264 * 6 * 2)
    whole = unit_levels(found).damage["0:out"]
    alone = unit_levels(replace(found, held=frozenset({"2:out"}), memo={})).damage
    assert alone.keys() == {"0:out"}
    np.testing.assert_array_equal(alone["0:out"], whole)


def test_levels_of_single_samples_are_shares_of_the_answer() -> None:
    lone = unit_levels(subject(mlp(), 6, samples=1)).damage["0:out"]
    assert 0 < lone[1] < 100


def test_fisher_of_the_logits_is_that_of_their_softmax() -> None:
    model = mlp()
    found = subject(model, 6, samples=512)
    node = _node(found, "2.weight")
    with torch.no_grad():
        p = torch.cat([model(x) for x, _ in found.calibration.batches(512)]).softmax(-1).double()
    wanted = torch.diag(p.mean(0)) - p.T @ p / len(p)
    torch.testing.assert_close(output_fisher(found, {node: -1})[node], wanted, atol=0.03, rtol=0)


def test_osscar_only_exchanges_units() -> None:
    torch.manual_seed(2)
    found = subject(nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4)), 6)
    moved = 0
    for kept in (0.2, 0.3, 0.4, 0.5, 0.6):
        plain, exchanged = (planned_by(name, found, kept) for name in ("obs-units", "osscar"))
        assert plain.after == exchanged.after
        assert {a: m.sum() for a, m in plain.axes.items()} == {a: m.sum() for a, m in exchanged.axes.items()}
        moved += any(not np.array_equal(m, exchanged.axes[a]) for a, m in plain.axes.items())
    assert moved


def test_a_layer_sees_the_pruned_layers_before_it() -> None:
    model = mlp()
    found = subject(model, 6)
    moments: list[torch.Tensor] = []

    def solver(weight: torch.Tensor, moment: torch.Tensor, count: int) -> Pruned:
        moments.append(moment)
        mask = torch.arange(weight.numel()).reshape(weight.shape) < count
        return Pruned(2 * weight * mask, mask)

    plan = solved_plan(found, found.limits(0.5), solver, "test")
    first = torch.from_numpy(plan.masks["0.weight"])
    with torch.no_grad():
        inputs = next(iter(found.calibration.batches(96)))[0]
        hidden = torch.relu(inputs @ (2 * model[0].weight * first).T + model[0].bias).double()
    torch.testing.assert_close(moments[1], hidden.T @ hidden / 96, rtol=1e-5, atol=1e-6)
    assert sum(int(m.sum()) for m in plan.masks.values()) + 16 == int(0.5 * sum(p.numel() for p in model.parameters()))


def test_two_of_four_runs_along_the_channels_of_a_kernel_position() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6, 4))
    for name in ("sparsegpt-two-four", "wanda-two-four"):
        mask = planned_by(name, subject(model, 8, 3, 3), 0.5).masks["0.weight"]
        assert (np.moveaxis(mask, 1, -1).reshape(-1, 4).sum(-1) == 2).all()


def test_what_no_layer_problem_covers_goes_by_magnitude() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.up, self.head = nn.ConvTranspose2d(4, 6, 2), nn.Linear(6 * 9, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.up(x).flatten(1))

    model = Turned()
    mask = torch.from_numpy(planned_by("alps", subject(model, 4, 2, 2), 0.5).masks["up.weight"])
    size = model.up.weight.detach().abs()
    assert size[mask].min() >= size[~mask].max()


def test_a_budget_below_what_cannot_be_masked_is_refused() -> None:
    with pytest.raises(BudgetError):
        planned_by("wanda", subject(mlp(), 6), 0.05)
