"""Remove units: slice every tensor, mend the integers of torch.nn modules, rewrite forwards where that is not enough."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from prunus.errors import CaptureError, OptionError, PlanError
from prunus.graph.capture import capture, preserved, unwrap
from prunus.graph.coupling import Coupling
from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref
from prunus.graph.recorder import named_tensors
from prunus.plans import Plan, fingerprint
from prunus.surgery.attributes import mend_attributes_, mend_convolutions_
from prunus.surgery.literals import cut_tensor_indices, literal_changes, rewrite
from prunus.surgery.program import Program

MODES = ("hybrid", "module", "graph")


def cut(model: nn.Module, coupling: Coupling, plan: Plan, example_inputs: Any, *, mode: str = "hybrid") -> nn.Module:
    """Return a smaller model; the argument is untouched.

    Args:
        model: the model that ``coupling`` was made from.
        coupling: its analysis.
        plan: what goes. Weight masks are applied to the tensors before they are sliced.
        example_inputs: used to prove that a module-mode cut computes the edited graph.
        mode: ``module`` keeps the user's classes throughout, ``graph`` returns the edited program as a module, ``hybrid``
            keeps the user's classes wherever that is exact.

    Raises:
        PlanError: the plan belongs to another model, or empties something that is needed.
        CaptureError: ``mode="module"`` and the user's code holds a size that the cut makes stale.
    """
    if mode not in MODES:
        raise OptionError(f"cut mode {mode!r} is unknown; allowed: {', '.join(MODES)}.")
    model = unwrap(model)
    check_fingerprint(plan, coupling.graph)
    edited = rewrite(coupling, plan.axes, plan.drops)
    values = cut_tensors(model, coupling, plan)
    if mode != "graph":
        candidate, reason = _module_mode(model, coupling, plan, edited, values, example_inputs)
        if candidate is not None:
            return candidate
        if mode == "module":
            raise CaptureError(f"{type(model).__name__} cannot be cut in module mode: {reason} Use mode='hybrid'.")
    return _graph_mode(model, edited, values)


def check_fingerprint(plan: Plan, graph: Graph) -> None:
    """Refuse a plan that was made for another model."""
    own = fingerprint(graph)
    if plan.fingerprint != own:
        raise PlanError(
            f"The plan was made for a model with fingerprint {plan.fingerprint}; this one has {own}. "
            "Plan again for this model."
        )


def cut_tensors(model: nn.Module, coupling: Coupling, plan: Plan) -> dict[str, torch.Tensor]:
    """Return every tensor of the cut model by its canonical name: masked, sliced, detached copies."""
    named = named_tensors(model)
    values = {n: named[n].detach() for n, i in coupling.graph.tensors.items() if i.kind != "constant"}
    return slice_tensors(values | dict(coupling.graph.constants), coupling, plan)


def slice_tensors(values: Mapping[str, torch.Tensor], coupling: Coupling, plan: Plan) -> dict[str, torch.Tensor]:
    """Mask and slice a full set of tensors."""
    out: dict[str, torch.Tensor] = {}
    for name, value in values.items():
        mask = plan.masks.get(name)
        if mask is not None:
            value = value * torch.from_numpy(np.ascontiguousarray(mask)).to(value.device, value.dtype)
        for dim, kept in cut_tensor_indices(coupling, plan.axes, name).items():
            value = value.index_select(dim, torch.from_numpy(kept).to(value.device))
        out[name] = value.clone()
    return out


def _module_mode(
    model: nn.Module,
    coupling: Coupling,
    plan: Plan,
    edited: Graph,
    values: Mapping[str, torch.Tensor],
    example_inputs: Any,
) -> tuple[nn.Module | None, str]:
    if plan.drops:
        return None, "a dropped branch changes its forward."
    small = copy_with(model, coupling.graph, values)
    mend_attributes_(small, coupling.graph, edited)
    mend_convolutions_(small, edited)
    try:
        again = capture(small, example_inputs, method="record" if "fake" in edited.how else "run")
    except CaptureError as error:
        return None, str(error)
    stale = first_difference(edited, again)
    return (small, "") if stale is None else (None, f"{stale} holds a size that the cut makes stale.")


def copy_with(model: nn.Module, graph: Graph, values: Mapping[str, torch.Tensor]) -> nn.Module:
    """Deep-copy a model while replacing its tensors; ties, flags and references inside modules follow."""
    memo: dict[int, Any] = {}
    for name, tensor in named_tensors(model).items():
        canonical = graph.aliases.get(name, name)
        if id(tensor) in memo or tuple(values[canonical].shape) == tuple(tensor.shape):
            if id(tensor) not in memo and not torch.equal(values[canonical], tensor.detach()):
                memo[id(tensor)] = _like(tensor, values[canonical])
            continue
        memo[id(tensor)] = _like(tensor, values[canonical])
    return copy.deepcopy(model, memo)


def _like(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(value.clone(), requires_grad=tensor.requires_grad)
    return value.clone()


def first_difference(expected: Graph, got: Graph) -> str | None:
    """Compare two programs op by op; return where the first literal or op differs, or None."""
    left = [n for n in expected.nodes if n.op not in (INPUT, TENSOR)]
    right = [n for n in got.nodes if n.op not in (INPUT, TENSOR)]
    names: dict[str, str] = {}
    for a, b in zip(left, right, strict=False):
        if not _same_node(a, b, expected, got, names):
            return f"{expected.where(a)} ({a.op})"
        names[a.name] = b.name
    if len(left) != len(right):
        longer = left if len(left) > len(right) else right
        node = longer[min(len(left), len(right))]
        return f"{(expected if longer is left else got).where(node)} ({node.op})"
    return None


def _same_node(a: Node, b: Node, expected: Graph, got: Graph, names: Mapping[str, str]) -> bool:
    renamed = {"aten.view.default": "aten.reshape.default", "aten.chunk.default": "aten.split_with_sizes.default",
               "aten.split.Tensor": "aten.split_with_sizes.default"}  # fmt: skip
    same_op = a.op == b.op or renamed.get(b.op, b.op) == a.op
    if not same_op or [m and m.shape for m in a.outputs] != [m and m.shape for m in b.outputs]:
        return False
    if a.op != b.op:
        return _same_refs(list(_refs(a)), list(_refs(b)), expected, got, names)
    return all(_same_value(v, b.args.get(k), expected, got, names) for k, v in a.args.items())


def _refs(node: Node) -> Any:
    from prunus.graph.ir import refs_in

    return refs_in(node.args)


def _same_refs(a: list[Ref], b: list[Ref], expected: Graph, got: Graph, names: Mapping[str, str]) -> bool:
    return len(a) == len(b) and all(_same_value(x, y, expected, got, names) for x, y in zip(a, b, strict=True))


def _same_value(a: Any, b: Any, expected: Graph, got: Graph, names: Mapping[str, str]) -> bool:
    if isinstance(a, Ref) and isinstance(b, Ref):
        left, right = expected.node(a.node), got.node(b.node)
        if left.op == TENSOR and right.op == TENSOR:
            constant = left.tensor in expected.constants
            return constant or left.tensor == right.tensor
        return a.index == b.index and (names.get(a.node, b.node) == b.node)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_same_value(x, y, expected, got, names) for x, y in zip(a, b, strict=True))
    if isinstance(a, int) and isinstance(b, int) and not isinstance(a, bool) and a != b:
        return -1 in (a, b)
    return bool(a == b)


def _graph_mode(model: nn.Module, edited: Graph, values: Mapping[str, torch.Tensor]) -> nn.Module:
    named = named_tensors(model)
    trainable = {n: named[n].requires_grad for n in values if n in named}
    with preserved(model):
        pass
    program = Program(edited, values, trainable)
    program.train(model.training)
    return program


__all__ = ["MODES", "check_fingerprint", "copy_with", "cut", "cut_tensors", "literal_changes", "slice_tensors"]
