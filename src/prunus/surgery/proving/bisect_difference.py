"""Find the first node of the edited graph, or the first module, at which a cut model differs from the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prunus.errors import CaptureError
from prunus.graph.capture import capture, unwrap
from prunus.graph.interpreter import run
from prunus.graph.ir import TENSOR, Graph, Node, Ref, refs_in
from prunus.graph.recorder import named_tensors
from prunus.surgery.proving.proof_run import Trial, relative_error
from prunus.surgery.proving.reference import masked_tensors, reference_overrides, without_debris
from prunus.surgery.rewriting.diff_programs import Differ
from prunus.surgery.rewriting.rewrite_graph import rewrite
from prunus.surgery.tensors import slice_tensors

_LEAST = 1e-6
_ALLOWED = {torch.float64: 1e-8, torch.float32: 1e-3}


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first place at which two programs differ.

    Attributes:
        node: name of the node in the graph.
        op: its op.
        module: the module whose forward it is in.
        source: the user's line.
        error: relative difference; ∞ if it fails or has another shape.
        reason: the difference in words.
    """

    node: str
    op: str
    module: str
    source: str
    error: float
    reason: str

    def __str__(self) -> str:
        at = f" at {self.source}" if self.source else ""
        return f"node {self.node!r} ({self.op}) in {self.module or 'the top level'}{at}: {self.reason}"


class _DivergedError(Exception):
    """The signal that ends a run at the first node that differs."""


def first_divergence(
    trial: Trial, *, edited: Graph | None = None, values: Mapping[str, torch.Tensor] | None = None
) -> Divergence | None:
    """Run the edited graph and the masked original, and return the first node whose kept positions differ.

    Args:
        trial: inputs and tensors of both runs.
        edited: the program of the cut model; by default the captured program, rewritten for the plan.
        values: its tensors; by default the slices of the trial's.
    """
    edited = edited or rewrite(trial.coupling, trial.plan.axes, trial.plan.drops)
    values = values or slice_tensors(trial.values, trial.coupling, trial.plan)
    expected = _kept_values(trial, {n.name for n in edited.nodes})
    allowed = _ALLOWED.get(trial.dtype, 1e-3)
    done: list[Node] = []
    differing: list[Divergence] = []

    def compare(node: Node, result: Any) -> None:
        done.append(node)
        got, reference = _tensors(result), expected.pop(node.name)
        error = relative_error(list(got.values()), list(reference.values()), least=_LEAST)
        if error > allowed:
            differing.append(_divergence(edited, node, error, _comparison(got, reference, error)))
            raise _DivergedError

    try:
        with trial.computing():
            run(edited, values, trial.inputs, dtype=trial.dtype, observe=compare)
    except _DivergedError:
        return differing[0]
    except Exception as error:
        if len(done) == len(edited.nodes):
            raise
        return _divergence(edited, edited.nodes[len(done)], float("inf"), f"it fails: {one_line(error)}")
    return None


def _kept_values(trial: Trial, names: set[str]) -> dict[str, dict[int, torch.Tensor]]:
    """Run the masked original, and return a copy of the kept positions of every value."""
    coupling, plan = trial.coupling, trial.plan
    kept: dict[str, dict[int, torch.Tensor]] = {}

    def observe(node: Node, result: Any) -> Any:
        clean = without_debris(coupling, plan.axes, node, result)
        if node.name in names:
            whole = _tensors(result if clean is None else clean)
            kept[node.name] = {i: trial.kept(t, coupling.values[Ref(node.name, i)]).clone() for i, t in whole.items()}
        return clean

    with trial.computing():
        run(
            coupling.graph,
            masked_tensors(trial.values, coupling, plan),
            trial.inputs,
            dtype=trial.dtype,
            override=reference_overrides(coupling, plan),
            observe=observe,
        )
    return kept


def _tensors(result: Any) -> dict[int, torch.Tensor]:
    results = result if isinstance(result, (tuple, list)) else [result]
    return {i: t for i, t in enumerate(results) if isinstance(t, torch.Tensor)}


