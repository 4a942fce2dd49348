"""The networks of the glyphs: found by name, 8 times the parameters where they say so, cut and verified."""

from __future__ import annotations

import pytest
import torch

import prunus
from prunus.experiments.sources import resolve_model
from prunus.experiments.sources.examples import example_inputs
from prunus.experiments.workloads import WORKLOADS
from prunus.experiments.workloads.glyphs import DEFAULT, FAMILIES

NAMES = tuple(f"glyphs/{name}" for name in FAMILIES)


def params(name: str) -> int:
    return sum(parameter.numel() for parameter in WORKLOADS.get(name).build(0).parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_found_by_name_and_its_seed_decides_it(name: str) -> None:
    state = torch.random.get_rng_state()
    one, same, other = resolve_model(name, seed=3), resolve_model(name, seed=3), resolve_model(name, seed=4)
    assert torch.equal(state, torch.random.get_rng_state())
    pairs = list(zip(one.parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)
    assert one(*example_inputs(name, one)).shape == (2, 62)


@pytest.mark.parametrize("name", [name for name in NAMES if name + "-8x" in NAMES])
def test_the_large_ones_have_about_eight_times_the_parameters(name: str) -> None:
    assert 7 <= params(name + "-8x") / params(name) <= 9


def test_the_bare_name_is_the_default_network() -> None:
    assert WORKLOADS.get("glyphs") is WORKLOADS.get(f"glyphs/{DEFAULT}")
    assert params("glyphs/long-tail") == params("glyphs")


@pytest.mark.parametrize("name", NAMES)
def test_every_network_is_cut_to_half_and_verified(name: str) -> None:
    model = WORKLOADS.get(name).build(0).eval()
    inputs = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    found = prunus.prune(model, inputs, budget={"params": 0.5})
    kept = sum(parameter.numel() for parameter in found.model.parameters()) / params(name)
    assert 0.4 < kept <= 0.5
    assert found.check.ok
    assert found.check.error < 1e-9
    assert found.model(inputs).shape == (2, 62)


def test_no_whole_stage_is_frozen() -> None:
    """Each convolution and linear layer before the last has an axis that can go."""
    for name in NAMES:
        model = WORKLOADS.get(name).build(0)
        coupling = prunus.couple(prunus.capture(model, torch.zeros(2, 1, 32, 32)))
        held = {member.tensor for axis in coupling.axes.values() for member in axis.members}
        layers = [
            path for path, module in model.named_modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
        ]
        assert not [path for path in layers if f"{path}.weight" not in held], name
