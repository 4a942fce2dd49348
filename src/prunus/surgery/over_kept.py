"""Reductions that run over what a cut keeps, where the network with the removed parts at zero would count the zeros."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from prunus.foundation.as_found import buffers_kept
from prunus.graph.capture import preserved, split_inputs
from prunus.graph.coupling import Coupling
from prunus.graph.ir import INPUT, Graph, Node, Ref, refs_in
from prunus.graph.layout import atoms_of
from prunus.graph.recorder import named_tensors
from prunus.graph.rules.context import base_name
from prunus.graph.rules.reduction import STATISTIC_OPS, reduced_dims
from prunus.plans import Plan

_EXTREMES = ("max", "min")
_AVERAGES = ("mean", "var", "std", "var_mean", "std_mean", "nanmean")
_ELEMENTWISE = frozenset(
    [
        *("add", "sub", "rsub", "mul", "div", "pow", "square", "sqrt", "rsqrt"),
        *("reciprocal", "neg", "clamp", "clamp_min", "addcmul", "addcdiv", "exp", "abs", "unsqueeze"),
        *("expand", "expand_as", "view", "reshape", "to", "_to_copy", "type_as", "float", "half"),
        *("contiguous"),
    ]
)
_STEPS = 12


def over_kept(coupling: Coupling, axes: Collection[str]) -> list[Node]:
    """Return the reductions that see an axis which is cut, in the order of the program.

    Such are means, variances, maxima, minima and logsumexp, of values or of weights. Sums and norms of vectors are not
    among them, for zeros add nothing; nor are layer, RMS and group norms, fused or by hand, which are meant to run
    over what is there.
    """
    atoms = {coupling.axes[name].atom for name in axes if name in coupling.axes}
    seen = [node for node in coupling.graph.nodes if _sees(coupling, node, atoms)]
    if not seen:
        return []
    inputs, readers = _from_inputs(coupling.graph), _readers(coupling.graph)
    return [node for node in seen if not _is_norm(coupling, node, inputs, readers)]


def told(coupling: Coupling, nodes: list[Node]) -> list[str]:
    """Return a line for each place of the code, ``amax, pool at net.py:12``, with how often it runs."""
    places: dict[str, int] = {}
    for node in nodes:
        module = coupling.graph.module_of(node) or "(top level)"
        # The name of the file alone: a plan is the same wherever the code lies.
        code = f" at {Path(node.source.partition(' in ')[0]).name}" if node.source else ""
        text = f"{base_name(node.op).strip('_')}, {module}{code}"
        places[text] = places.get(text, 0) + 1
    return [text if count == 1 else f"{text} ({count} times)" for text, count in places.items()]


def difference_from_masked(model: nn.Module, small: nn.Module, plan: Plan, example_inputs: object) -> float | None:
    """Return ‖small − masked‖ / ‖masked‖ on the example, masked being the model with all removed slices at zero.

    Args:
        model: the dense network; untouched.
        small: the cut network, before a repair.
        plan: of the cut.
        example_inputs: one call.

    Returns:
        None where the outputs cannot be compared, because the cut changes their shapes.
    """
    masked = copy.deepcopy(model)
    tensors = named_tensors(masked)
    with torch.no_grad():
        for name, dims in plan.keep.items():
            for dim, kept in dims.items():
                if name in tensors:
                    gone = np.setdiff1d(np.arange(tensors[name].shape[dim]), kept)
                    tensors[name].index_fill_(dim, torch.as_tensor(gone, device=tensors[name].device), 0)
    ours, theirs = (list(_floats(network, example_inputs)) for network in (small, masked))
    if [x.shape for x in ours] != [x.shape for x in theirs]:
        return None
    miss = sum(float((a - b).square().sum()) for a, b in zip(ours, theirs, strict=True))
    whole = sum(float(b.square().sum()) for b in theirs)
    return float((miss / whole) ** 0.5) if whole > 0 else None


def _floats(network: nn.Module, example_inputs: object) -> Iterator[Tensor]:
    args, kwargs = split_inputs(example_inputs)
    with preserved(network), buffers_kept(network), torch.no_grad():
        network.eval()
        outputs = network(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    for leaf in pytree.tree_leaves(outputs):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            yield leaf.to(torch.float64)


def _sees(coupling: Coupling, node: Node, atoms: set[int]) -> bool:
    name = base_name(node.op)
    first = next(iter(node.args.values()), None)
    dims = coupling.values.get(first) if isinstance(first, Ref) else None
    if not dims or not node.op.startswith("aten."):
        return False
    if name in STATISTIC_OPS or (name in _EXTREMES and not isinstance(node.get("other"), Ref)):
        reduced = reduced_dims(node, len(dims))
    else:
        return False
    return any(atom in atoms for d in reduced for atom in atoms_of(dims[d]))


def _is_norm(coupling: Coupling, node: Node, inputs: set[str], readers: Mapping[str, list[Node]]) -> bool:
    """Return whether the statistic of a value scales or shifts that value again: a norm by hand.

    Statistics of weights are none: the layer then has other weights than the masked one.
    """
    source = next(iter(node.args.values()))
    if base_name(node.op) not in _AVERAGES or source.node not in inputs:
        return False
    dims = coupling.values[source]
    wanted = {atom for d in reduced_dims(node, len(dims)) for atom in atoms_of(dims[d])}
    reached, waiting = {node.name}, [(node.name, 0)]
    while waiting:
        name, steps = waiting.pop(0)
        for reader in readers.get(name, ()) if steps < _STEPS else ():
            if reader.name in reached or base_name(reader.op) not in _ELEMENTWISE:
                continue
            others = [coupling.values.get(r, ()) for r in refs_in(reader.args) if r.node not in reached]
            if any(wanted & set(atoms_of(e)) for shape in others for e in shape):
                return True
            reached.add(reader.name)
            waiting.append((reader.name, steps + 1))
    return False


def _readers(graph: Graph) -> dict[str, list[Node]]:
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in {r.node for r in refs_in(node.args)}:
            readers.setdefault(name, []).append(node)
    return readers


def _from_inputs(graph: Graph) -> set[str]:
    found = {n.name for n in graph.nodes if n.op == INPUT}
    for node in graph.nodes:
        if any(r.node in found for r in refs_in(node.args)):
            found.add(node.name)
    return found


def over_kept_lines(coupling: Coupling, axes: Mapping[str, object]) -> list[str]:
    """Return the lines of a plan that cuts some axes: one for each reduction over what is kept."""
    return [f"over what is kept: {line}" for line in told(coupling, over_kept(coupling, list(axes)))]
