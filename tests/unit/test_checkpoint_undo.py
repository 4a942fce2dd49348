"""Undo: back to the original shapes, from a model or from its state dict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import nn

from factories_networks import NetSpec
from factories_pruned import Cut, cut_at_random, same_state
from prunus.errors import OptionError, PlanError, UsageError
from prunus.exporters import undo
from prunus.graph.capture import capture
from prunus.plans import Drop

SPEC = NetSpec("sequence", (1, 2), width=6)


def test_from_a_state_dict_and_with_both_fills() -> None:
    original = SPEC.build()
    cut = cut_at_random(original, SPEC.inputs(), seed=3)
    with torch.no_grad():
        cut.model.pieces[1].up.bias.fill_(9.0)
    whole = undo(cut.model.state_dict(), cut.plan, original)
    kept = cut.plan.keep["pieces.1.up.bias"][0]
    expected = original.pieces[1].up.bias.detach().clone()
    assert 0 < len(kept) < len(expected)
    expected[kept] = 9.0
    assert torch.equal(whole.pieces[1].up.bias, expected)
    zeroed = undo(cut.model, cut.plan, original, fill="zero").pieces[1].up.bias
    assert torch.equal(zeroed == 0, expected != 9.0)
    assert same_state(original, SPEC.build())
    assert whole.pieces[1].up.bias.requires_grad
    assert whole(SPEC.inputs()).shape == (2, 4)


def test_what_does_not_belong_together_is_refused() -> None:
    cut = cut_at_random(SPEC.build(), SPEC.inputs(), seed=3)
    with pytest.raises(OptionError, match="fill is 'mean'; allowed: original, zero"):
        undo(cut.model, cut.plan, cut.original, fill="mean")
    with pytest.raises(PlanError, match=r"'stem\.weight' has shape \(6, 5\) in the cut model"):
        undo(cut.original, cut.plan, cut.original)
    with pytest.raises(PlanError, match="The plan cuts 'pieces"):
        undo(cut.model, cut.plan, NetSpec("image", (0,)).build())
    with pytest.raises(PlanError, match=r"has no tensor 'stem\.bias'"):
        undo({"stem.weight": cut.model.stem.weight}, cut.plan, cut.original)
    with pytest.raises(UsageError, match=r"model is \{\}; allowed: a torch.nn.Module or None"):
        undo(cut.model, cut.plan, {})  # type: ignore[arg-type]


def test_a_mask_gives_way_to_what_training_grew() -> None:
    original = SPEC.build()
    cut = cut_at_random(original, SPEC.inputs(), masked=0.5)
    plan = dataclasses.replace(cut.plan, keep={})
    state = {n: t.detach().clone() for n, t in original.state_dict().items()}
    removed = torch.from_numpy(~plan.masks["head.weight"])
    state["head.weight"][removed] = 0
    grown = removed.nonzero()[0].tolist()
    state["head.weight"][tuple(grown)] = 5.0
    whole = undo(state, plan, original).head.weight.detach()
    expected = original.head.weight.detach().clone()
    expected[tuple(grown)] = 5.0
    assert torch.equal(whole, expected)


class Gated(nn.Module):
    """x + tail(branch(x)) twice; the second tail decides whether the branch can be made dead."""

    def __init__(self, tail: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.into, self.head, self.tail = nn.Linear(5, 6), nn.Linear(6, 3), tail
        self.a, self.b, self.c = nn.Linear(6, 9), nn.Linear(9, 6), nn.BatchNorm1d(6)
        self.d, self.e = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.into(x)
        x = x + self.c(self.b(torch.relu(self.a(x)))) * 2
        return self.head(x + self.tail(self.e(torch.tanh(self.d(x)))))


def bypassed(tail: Callable[[torch.Tensor], torch.Tensor], which: int, mode: str = "hybrid") -> Cut:
    torch.manual_seed(0)
    model, x = Gated(tail).eval(), torch.randn(4, 5)
    with torch.no_grad():
        model.c.running_mean.normal_()
        model.c.bias.normal_()
    joins = [n.name for n in capture(model, x).nodes if n.op == "aten.add.Tensor"]
    drop = Drop(joins[which], 1, f"branch {which}")
    return cut_at_random(model, x, seed=2, mode=mode, drops=(drop,))


@pytest.mark.parametrize("mode", ["hybrid", "graph"])
@pytest.mark.parametrize(("which", "last", "alive"), [(0, "c", "b"), (1, "e", "d")])
def test_a_bypassed_branch_comes_back_dead_and_can_learn(which: int, last: str, alive: str, mode: str) -> None:
    cut = bypassed(torch.relu if which == 0 else torch.tanh, which, mode)
    whole = undo(cut.model, cut.plan, cut.original, fill="zero", example_inputs=cut.inputs)
    fresh = torch.randn(7, 5)
    torch.testing.assert_close(whole(fresh), cut.model(fresh), rtol=1e-6, atol=1e-6)
    assert not torch.equal(cut.original(fresh), whole(fresh))
    assert not any(p.any() for p in whole.get_submodule(last).parameters())
    own = (whole.get_submodule(alive).weight, cut.original.get_submodule(alive).weight)
    assert torch.equal(*own)
    whole(fresh).square().sum().backward()
    assert whole.get_submodule(last).weight.grad.abs().sum() > 0


def test_a_branch_that_cannot_be_dead_is_named() -> None:
    cut = bypassed(torch.sigmoid, 1)
    with pytest.raises(PlanError, match="The branch 'branch 1' cannot be put back dead: it gives more than zeros"):
        undo(cut.model, cut.plan, cut.original, fill="zero", example_inputs=cut.inputs)
    with pytest.raises(UsageError, match="The plan bypasses 'branch 1'; to put it back without effect"):
        undo(cut.model, cut.plan, cut.original, fill="zero")
    assert same_state(undo(cut.model, cut.plan, cut.original), cut.original)
