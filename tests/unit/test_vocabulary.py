"""Tokens that a person lets go: tables, tied and untied heads, and how the ids of what stays are numbered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.analysis.score import make_plan
from prunus.errors import OptionError
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.plans import Plan
from prunus.surgery.cut import cut
from prunus.surgery.proving.verify import compare_models

PAD = 3
IDS = torch.tensor([[5, 9, 2, PAD], [7, 1, PAD, PAD]])


class Tagger(nn.Module):
    """Token embeddings with padding, a second small table, a head over tokens."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embed, self.kinds = nn.Embedding(12, 8, padding_idx=PAD), nn.Embedding(2, 8)
        self.hidden, self.head = nn.Linear(8, 8), nn.Linear(8, 12, bias=not tied)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor, kinds: Tensor) -> Tensor:
        seen = (ids != PAD).unsqueeze(-1)
        x = (self.embed(ids) + self.kinds(kinds)) * seen
        return self.head(torch.tanh(self.hidden(x + x.sum(1, keepdim=True))))


def made(tied: bool) -> tuple[nn.Module, tuple[Tensor, Tensor], Coupling]:
    torch.manual_seed(0)
    model, inputs = Tagger(tied).eval(), (IDS, torch.zeros_like(IDS))
    return model, inputs, couple(capture(model, inputs), vocabulary=True)


def without(coupling: Coupling, *gone: int) -> tuple[Plan, np.ndarray]:
    (axis,) = [a for a in coupling.axes.values() if any((m.tensor, m.dim) == ("embed.weight", 0) for m in a.members)]
    kept = np.ones(12, bool)
    kept[list(gone)] = False
    return make_plan(coupling, {axis.id: kept}), np.flatnonzero(kept)


@pytest.mark.parametrize("mode", ["graph", "hybrid"])
@pytest.mark.parametrize("tied", [True, False])
def test_tokens_go_from_the_table_and_the_head(tied: bool, mode: str) -> None:
    model, inputs, coupling = made(tied)
    plan, kept = without(coupling, 0, 4, 8)
    small = cut(model, coupling, plan, inputs, mode=mode)
    assert compare_models(model, small, coupling, plan, inputs).ok
    assert small.embed.weight.shape == (9, 8)
    assert np.array_equal(plan.keep["embed.weight"][0], kept)
    # A tokenizer maps an old id to its place among those kept; the scores are those of the kept tokens.
    new = torch.from_numpy(np.searchsorted(kept, IDS.numpy()))
    assert torch.allclose(small(new, inputs[1]), model(*inputs)[..., torch.from_numpy(kept)], atol=1e-6)
    if mode == "hybrid":
        assert isinstance(small, Tagger)
        assert small.embed.padding_idx == 2
        assert (small.head.weight is small.embed.weight) == tied


@pytest.mark.parametrize("mode", ["graph", "hybrid"])
def test_examples_and_literals_with_tokens_that_go(mode: str) -> None:
    model, inputs, coupling = made(tied=True)
    plan, _ = without(coupling, PAD, 5, 9)
    small = cut(model, coupling, plan, inputs, mode=mode)
    assert compare_models(model, small, coupling, plan, inputs).ok
    if mode == "hybrid":
        assert small.embed.padding_idx is None


def test_small_tables_and_the_default_stay() -> None:
    model, inputs, coupling = made(tied=False)
    assert {f.reason for f in coupling.frozen if f.tensor == "kinds.weight"} == {"vocabulary"}
    frozen = {(f.tensor, f.reason) for f in couple(capture(model, inputs)).frozen}
    assert {("embed.weight", "vocabulary"), ("head.weight", "output")} <= frozen


class Arithmetic(Tagger):
    """Does sums with its ids: they cannot be renumbered."""

    def forward(self, ids: Tensor, kinds: Tensor) -> Tensor:
        return super().forward(ids, kinds) + (ids * 2).unsqueeze(-1)


def test_ids_that_are_numbers_too_freeze_the_vocabulary() -> None:
    coupling = couple(capture(Arithmetic(tied=False).eval(), (IDS, torch.zeros_like(IDS))), vocabulary=True)
    assert ("embed.weight", 0, "ids in mul") in {(f.tensor, f.dim, f.reason) for f in coupling.frozen}


def test_prune_save_load_and_apply(tmp_path: Path) -> None:
    model, inputs, _ = made(tied=True)
    result = prunus.prune(model, inputs, budget={"params": 0.6}, opt_in=("vocabulary",))
    kept = result.plan.keep["embed.weight"][0]
    assert result.check.ok
    assert len(kept) < 12
    prunus.save(result, tmp_path / "small")
    again = prunus.load(tmp_path / "small", Tagger(tied=True).eval())
    new = torch.arange(len(kept)).reshape(1, -1)
    assert torch.equal(again(new, torch.zeros_like(new)), result.model(new, torch.zeros_like(new)))
    small = prunus.apply(model, result.plan, inputs).model
    assert torch.equal(small(new, torch.zeros_like(new)), result.model(new, torch.zeros_like(new)))
    with pytest.raises(OptionError, match=r"'vocab'.*vocabulary"):
        prunus.prune(model, inputs, budget={"params": 0.6}, opt_in=("vocab",))
