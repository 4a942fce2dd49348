"""Undo: back to the original shapes, from a model or from its state dict."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from factories_networks import NetSpec
from factories_pruned import cut_at_random, same_state
from prunus.errors import OptionError, PlanError, UsageError
from prunus.export import undo

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
    with pytest.raises(UsageError, match="got a dict as the original"):
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
