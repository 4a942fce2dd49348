"""Cuts on their way to a proof: a net, a plan, what is cut, and a bug to put into the rewriting."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from factories_cuts import random_share
from factories_networks import NetSpec
from prunus.analysis.score import make_plan
from prunus.errors import VerifyError
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.graph.ir import Node
from prunus.plans import Plan
from prunus.surgery.cut import cut
from prunus.surgery.proving.proof_run import Trial, trial
from prunus.surgery.proving.verify import Check, compare_models, verify
from prunus.surgery.rewriting import rewrite_graph

IMAGE = NetSpec("image", (2, 3, 1), width=8)
GROUPED = NetSpec("image", (4, 0), width=8)
ATTENTION = NetSpec("sequence", (0, 2), width=8)
VECTOR = NetSpec("vector", (0, 1, 0), width=8)
NETS = {"image": IMAGE, "attention": ATTENTION, "vector": VECTOR}


class Proof:
    """A model, its coupling, a plan, and what is cut by it."""

    def __init__(self, model: nn.Module, inputs: Any, *, mode: str = "hybrid", seed: int = 0, **more: Any) -> None:
        self.model, self.inputs = model, inputs
        self.coupling: Coupling = couple(capture(model, inputs))
        assert self.coupling.axes
        self.plan: Plan = make_plan(self.coupling, random_share(self.coupling, seed, 0.3, 0.8), **more)
        self.small = cut(model, self.coupling, self.plan, inputs, mode=mode)

    def check(self, **options: Any) -> Check:
        return compare_models(self.model, self.small, self.coupling, self.plan, self.inputs, **options)

    def verify(self, **options: Any) -> Check:
        return verify(self.model, self.small, self.coupling, self.plan, self.inputs, **options)

    def trial(self) -> Trial:
        return trial(self.model, self.coupling, self.plan, self.inputs)

    def node(self, op: str) -> Node:
        return next(n for n in self.coupling.graph.nodes if op in n.op)


def of(spec: NetSpec, **options: Any) -> Proof:
    return Proof(spec.build(), spec.inputs(), **options)


def said(it: Proof, **options: Any) -> str:
    with pytest.raises(VerifyError) as caught:
        it.verify(**options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def unscaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a plausible bug into the rewriting: attention divides by the root of the new width."""
    true = rewrite_graph._rewritten

    def wrong(sizes: rewrite_graph.Sizes, node: Node) -> Any:
        return None if "attention" in node.op else true(sizes, node)

    monkeypatch.setattr(rewrite_graph, "_rewritten", wrong)
