"""Five cuts of one network, one after the other: each proved, each traced to the original, saved, and undone again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from factories_cuts import random_share
from factories_pruned import Cut, cut_at_random, same_state
from prunus.analysis.score import make_plan
from prunus.cost.price import cost_model
from prunus.errors import PlanError
from prunus.exporters import load, origins, save, undo
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.surgery.cut import cut_with_record
from prunus.surgery.proving.verify import verify

CUTS = 5


class Block(nn.Module):
    """x + norm(conv(relu(norm(conv x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.first = nn.Conv2d(width, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.b, self.second = nn.Conv2d(24, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.second(self.b(F.relu(self.first(self.a(x))))))


class ResidualNet(nn.Module):
    """Two residual blocks and a head behind a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 20, 3, padding=1), nn.Sequential(Block(20), Block(20))
        self.head = nn.Linear(20 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 2).flatten(1))


class Layer(nn.Module):
    """Pre-norm grouped-query attention (6 heads on 3 key heads of width 8) and a gated feed-forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.kv, self.o = nn.Linear(width, 48), nn.Linear(width, 48), nn.Linear(48, width)
        self.gate, self.up, self.down = nn.Linear(width, 40), nn.Linear(width, 40), nn.Linear(40, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        y = self.norm(x)
        q = self.q(y).view(batch, tokens, 6, 8).transpose(1, 2)
        k, v = self.kv(y).view(batch, tokens, 2, 3, 8).permute(2, 0, 3, 1, 4)
        k, v = (t.repeat_interleave(2, 1) for t in (k, v))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(seen.transpose(1, 2).flatten(2))
        y = self.after(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """Token embedding, two layers, logits."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.layers = nn.Embedding(11, 32), nn.Sequential(Layer(32), Layer(32))
        self.logits = nn.Linear(32, 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits(self.layers(self.tokens(x)))


@dataclass(frozen=True, slots=True)
class Case:
    kind: type[nn.Module]
    inputs: torch.Tensor

    def build(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return self.kind().eval()


CASES = (Case(ResidualNet, torch.randn(2, 3, 8, 8)), Case(Decoder, torch.arange(14).view(2, 7) % 11))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.kind.__name__)
def test_five_cuts_in_a_row(case: Case, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    original = case.build()
    model, cuts = original, list[Cut]()
    for step in range(CUTS):
        cut = _cut(model, case.inputs, step)
        assert sum(p.numel() for p in cut.model.parameters()) < sum(p.numel() for p in model.parameters())
        verify(model, cut.model, cut.coupling, cut.plan, case.inputs)
        assert cost_model(couple(capture(cut.model, case.inputs))).price() == cut.plan.after
        cuts.append(cut)
        _assert_traced(original, cuts)
        save(cut, tmp_path / str(step))
        model = cut.model
        if step == 2:  # go on from what lies on disk, in the class that a new process would build
            model = case.build(seed=9)
            for i in range(3):
                model = load(tmp_path / str(i), model)
            assert same_state(model, cut.model)
            assert torch.equal(model(case.inputs), cut.model(case.inputs))
    for cut in reversed(cuts):
        model = undo(model, cut.plan, cut.original)
        assert same_state(model, cut.original)
    assert same_state(model, original)
    assert torch.equal(model(case.inputs), original(case.inputs))


def _cut(model: nn.Module, inputs: torch.Tensor, step: int) -> Cut:
    """Keep a random 75 to 97 % of every axis; the second cut masks weights too."""
    coupling = couple(capture(model, inputs))
    generator = np.random.default_rng(step)
    masks = {n: generator.random(p.shape) > 0.2 for n, p in model.named_parameters() if p.dim() > 1 and step == 1}
    plan = make_plan(coupling, random_share(coupling, step, 0.75, 0.97), masks=masks)
    small, surgery = cut_with_record(model, coupling, plan, inputs)
    return Cut(small, plan, surgery, model, inputs, coupling)


def _assert_traced(original: nn.Module, cuts: list[Cut]) -> None:
    """Every weight that is left is the one of the original at the traced place, or was masked."""
    traced = origins([c.plan for c in cuts])
    state = original.state_dict()
    masked = any(c.plan.masks for c in cuts)
    for name, value in cuts[-1].model.state_dict().items():
        dims = traced.get(name, {})
        index = np.ix_(*(dims.get(d, np.arange(n)) for d, n in enumerate(state[name].shape)))
        expected = state[name][index] if value.dim() else state[name]
        assert expected.shape == value.shape, name
        assert torch.equal(torch.where(value == 0, value, expected), value) if masked else torch.equal(expected, value)


def test_plans_of_other_networks_are_refused() -> None:
    case = CASES[0]
    first = cut_at_random(case.build(), case.inputs, seed=0)
    with pytest.raises(PlanError, match=r"Plan number 2 keeps position \d+ of dim \d+ of '.*', which has \d+ left"):
        origins([first.plan, cut_at_random(case.build(), case.inputs, seed=1).plan])
