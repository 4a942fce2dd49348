"""The inspection of a model, or of its coupling."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from prunus.analysis import Analysis
from prunus.cost.price import CostModel, Term, cost_model
from prunus.errors import OptionError
from prunus.foundation.arguments import door
from prunus.graph.axis import FrozenDim
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.graph.ir import INPUT, TENSOR, Graph
from prunus.graph.layout import atoms_of
from prunus.graph.provenance import Provenance, literals, provenance
from prunus.graph.rules.context import base_name
from prunus.graph.traced import attributes_of
from prunus.report.inspection.record import AxisPart, FrozenPart, ModulePart, NumberPart, UnknownOp
from prunus.report.inspection.text import Inspection
from prunus.surgery.cut import FORWARDS
from prunus.surgery.keeping.own_forward import own_forward


@door("inspect")
def inspect_model(model: nn.Module, example_inputs: Any, *, name: str = "", forward: str = "keep") -> Inspection:
    """Describe the modules of a network, the axes that can be cut, and what is frozen and why.

    Nothing is computed and nothing is changed: capture runs on fake tensors if the network allows it.

    Args:
        model: any ``nn.Module``.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        name: the name of the network; its class by default.
        forward: ``keep`` shows what can be cut while every forward stays as you wrote it, and the origin of the numbers
            in it; ``rewrite`` shows everything that can be cut.

    Raises:
        ModelError: not a module, quantised, or on several devices.
        CaptureError: its forward fails on the example inputs.
        OptionError: another ``forward``.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> found = inspect_model(net, torch.zeros(1, 4))
        >>> found.params, found.macs_forward, [axis.id for axis in found.axes]
        (58, 48, ['0:out'])
    """
    if forward not in FORWARDS:
        raise OptionError(f"forward is {forward!r}; allowed: {', '.join(FORWARDS)}.")
    bare = couple(capture(model, example_inputs))
    if forward == "rewrite":
        return inspection_of(bare, name=name)
    coupling = own_forward(model, bare, example_inputs).on(bare)
    numbers = _numbers(coupling, provenance(model, bare.graph, example_inputs))
    return replace(inspection_of(coupling, name=name), coverage_rewritten=bare.coverage(), numbers=numbers)


def inspected(analysis: Analysis) -> Inspection:
    """Describe an analysed network, under the constraints of its analysis; see `inspect_model`."""
    found, coupling = inspection_of(analysis.coupling), analysis.coupling
    if analysis.own is None:
        return found
    numbers = _numbers(coupling, provenance(analysis.model, coupling.graph, analysis.example_inputs))
    return replace(found, coverage_rewritten=analysis.coverage_rewritten(), numbers=numbers)


def inspection_of(coupling: Coupling, *, name: str = "") -> Inspection:
    """Describe a coupling; see `inspect_model`."""
    graph, cost = coupling.graph, cost_model(coupling)
    price = cost.price()
    on_axes = set(coupling.axis_of)
    covered = sum(_amount(cost, t) for t in cost.macs if on_axes & _atoms(t))
    return Inspection(
        name=name or graph.modules.get("", "model"),
        inputs=tuple(_described(graph, n) for n in graph.inputs),
        how=graph.how,
        notes=graph.notes,
        nodes=sum(n.op not in (INPUT, TENSOR) for n in graph.nodes),
        params=price.params,
        macs_forward=price.macs_forward,
        macs_backward=price.macs_backward,
        param_bytes=price.param_bytes,
        coverage_params=coupling.coverage(),
        coverage_macs=covered / price.macs_forward if price.macs_forward else 0.0,
        modules=_modules(coupling, cost),
        axes=_axes(coupling, cost),
        unknown=tuple(UnknownOp(op, where) for op, where in coupling.unknown.items()),
        forward="rewrite" if coupling.forward is None else "keep",
        ties=tuple(
            " = ".join(_share(axis, n, tie.rest.get(axis, 0)) for axis, n in tie.units.items()) for tie in coupling.ties
        ),
    )


def _share(axis: str, units: int, rest: int) -> str:
    steps = f"({axis} - {rest})" if rest else axis
    return steps if units == 1 else f"{steps} / {units}"


def _numbers(coupling: Coupling, known: Provenance) -> tuple[NumberPart, ...]:
    graph, own = coupling.graph, coupling.forward
    counts = own.attributes if own is not None else {}
    found = []
    for node, key, value, origin in literals(graph, known):
        changed = sorted({a for a in attributes_of(origin) if a in counts}, key=str)
        follows = ", ".join(f"{a} = {counts[a].described(coupling.axis_of.__getitem__)}" for a in changed)
        found.append(
            NumberPart(base_name(node.op), key, value, str(origin), follows, graph.module_of(node), node.source)
        )
    return tuple(found)


def _described(graph: Graph, name: str) -> str:
    meta = graph.node(name).outputs[0]
    if meta is None:
        return name
    shape = "×".join(map(str, meta.shape)) or "scalar"
    return f"{shape} {str(meta.dtype).removeprefix('torch.')}"


def _axes(coupling: Coupling, cost: CostModel) -> tuple[AxisPart, ...]:
    params, macs = _on_each(coupling, cost, cost.params), _on_each(coupling, cost, cost.macs)
    return tuple(
        AxisPart(
            id=axis.id,
            module=_owner(axis.id, coupling.graph.modules),
            size=axis.size,
            statistic=axis.statistic,
            members=tuple(dict.fromkeys(f"{m.tensor}[{m.dim}]" for m in axis.members)),
            params=params[axis.id],
            macs=macs[axis.id],
        )
        for axis in coupling.axes.values()
    )


def _on_each(coupling: Coupling, cost: CostModel, terms: Iterable[Term]) -> Counter[str]:
    """Return the cost on each axis: Σ over terms of the whole term minus the term with that axis empty."""
    found: Counter[str] = Counter()
    for term in terms:
        whole = _amount(cost, term)
        for axis in dict.fromkeys(coupling.axis_of[a] for a in _atoms(term) if a in coupling.axis_of):
            found[axis] += whole - sum(cost.amounts([term], {axis: 0}).values())
    return found


def _amount(cost: CostModel, term: Term) -> int:
    return sum(cost.amounts([term], {}).values())


def _atoms(term: Term) -> set[int]:
    return {a for e in term.dims for a in atoms_of(e)}


def _modules(coupling: Coupling, cost: CostModel) -> tuple[ModulePart, ...]:
    graph = coupling.graph
    params = _by_module(graph, {t.owner: _amount(cost, t) for t in cost.params})
    macs: Counter[str] = Counter()
    for owner, amount in cost.amounts(cost.macs, {}).items():
        macs[graph.module_of(graph.node(owner))] += amount
    calls = Counter(call.path for call in graph.calls)
    axes: dict[str, list[str]] = {}
    for axis in coupling.axes:
        axes.setdefault(_owner(axis, graph.modules), []).append(axis)
    frozen: dict[str, list[FrozenPart]] = {}
    for item in coupling.frozen:
        if graph.tensors[item.tensor].kind == "parameter":
            frozen.setdefault(_home(item.tensor, graph.modules), []).append(_frozen(graph, item))
    tied: dict[str, list[tuple[str, str]]] = {}
    for alias, first in graph.aliases.items():
        if graph.tensors[first].kind == "parameter":
            tied.setdefault(_home(alias, graph.modules), []).append((alias, first))
    params_in, macs_in = _summed(params, graph.modules), _summed(macs, graph.modules)
    return tuple(
        ModulePart(
            path=path,
            kind=kind.rpartition(".")[2],
            calls=calls[path],
            params=params_in[path],
            own_params=params[path],
            macs=macs_in[path],
            own_macs=macs[path],
            axes=tuple(axes.get(path, ())),
            frozen=tuple(frozen.get(path, ())),
            tied=tuple(tied.get(path, ())),
        )
        for path, kind in graph.modules.items()
    )


def _frozen(graph: Graph, item: FrozenDim) -> FrozenPart:
    node = graph.node(item.where) if item.where else None
    return FrozenPart(
        tensor=item.tensor,
        dim=item.dim,
        numel=math.prod(graph.tensors[item.tensor].shape),
        size=item.size,
        reason=item.reason,
        op="" if node is None else base_name(node.op),
        module="" if node is None else graph.module_of(node),
        source="" if node is None else node.source,
    )


def _by_module(graph: Graph, amounts: Mapping[str, int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for tensor, amount in amounts.items():
        found[_home(tensor, graph.modules)] += amount
    return found


def _home(tensor: str, modules: Mapping[str, str]) -> str:
    """Return the innermost module around a tensor."""
    path = tensor.rpartition(".")[0]
    while path not in modules:
        path = path.rpartition(".")[0]
    return path


def _owner(axis: str, modules: Mapping[str, str]) -> str:
    return _home(f"{axis.partition(':')[0]}.", modules)


def _summed(own: Mapping[str, int], modules: Mapping[str, str]) -> dict[str, int]:
    total = {path: own[path] for path in modules}
    # Children come after their parents, so in reverse every child is complete when it is added.
    for path in reversed(list(modules)):
        if path:
            total[path.rpartition(".")[0]] += total[path]
    return total
