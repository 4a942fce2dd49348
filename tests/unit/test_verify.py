"""Verify: what it finds, and where it says the fault lies."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from factories_networks import NetSpec
from factories_verified import ATTENTION, GROUPED, IMAGE, NETS, VECTOR, Proof, of, said, unscaled
from prunus.surgery.proving import proof_run as trials
from prunus.surgery.proving.bisect_difference import first_divergence
from prunus.surgery.proving.proof_run import relative_error
from prunus.surgery.proving.verify import TOLERANCE, compare_models
from prunus.surgery.rewriting.rewrite_graph import rewrite

# Where it says the fault lies


@pytest.mark.parametrize("spec", NETS.values(), ids=NETS)
def test_a_right_graph_parts_nowhere(spec: NetSpec) -> None:
    assert first_divergence(of(spec).trial()) is None


def test_a_wrong_literal_is_named_with_its_line() -> None:
    it = of(GROUPED)
    node = it.node("group_norm")
    edited = rewrite(it.coupling, it.plan.axes)
    nodes = tuple(
        dataclasses.replace(n, args={**n.args, "eps": 0.1}) if n.name == node.name else n for n in edited.nodes
    )
    found = first_divergence(it.trial(), edited=dataclasses.replace(edited, nodes=nodes, _by_name={}))
    assert found is not None
    assert (found.node, found.op, found.module) == (node.name, node.op, "pieces.0.norm")
    assert "factories_networks.py" in found.source
    assert 1e-8 < found.error < 1


def test_a_literal_that_does_not_fit_is_named_too() -> None:
    it = of(ATTENTION)
    node = it.node("reshape") if any("reshape" in n.op for n in it.coupling.graph.nodes) else it.node("view")
    edited = rewrite(it.coupling, it.plan.axes)
    nodes = tuple(it.coupling.graph.node(n.name) if n.name == node.name else n for n in edited.nodes)
    found = first_divergence(it.trial(), edited=dataclasses.replace(edited, nodes=nodes, _by_name={}))
    assert found is not None
    assert found.node == node.name
    assert "it fails: RuntimeError" in found.reason


def test_a_rolled_slice_is_named_by_its_tensor() -> None:
    it = of(VECTOR)
    values = trials.slice_tensors(it.trial().values, it.coupling, it.plan)
    name = "pieces.1.up.weight"
    found = first_divergence(it.trial(), values={**values, name: values[name].roll(1, 0)})
    assert found is not None
    assert f"the tensor {name!r}, first read by" in found.reason
    assert found.module == "pieces.1.up"


@pytest.mark.parametrize("mode", ["hybrid", "graph"])
def test_a_bug_in_the_rewriting_is_brought_home(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    unscaled(monkeypatch)
    text = said(of(ATTENTION, mode=mode, seed=3))
    assert "The edited graph first parts from it at node 'scaled_dot_product_attention_0'" in text
    assert "in pieces.0 at " in text
    assert "factories_networks.py" in text


def test_wrong_weights_are_named() -> None:
    it = of(IMAGE)
    with torch.no_grad():
        weight = it.small.get_parameter("pieces.0.a.weight")
        weight.copy_(weight.roll(1, 0))
    text = said(it)
    assert "does not hold the tensors" in text
    assert "the tensor 'pieces.0.a.weight', first read by 'conv2d" in text


class Remembers(nn.Module):
    """Keeps a number and a size of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.times, self.width = nn.Linear(4, 8), nn.Linear(8, 3), 2, 4

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, self.width)
        return self.down(F.relu(self.up(x)) * self.times)


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [
        (
            "times",
            3,
            "the model's own code first departs from it at node 'mul_0' (aten.mul.Tensor) in the top level at",
        ),
        ("width", 3, "the code of up fails: Remembers could not be captured"),
    ],
)
def test_a_stale_attribute_is_the_models_own_fault(attribute: str, value: int, expected: str) -> None:
    it = Proof(Remembers().eval(), torch.randn(3, 4))
    assert it.verify().ok
    setattr(it.small, attribute, value)
    text = said(it)
    assert "The edited graph agrees" in text
    assert expected in text
    assert ("it fails with RuntimeError" in text) == (attribute == "width")


class Counts(Remembers):
    """Returns something else at every other call in float64."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + 1 if getattr(self, "odd", False) and x.dtype is torch.float64 else y


def test_what_no_capture_shows_is_said_to_be_so() -> None:
    it = Proof(Counts().eval(), torch.randn(3, 4))
    it.small.odd = True
    assert "outside them" in said(it)


# What it finds


def mutations(it: Proof, values: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield every cut dim of every parameter, sliced one unit too far."""
    for name, info in it.coupling.graph.tensors.items():
        for dim, expr in enumerate(it.coupling.tensors[name]):
            mask = it.coupling.mask(expr, it.plan.axes)
            if info.kind != "parameter" or mask.all():
                continue
            wrong = values[name]
            for d, e in enumerate(it.coupling.tensors[name]):
                kept = np.flatnonzero(it.coupling.mask(e, it.plan.axes))
                wrong = wrong.index_select(d, torch.from_numpy((kept + 1) % len(mask) if d == dim else kept))
            yield name, wrong


@pytest.mark.parametrize("spec", NETS.values(), ids=NETS)
def test_a_slice_that_is_off_by_one_shows_in_the_outputs(spec: NetSpec) -> None:
    it = of(spec)
    experiment = it.trial()
    masked = experiment.masked()
    found, total = 0, 0
    for name, wrong in mutations(it, experiment.values):
        twin = experiment.twin(it.small)
        with torch.no_grad():
            twin.get_parameter(name).copy_(wrong)
        found += relative_error(experiment.cut(twin), masked) > TOLERANCE
        total += 1
    assert total >= 10
    assert found >= 0.95 * total, f"{found} of {total}"


@pytest.mark.parametrize("spec", NETS.values(), ids=NETS)
def test_a_slice_that_is_off_by_one_in_the_cut_model_is_refused(spec: NetSpec) -> None:
    it = of(spec)
    found, total = 0, 0
    for name, wrong in mutations(it, dict(it.model.named_parameters())):
        small = copy.deepcopy(it.small)
        with torch.no_grad():
            small.get_parameter(name).copy_(wrong)
        found += not compare_models(it.model, small, it.coupling, it.plan, it.inputs).ok
        total += 1
    assert total >= 10
    assert found == total
