"""Laws of `shrink` on random networks with random zeros: the function stays, and what stays is alive."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import prunus
from factories_networks import NetSpec
from factories_random_nets import random_inputs, random_net
from prunus.analysis.score import make_plan
from prunus.errors import OutcomeError
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.graph.recorder import named_tensors
from prunus.outcome import Outcome
from prunus.surgery.dead_units import live_units
from prunus.surgery.proving.reference import masked_tensors


def network(seed: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a random network and two batches for it."""
    if seed % 2:
        net = random_net(seed)
        return net, random_inputs(net), random_inputs(net, seed=1)
    spec = NetSpec.random(seed)
    return spec.build(seed), spec.inputs(), spec.inputs(seed=1)


def scatter_zeros_(model: nn.Module, seed: int, share: float) -> None:
    """Zero whole slices of random dims of the parameters, as people's masks do."""
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            dim = int(generator.integers(parameter.dim())) if parameter.dim() else 0
            if parameter.dim() and parameter.shape[dim] > 1:
                gone = torch.from_numpy(generator.random(parameter.shape[dim]) < share)
                parameter.movedim(dim, 0)[gone] = 0


def shrunk(model: nn.Module, inputs: torch.Tensor, forward: str = "rewrite") -> Outcome | None:
    """Return what `shrink` does, None where it finds nothing dead; its proofs are its own."""
    try:
        return prunus.shrink(model, inputs, forward=forward)
    except OutcomeError as error:
        if "Nothing is dead" not in str(error):
            raise
        return None


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from((0.3, 0.6, 0.9)))
def test_what_zeros_made_dead_changes_nothing(seed: int, share: float) -> None:
    model, inputs, others = network(seed)
    scatter_zeros_(model, seed, share)
    result = shrunk(model, inputs)
    if result is None:
        return
    assert result.after.params < result.before.params
    with torch.no_grad():
        torch.testing.assert_close(result.model.eval()(others), model(others), rtol=1e-4, atol=1e-5)
    assert shrunk(result.model, inputs) is None


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from((0.3, 0.6, 0.9)))
def test_kept_forwards_lose_no_more_than_rewritten_ones(seed: int, share: float) -> None:
    model, inputs, others = network(seed)
    scatter_zeros_(model, seed, share)
    result, free = shrunk(model, inputs, "keep"), shrunk(model, inputs)
    if result is None:
        return
    assert free is not None
    assert result.after.params < result.before.params
    if not prunus.analyse(model, inputs).own.emptied:  # rewriting keeps one unit of an axis that nothing reads
        assert free.after.params <= result.after.params
    assert result.surgery.spliced == ()
    with torch.no_grad():
        torch.testing.assert_close(result.model.eval()(others), model(others), rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_planted_zeros_are_found_where_no_op_hides_them(seed: int) -> None:
    spec = NetSpec("image", (0, 2), 6)  # convolutions, norms, ReLU, one residual branch
    model, inputs = spec.build(seed), spec.inputs()
    coupling = couple(capture(model, inputs))
    generator = np.random.default_rng(seed)
    keep = {a.id: generator.random(a.size) < 0.6 for a in coupling.axes.values() if not a.statistic}
    for mask in keep.values():
        mask[0] = True
    plan = make_plan(coupling, keep)
    with torch.no_grad():
        for name, value in masked_tensors(named_tensors(model), coupling, plan).items():
            named_tensors(model)[name].copy_(value)
    live = live_units(coupling, named_tensors(model))
    assert {a: list(m) for a, m in live.items()} == {a: list(keep.get(a, m)) for a, m in live.items()}
