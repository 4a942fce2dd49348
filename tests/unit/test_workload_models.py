"""The networks of text, speech and recommendation: found by name, sized as said, cut and verified."""

from __future__ import annotations

import pytest
import torch

import prunus
from prunus.experiments.sources import resolve_model
from prunus.experiments.sources.examples import example_inputs
from prunus.experiments.workloads import WORKLOADS, recommendation, speech, text

NAMES = tuple(
    [f"text/{name}" for name in text.CLASSIFIERS | text.LANGUAGE_MODELS]
    + [f"speech/{name}" for name in speech.FAMILIES]
    + [f"recommendation/{name}" for name in recommendation.FAMILIES]
)
SHAPES = {"text": (2, 7), "speech": (2, 24), "recommendation": (2, 2)}


def params(name: str) -> int:
    return sum(parameter.numel() for parameter in WORKLOADS.get(name).build(0).parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_found_by_name_and_its_seed_decides_it(name: str) -> None:
    state = torch.random.get_rng_state()
    one, same, other = (resolve_model(name, seed=seed).eval() for seed in (3, 3, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    inputs = example_inputs(name, one)
    answer = one(*inputs)
    assert torch.equal(answer, same(*inputs))
    assert not torch.equal(answer, other(*inputs))
    assert answer.shape == ((2, 256, 128) if "gpt" in name else SHAPES[name.partition("/")[0]])


@pytest.mark.parametrize("name", [name for name in NAMES if name + "-8x" in NAMES])
def test_the_large_ones_have_about_eight_times_the_parameters(name: str) -> None:
    assert 7 <= params(name + "-8x") / params(name) <= 9


def test_the_bare_name_is_the_default_network() -> None:
    for module, place in ((text, "text"), (speech, "speech"), (recommendation, "recommendation")):
        assert WORKLOADS.get(place) is WORKLOADS.get(f"{place}/{module.DEFAULT}")


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("-8x")])
def test_every_network_is_cut_to_half_its_macs_and_verified(name: str) -> None:
    workload = WORKLOADS.get(name)
    model, inputs = workload.build(0).eval(), workload.example_inputs()
    found = prunus.prune(model, inputs, budget={"macs": 0.5})
    assert found.check.ok
    assert found.check.error < 1e-9
    assert found.check.change > 1e-3
    assert found.plan.after.macs_forward <= 0.5 * found.plan.before.macs_forward
    assert found.model(*inputs).shape == model(*inputs).shape


@pytest.mark.parametrize("name", ["text/transformer-8x", "text/gpt", "text/gru-8x", "speech/gru-8x", "speech/cnn"])
def test_no_layer_is_frozen(name: str) -> None:
    workload = WORKLOADS.get(name)
    model = workload.build(0)
    coupling = prunus.couple(prunus.capture(model, workload.example_inputs()))
    held = {member.tensor for axis in coupling.axes.values() for member in axis.members}
    assert {tensor for tensor, value in model.named_parameters() if value.ndim > 1} <= held


def test_both_ways_and_all_layers_of_one_recurrent_module_share_their_width() -> None:
    """nn.GRU knows one hidden size; the axis says how many tensors hang on it."""
    workload = WORKLOADS.get("speech/gru-8x")
    coupling = prunus.couple(prunus.capture(workload.build(0), workload.example_inputs()))
    (axis,) = coupling.axes.values()
    assert {member.tensor.partition("_l")[2] for member in axis.members} >= {"0", "0_reverse", "1", "1_reverse"}
