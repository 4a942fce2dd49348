"""Laws of kept forwards on random networks: masked ≡ cut at every size, ties hold, prices stay exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunus
from factories_own_forward import keep_forward, terms_of
from factories_random_nets import random_inputs, random_net
from prunus.analysis.score import make_plan
from prunus.budget import ALLOCATORS, Bound, Limit, fit_units
from prunus.budget.tied import in_proportion
from prunus.cost.price import cost_model
from prunus.errors import OptionError
from prunus.graph.capture import capture
from prunus.graph.coupling import Tie, couple
from prunus.graph.size_functions import Count
from prunus.surgery.cut import cut_with_record


@pytest.mark.parametrize("seed", range(24))
def test_random_networks_keep_their_forwards(seed: int) -> None:
    model = random_net(seed).eval()
    done = keep_forward(model, random_inputs(model), share=(seed % 9 + 1) / 10, seed=seed)
    assert len(done.check.sizes) >= 2


class Tied(nn.Module):
    """Heads by the channels' width, halves of one size, and a free layer."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 6
        self.stem, self.qkv, self.out = nn.Linear(8, 24), nn.Linear(24, 72), nn.Linear(24, 24)
        self.up, self.down, self.head = nn.Linear(24, 40), nn.Linear(20, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, t, c = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c))
        a, g = self.up(x).chunk(2, -1)
        return self.head(x + self.down(a * g.sigmoid()))


class Uneven(nn.Module):
    """Pieces of which the last is smaller, a width that is the sum of two, and a free layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pieces = nn.Linear(8, 22), nn.ModuleList(nn.Linear(n, n) for n in (8, 8, 6))
        self.a, self.b, self.c = nn.Linear(22, 9), nn.Linear(22, 14), nn.Linear(22, 23)
        self.left, self.right, self.head = nn.Linear(23, 12), nn.Linear(23, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([f(p).relu() for f, p in zip(self.pieces, x.chunk(3, -1), strict=True)], -1)
        joined = torch.cat([self.a(x), self.b(x).tanh()], -1)
        return self.head(self.left(joined) * self.right(self.c(x).relu().reshape(*x.shape[:2], joined.shape[-1])))


def tied_problem(kind: type[nn.Module] = Tied) -> tuple[nn.Module, Tensor, object]:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(2, 5, 8)
    coupling, own = terms_of(model, x)
    return model, x, own.on(coupling)


def steps_of(tie: Tie, keep: dict[str, np.ndarray]) -> set[float]:
    return {(int(keep[a].sum()) - tie.rest.get(a, 0)) / n for a, n in tie.units.items()}


@pytest.mark.parametrize("kind", [Tied, Uneven])
@pytest.mark.parametrize("allocator", [n for n in ALLOCATORS.names() if n != "evolve"])
@pytest.mark.parametrize("share", [0.35, 0.6, 0.9])
def test_every_allocator_keeps_the_ties_within_the_budget_at_the_exact_price(
    kind: type[nn.Module], allocator: str, share: float
) -> None:
    model, x, coupling = tied_problem(kind)
    assert len(coupling.ties) == {Tied: 1, Uneven: 2}[kind]
    cost = cost_model(coupling)
    limit = Limit("macs", int(cost.price().macs_forward * share))
    generator = np.random.default_rng(1)
    keep = fit_units(cost, {a.id: generator.random(a.size) for a in coupling.axes.values()}, limit, allocator=allocator)
    for tie in coupling.ties:
        assert len(steps_of(tie, keep)) == 1
    plan = make_plan(coupling, keep)
    small, _ = cut_with_record(model, coupling, plan, x)
    counted = cost_model(couple(capture(small, x))).price()
    assert counted == cost.price(plan.axes)
    assert limit.holds(counted)


class Pooled(nn.Module):
    """`Uneven` with one answer for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.uneven = Uneven()

    def forward(self, x: Tensor) -> Tensor:
        return self.uneven(x).mean(1)


@pytest.fixture(scope="module")
def pooled() -> prunus.Analysis:
    torch.manual_seed(0)
    data = [(torch.randn(8, 5, 8), torch.randint(0, 3, (8,))) for _ in range(2)]
    return prunus.analyse(Pooled().eval(), data[0][0], data=data)


# Methods beside the allocators: they drop branches, remove units one by one, or measure levels.
@pytest.mark.parametrize(
    "method",
    [
        "key-path",
        "key-path-moving",
        "tree-knapsack",
        "depth",
        "modular",
        "redundancy",
        "layer-wise",
        "oracle",
        "osscar",
    ],
)
def test_methods_keep_the_sums(pooled: prunus.Analysis, method: str) -> None:
    assert any("uneven.c:out" in tie.units for tie in pooled.coupling.ties)
    plan = pooled.plan({"macs": 0.6}, method=method)
    assert plan.after.macs_forward <= 0.6 * plan.before.macs_forward
    assert pooled.coupling.forward is not None
    assert not list(pooled.coupling.forward.broken(lambda atom: pooled.coupling.kept(atom, plan.axes)))
    outcome = prunus.realise(pooled, plan, repair=None)
    assert outcome.check is not None
    assert outcome.check.ok


def test_bounds_of_tied_axes_hold_together_and_contradictions_are_told() -> None:
    _, _, coupling = tied_problem()
    cost, scores = cost_model(coupling), {a.id: np.ones(a.size) for a in coupling.axes.values()}
    limit = Limit("macs", int(cost.price().macs_forward * 0.8))
    keep = fit_units(cost, scores, limit, bounds={"stem:out": Bound(floor=17)})
    assert int(keep["stem:out"].sum()) in (20, 24)
    assert int(keep["qkv:out[1]"].sum()) * 4 == int(keep["stem:out"].sum())
    with pytest.raises(OptionError, match="in proportion"):
        fit_units(cost, scores, limit, bounds={"stem:out": Bound(forced=14)})
    held = {a: s for a, s in scores.items() if a != "qkv:out[1]"}
    assert fit_units(cost, held, limit)["stem:out"].all()


@pytest.mark.parametrize("kind", [Tied, Uneven])
def test_choices_made_axis_by_axis_are_brought_into_proportion(kind: type[nn.Module]) -> None:
    _, _, coupling = tied_problem(kind)
    generator = np.random.default_rng(0)
    keep = {a.id: generator.random(a.size) < 0.7 for a in coupling.axes.values()}
    found = in_proportion(coupling, keep, {})
    for tie in coupling.ties:
        assert len(steps_of(tie, found)) == 1
        assert all((found[a] <= keep[a]).all() for a in tie.units)


def test_counts_follow_the_rules_of_arithmetic() -> None:
    h, d, c = Count.atom(0), Count.atom(1), Count.atom(2)
    assert (h * d).over(h) == d
    assert (c.over(h)) * h == c
    assert (2 * c + 4).over(2) == c + 2
    assert c - c == 0
    assert (h + d).at(lambda a: a + 3) == 7
    assert c.over(2).at(lambda a: 5) is None
    assert (c * h).with_constants({0: 4}) == 4 * c
    assert hash((h * d).over(d)) == hash(h)
    assert Count.of(3) == 3
    assert (h * d - c).described(lambda a: "HDC"[a]) == "H·D + -1·C"
