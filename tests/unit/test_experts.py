"""Whole experts that a person lets go: routers of several kinds, what they need at least, and what stays frozen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunus
from factories_cuts import assert_exact
from prunus.analysis.score import make_plan
from prunus.budget import Limit, fit_units
from prunus.cost.price import cost_model
from prunus.errors import PlanError
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple

EXPERTS, WIDTH = 8, 16


class Mixture(nn.Module):
    """Tokens (N, 16) go to two of eight experts; subclasses say how they are chosen and run."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.router = nn.Linear(5, WIDTH), nn.Linear(WIDTH, EXPERTS)
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, 12) * 0.3)
        self.down = nn.Parameter(torch.randn(EXPERTS, 12, WIDTH) * 0.3)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        shares, chosen = self.route(self.router(x))
        return self.head(x + self.run(x, shares, chosen))

    def route(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        shares, chosen = scores.softmax(-1).topk(2, -1)
        return shares / shares.sum(-1, keepdim=True), chosen

    def run(self, x: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        """Every expert looks at every token, and a table of shares says whom to hear."""
        table = torch.zeros(len(x), EXPERTS).scatter(1, chosen, shares)
        inner = torch.relu(torch.einsum("nd,edf->enf", x, self.up))
        return torch.einsum("enf,efd,ne->nd", inner, self.down, table)


class Looked(Mixture):
    """The weights of the chosen experts are looked up."""

    def run(self, x: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        inner = torch.relu(torch.einsum("nd,nkdf->nkf", x, self.up[chosen]))
        return torch.einsum("nkf,nkfd,nk->nd", inner, self.down[chosen], shares)


class Sorted(Mixture):
    """Tokens are sorted by expert and counted, and each expert runs on its rows."""

    def run(self, x: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        expert, order = chosen.reshape(-1).sort()
        ends = torch.histc(expert.float(), bins=EXPERTS, min=0, max=EXPERTS - 1).cumsum(0, dtype=torch.int32)
        inner = torch.relu(torch._grouped_mm(x[order // 2], self.up, offs=ends))
        rows = torch._grouped_mm(inner, self.down, offs=ends) * shares.reshape(-1)[order, None]
        return rows[order.argsort()].view(len(x), 2, WIDTH).sum(1)


class Marked(Mixture):
    """The choice becomes a mask over experts."""

    def run(self, x: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        table = (nn.functional.one_hot(chosen, EXPERTS) * shares[..., None]).sum(1)
        inner = torch.relu(torch.einsum("nd,edf->enf", x, self.up))
        return torch.einsum("enf,efd,ne->nd", inner, self.down, table)


class Grouped(Looked):
    """As in DeepSeek-V3: the best two of four groups by their best two scores, then the best two experts in these."""

    def route(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        scores = scores.sigmoid()
        groups = scores.view(-1, 4, 2).topk(2, -1)[0].sum(-1)
        open_ = torch.zeros_like(groups).scatter(1, groups.topk(2, -1)[1], 1.0)
        allowed = open_[..., None].expand(-1, 4, 2).reshape(-1, EXPERTS)
        chosen = scores.masked_fill(allowed == 0, 0.0).topk(2, -1)[1]
        return scores.gather(1, chosen), chosen


class Best(Looked):
    """As in PhiMoE: the best, then the best of the rest."""

    def route(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        one, first = scores.max(-1, keepdim=True)
        two, second = scores.scatter(-1, first, float("-inf")).max(-1, keepdim=True)
        return torch.cat([one, two], -1).sigmoid(), torch.cat([first, second], -1)


class Single(Looked):
    """One expert a token."""

    def route(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        chosen = scores.argmax(-1, keepdim=True)
        return scores.softmax(-1).gather(1, chosen), chosen


KINDS: dict[type[Mixture], dict[str, tuple[int, int]]] = {
    Mixture: {"router:out": (8, 2)},
    Looked: {"router:out": (8, 2)},
    Sorted: {"router:out": (8, 2)},
    Marked: {"router:out": (8, 2)},
    Grouped: {"router:out[0]": (4, 2), "router:out[1]": (2, 2)},
    Best: {"router:out": (8, 2)},
    Single: {"router:out": (8, 1)},
}
TOKENS = torch.randn(10, 5, generator=torch.Generator().manual_seed(1))


def coupled(kind: type[Mixture], *, experts: bool = True) -> tuple[nn.Module, Coupling]:
    torch.manual_seed(0)
    model = kind().eval()
    return model, couple(capture(model, TOKENS), experts=experts)


def some(coupling: Coupling, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    keep = {}
    for axis in coupling.axes.values():
        keep[axis.id] = np.zeros(axis.size, bool)
        count = max(axis.least, int(axis.size * generator.uniform(0.2, 0.9)))
        keep[axis.id][generator.permutation(axis.size)[:count]] = True
    return keep


@pytest.mark.parametrize("kind", KINDS)
def test_experts_go_with_their_rows_of_the_router(kind: type[Mixture]) -> None:
    model, coupling = coupled(kind)
    axes = {a.id: (a.size, a.least) for a in coupling.axes.values() if a.id.startswith("router")}
    assert axes == KINDS[kind]
    members = {(m.tensor, m.dim) for a in axes for m in coupling.axes[a].members}
    assert members == {("router.weight", 0), ("router.bias", 0), ("up", 0), ("down", 0)}
    for seed, mode in ((0, "graph"), (1, "hybrid"), (2, "graph"), (3, "hybrid")):
        small = assert_exact(model, TOKENS, coupling, some(coupling, seed), mode)
        assert torch.isfinite(small(TOKENS)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_wish_they_stay(kind: type[Mixture]) -> None:
    _, coupling = coupled(kind, experts=False)
    assert not any(a.startswith("router") for a in coupling.axes)


def test_a_router_keeps_enough_to_choose_from() -> None:
    _, coupling = coupled(Mixture)
    with pytest.raises(PlanError, match=r"'router:out' would keep 1 of 8 units.* needs 2"):
        make_plan(coupling, {"router:out": np.arange(8) == 3})
    cost = cost_model(coupling)
    scores = {a.id: np.arange(a.size, dtype=float) for a in coupling.axes.values()}
    keep = fit_units(cost, scores, Limit("params", 150))
    assert keep["router:out"].sum() == 2


class Glanced(Mixture):
    """What was chosen is also a result: its numbers would change."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        shares, chosen = self.route(self.router(x))
        return self.head(x + self.run(x, shares, chosen)), chosen


class Attentive(nn.Module):
    """A softmax from which nothing chooses stays frozen whatever a person lets go."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).softmax(-1))


def test_what_else_needs_its_positions_stays_frozen() -> None:
    assert not any(a.startswith("router") for a in coupled(Glanced)[1].axes)
    assert not couple(capture(Attentive().eval(), TOKENS), experts=True).axes


def test_prune_and_apply_with_experts() -> None:
    torch.manual_seed(0)
    model = Mixture().eval()
    result = prunus.prune(model, TOKENS, budget={"params": 0.5}, opt_in=("experts",), forward="rewrite")
    assert result.check.ok
    assert 2 <= result.model.up.shape[0] < EXPERTS
    assert result.plan.settings["opt_in"] == ["experts"]
    assert torch.equal(prunus.apply(model, result.plan, TOKENS).model(TOKENS), result.model(TOKENS))