def _comparison(got: Mapping[int, torch.Tensor], expected: Mapping[int, torch.Tensor], error: float) -> str:
    shapes = [tuple(t.shape) for t in got.values()], [tuple(t.shape) for t in expected.values()]
    if shapes[0] != shapes[1]:
        one, two = (", ".join(map(str, s)) for s in shapes)
        return f"shape {one} instead of {two}"
    return f"relative difference {error:.1e} at the kept positions"


def _divergence(graph: Graph, node: Node, error: float, reason: str) -> Divergence:
    if node.op != TENSOR:
        return Divergence(node.name, node.op, graph.module_of(node), node.source, error, reason)
    reader = next((n for n in graph.nodes if any(r.node == node.name for r in refs_in(n.args))), node)
    reason = f"{reason}; it is the tensor {node.tensor!r}, first read by {reader.name!r} ({reader.op})"
    return Divergence(node.name, TENSOR, node.tensor.rpartition(".")[0], reader.source, error, reason)


def departing_node(
    small: nn.Module, edited: Graph, values: Mapping[str, torch.Tensor], example_inputs: Any
) -> Divergence | None:
    """Capture a cut model and return the first node of the edited graph that its own code does not compute.

    Args:
        small: the cut model.
        edited: the program that it should run.
        values: the constants of that program.
        example_inputs: inputs of the original.
    """
    try:
        again = capture(small, example_inputs, method="record" if "fake" in edited.how else "run")
    except CaptureError as error:
        path = str(getattr(error.__cause__, "module_path", ""))
        return Divergence("", "", path, "", float("inf"), str(error))
    node = Differ(edited, again, values).first()
    return None if node is None else _divergence(edited, node, float("inf"), "the module's own code does otherwise")


def wrong_tensor(small: nn.Module, graph: Graph, values: Mapping[str, torch.Tensor]) -> Divergence | None:
    """Return the first tensor of a cut model that differs from the slice that it should be."""
    for name, tensor in named_tensors(unwrap(small)).items():
        canonical = graph.aliases.get(name, name)
        expected = values.get(canonical)
        if expected is None or (
            tensor.shape == expected.shape and torch.equal(tensor.detach(), expected.to(tensor.dtype))
        ):
            continue
        error = relative_error([tensor.detach()], [expected])
        node = next((n for n in graph.nodes if n.op == TENSOR and n.tensor == canonical), None)
        reason = _comparison({0: tensor.detach()}, {0: expected}, error)
        if node is None:
            return Divergence(name, TENSOR, name.rpartition(".")[0], "", error, f"{reason}; nothing reads it")
        return _divergence(graph, node, error, reason)
    return None


def explain(trial: Trial, small: nn.Module, example_inputs: Any, sliced: Mapping[str, torch.Tensor]) -> str:
    """Return one line that names the first difference between a cut model and the masked original, and its cause.

    Args:
        trial: the comparison that failed.
        small: the cut model.
        example_inputs: inputs of the original.
        sliced: the tensors that the cut model should hold.
    """
    edited = rewrite(trial.coupling, trial.plan.axes, trial.plan.drops)
    tensor = wrong_tensor(small, edited, sliced)
    if tensor is not None:
        return f"The first wrong tensor is {tensor}."
    difference = first_divergence(trial, edited=edited)
    if difference is not None:
        return f"The edited graph first parts from it at {difference}."
    departed = departing_node(small, edited, sliced, example_inputs)
    if departed is None:
        return (
            "Its captured program and the edited graph agree with it at every node; what differs is outside them: "
            "a state that a call leaves behind, or numbers that Python reads from tensors."
        )
    if not departed.node:
        return f"The edited graph agrees; the code of {departed.module or 'the top level'} fails: {departed.reason}"
    return f"The edited graph agrees at every node; the model's own code first departs from it at {departed}."


def one_line(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
