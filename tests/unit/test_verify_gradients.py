"""Gradients of a cut model are the kept slices of the masked original's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from factories_networks import NetSpec
from factories_verified import VECTOR, Proof, of, said
from prunus.graph.capture import capture
from prunus.plans import Drop
from prunus.surgery.proving.verify import TOLERANCE, compare_gradients


@pytest.mark.parametrize("mode", ["hybrid", "graph"])
@pytest.mark.parametrize("family", ["image", "sequence", "vector"])
def test_gradients_are_the_kept_slices(family: str, mode: str) -> None:
    choices = {"image": (0, 1, 2, 3, 4), "sequence": (0, 1, 2, 3), "vector": (0, 1)}[family]
    check = of(NetSpec(family, choices, width=8, tied=True), mode=mode).verify(gradients=True)
    assert check.gradient_error is not None
    assert check.gradient_error < 1e-9
    assert "gradients" in str(check)


def test_gradients_of_masked_weights_and_dropped_branches() -> None:
    model, inputs = VECTOR.build(), VECTOR.inputs()
    joins = [n.name for n in capture(model, inputs).nodes if n.op == "aten.add.Tensor"]
    generator = np.random.default_rng(0)
    masks = {n: generator.random(tuple(p.shape)) > 0.4 for n, p in model.named_parameters() if p.dim() > 1}
    it = Proof(model, inputs, masks=masks, drops=(Drop(joins[0], 1, "the first branch"),))
    assert it.verify(gradients=True).gradient_error < 1e-9


class Ratio(nn.Module):
    """0/0 wherever a unit is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8, bias=False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x).abs()
        return self.down(h / h.sum(0, keepdim=True))


def test_debris_at_removed_positions_does_not_reach_the_gradients() -> None:
    it = Proof(Ratio().eval(), torch.randn(5, 4))
    assert it.verify(gradients=True).gradient_error < 1e-9


def test_gradients_are_off_unless_asked_for() -> None:
    check = of(VECTOR).verify()
    assert check.gradient_error is None
    assert "gradients" not in str(check)


def test_a_cut_model_that_does_not_learn_is_refused() -> None:
    it = of(VECTOR)
    it.small.pieces[1].up.register_forward_hook(lambda module, args, out: out.detach())
    assert it.verify().ok
    text = said(it, gradients=True)
    assert "computes what the masked original computes, but its gradients differ" in text
    found = compare_gradients(it.model, it.small, it.coupling, it.plan, it.inputs)
    assert found is not None
    assert found.error > TOLERANCE
    assert repr(found.tensor) in text
