"""The exact price of a plan: params and MACs as polynomials in axis sizes, without a run and without a cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from prunus.graph.coupling import Coupling, count
from prunus.graph.ir import TENSOR, Graph, Node, Ref, refs_in
from prunus.graph.layout import UNIT, Expr, atoms_of, factors_of
from prunus.graph.rules.context import base_name
from prunus.plans import Cost


@dataclass(frozen=True, slots=True)
class Term:
    """One product: coefficient × the sizes of some dims. ``owner`` is a tensor or node name."""

    owner: str
    factor: int
    dims: tuple[Expr, ...]
    backward: int = 0


@dataclass(frozen=True, slots=True)
class CostModel:
    """Params and MACs of a network as sums of products of axis sizes; also its time, where the ops were timed.

    MACs are those of one sample, whatever the batch of the captured call; the time is that of the call. ``times`` and
    ``fixed_fs`` hold femtoseconds: the part that shrinks with the sizes, and the part that does not.
    """

    coupling: Coupling
    params: tuple[Term, ...]
    macs: tuple[Term, ...]
    item_bytes: Mapping[str, int]
    times: tuple[Term, ...] = ()
    fixed_fs: int = 0

    def price(self, kept: Mapping[str, int | np.ndarray] | None = None) -> Cost:
        """Return the cost where each axis ``a`` keeps ``kept[a]`` units (a count or a bool mask)."""
        size = sizes_under(self.coupling, kept)
        params = {t.owner: t.factor * int(product_of(t.dims, size)) for t in self.params}
        macs = [(t, t.factor * int(product_of(t.dims, size))) for t in self.macs]
        return Cost(
            params=sum(params.values()),
            macs_forward=sum(m for _, m in macs),
            macs_backward=sum(t.backward * m for t, m in macs),
            param_bytes=sum(n * self.item_bytes[k] for k, n in params.items()),
            latency_fs=self.fixed_fs + sum(t.factor * int(product_of(t.dims, size)) for t in self.times),
        )

    def amounts(self, terms: Iterable[Term], kept: Mapping[str, int | np.ndarray]) -> dict[str, int]:
        """Return owner → amount of some terms."""
        size = sizes_under(self.coupling, kept)
        amounts: dict[str, int] = {}
        for t in terms:
            amounts[t.owner] = amounts.get(t.owner, 0) + t.factor * int(product_of(t.dims, size))
        return amounts

    def touching(self, axis_id: str) -> tuple[tuple[Term, ...], tuple[Term, ...]]:
        """Return the param and MAC terms in which an axis occurs."""
        atom = self.coupling.axis(axis_id).atom
        return tuple(t for t in self.params if _holds(t, atom)), tuple(t for t in self.macs if _holds(t, atom))


def sizes_under(coupling: Coupling, kept: Mapping[str, int | np.ndarray] | None) -> Callable[[int], int]:
    """Return the function atom → size where each axis ``a`` keeps ``kept[a]`` units (a count or a bool mask)."""
    axis_of, sizes = coupling.axis_of, coupling.sizes
    given = (kept or {}).items()
    counts = {k: int(np.count_nonzero(v)) if isinstance(v, np.ndarray) else int(v) for k, v in given}

    def size(atom: int) -> int:
        name = axis_of.get(atom)
        return sizes[atom] if name is None or name not in counts else counts[name]

    return size


def _holds(term: Term, atom: int) -> bool:
    return any(atom in atoms_of(e) for e in term.dims)


def product_of(dims: Iterable[Expr], size: Callable[[int], int]) -> float:
    """Return the product of the sizes of some dims."""
    total: float = 1
    for e in dims:
        total *= count(e, size)
    return total


def cost_model(coupling: Coupling, graph: Graph | None = None) -> CostModel:
    """Collect the cost terms of a network: all parameters, and the multiply-accumulates of one sample.

    Args:
        coupling: the analysed graph.
        graph: a reduced version of ``coupling.graph`` (branches dropped); None means the whole graph.
    """
    graph = graph or coupling.graph
    live = {n.tensor for n in graph.nodes if n.op == TENSOR} if graph is not coupling.graph else None
    parameters = [i for i in coupling.graph.tensors.values() if i.kind == "parameter"]
    dropped_unused = _used(coupling.graph)
    active = _active(graph)
    params, bytes_each = [], {}
    for info in parameters:
        if live is not None and info.name not in live and info.name in dropped_unused:
            continue
        params.append(Term(info.name, 1, coupling.tensors[info.name]))
        bytes_each[info.name] = info.dtype.itemsize
    samples = _Samples.of(coupling, _active(coupling.graph))
    macs = [samples.of_one(t) for node in graph.nodes for t in _mac_terms(coupling, node, active)]
    return CostModel(coupling, tuple(params), tuple(macs), bytes_each)


@dataclass(frozen=True, slots=True)
class _Samples:
    """The terms of one sample from those of a call.

    The samples of a call are the first dim of its first input. A call counts as one sample where a tensor of the model
    has that dim too, or no output has it, as with the channels of a single image; and where an op that depends on the
    inputs has no dim of so many samples, as with the edges of a graph.
    """

    coupling: Coupling
    atoms: frozenset[int]
    samples: int
    from_inputs: frozenset[str]

    @staticmethod
    def of(coupling: Coupling, active: set[str]) -> _Samples:
        """Return the samples of the captured call."""
        graph, alone = coupling.graph, _Samples(coupling, frozenset(), 1, frozenset())
        lead = next((coupling.values[Ref(n)][0] for n in graph.inputs if coupling.values.get(Ref(n))), UNIT)
        atoms, stored = (
            frozenset(atoms_of(lead)),
            {a for d in coupling.tensors.values() for e in d for a in atoms_of(e)},
        )
        samples = int(coupling.size(lead))
        if not atoms or atoms & (stored | coupling.axis_of.keys()) or not _leads_an_output(coupling, atoms, samples):
            return alone
        reached = set(graph.inputs)
        for node in graph.nodes:
            if any(r.node in reached for r in refs_in(node.args)):
                reached.add(node.name)
        found = _Samples(coupling, atoms, samples, frozenset(reached))
        counted = (t for n in graph.nodes if n.name in reached for t in _mac_terms(coupling, n, active))
        return found if all(found.of_one(t) is not t for t in counted) else alone

    def of_one(self, term: Term) -> Term:
        """Return the part of a term that one sample causes; the term itself where it has no dim of the samples."""
        if self.samples == 1 or term.owner not in self.from_inputs:
            return term
        factors = [f for e in term.dims for f in factors_of(e)]
        # An op whose dims cannot be followed gives values in which the samples are a mere size.
        mine = [i for i, f in enumerate(factors) if self._divides(f) and self.atoms.issuperset(atoms_of(f))]
        sizes = [i for i, f in enumerate(factors) if self._divides(f)]
        for i in (*mine, *sizes):
            rest = (*factors[:i], *factors[i + 1 :])
            return replace(term, factor=term.factor * int(self.coupling.size(factors[i])) // self.samples, dims=rest)
        return term

    def _divides(self, factor: Expr) -> bool:
        fixed = not any(a in self.coupling.axis_of for a in atoms_of(factor))
        return fixed and self.coupling.size(factor) % self.samples == 0


def _leads_an_output(coupling: Coupling, atoms: frozenset[int], samples: int) -> bool:
    """Return whether the samples are a dim of some output; also where all outputs are single numbers."""
    shapes = [d for r in refs_in(coupling.graph.outputs) if (d := coupling.values.get(r))]
    return not shapes or any(atoms & set(atoms_of(d[0])) or coupling.size(d[0]) % samples == 0 for d in shapes)


def _used(graph: Graph) -> set[str]:
    return {n.tensor for n in graph.nodes if n.op == TENSOR}


def _active(graph: Graph) -> set[str]:
    """Return the nodes whose value depends on a trainable parameter: gradients flow into them."""
    active: set[str] = set()
    for node in graph.nodes:
        if node.op == TENSOR:
            if graph.tensors[node.tensor].trainable:
                active.add(node.name)
        elif any(r.node in active for r in refs_in(node.args)):
            active.add(node.name)
    return active


def _mac_terms(coupling: Coupling, node: Node, active: set[str]) -> list[Term]:
    make = _MACS.get(base_name(node.op)) if node.op.startswith(("aten.", "prunus.")) else None
    return make(coupling, node, active) if make else []


def _term(node: Node, dims: Iterable[Expr], operands: Iterable[Ref], active: set[str], factor: int = 1) -> Term:
    return Term(node.name, factor, tuple(dims), sum(r.node in active for r in operands))


def _linear(coupling: Coupling, node: Node, active: set[str]) -> list[Term]:
    x, w = node.args["input"], node.args["weight"]
    return [_term(node, (*coupling.values[x], *coupling.values[w][:-1]), (x, w), active)]


def _matmul(coupling: Coupling, node: Node, active: set[str]) -> list[Term]:
    start = 1 if base_name(node.op) in ("addmm", "baddbmm") else 0
    first, second = list(node.args.values())[start : start + 2]
    contracted = coupling.values[first][-1]
    return [_term(node, (*coupling.values[Ref(node.name)], contracted), (first, second), active)]


def _convolution(coupling: Coupling, node: Node, active: set[str]) -> list[Term]:
    x, w = node.args["input"], node.args["weight"]
    transposed = bool(node.get("transposed", "transpose" in node.op))
    moving = coupling.values[x] if transposed else coupling.values[Ref(node.name)]
    return [_term(node, (*moving, *coupling.values[w][1:]), (x, w), active)]


def _attention(coupling: Coupling, node: Node, active: set[str]) -> list[Term]:
    q, k, v = (node.args[n] for n in ("query", "key", "value"))
    queries, keys, values = coupling.values[q], coupling.values[k], coupling.values[v]
    return [
        _term(node, (*queries, keys[-2]), (q, k), active),
        _term(node, (*queries[:-1], keys[-2], values[-1]), (q, v), active),
    ]


def _einsum(coupling: Coupling, node: Node, active: set[str]) -> list[Term]:
    operands = node.args["tensors"]
    left = node.args["equation"].replace(" ", "").partition("->")[0].split(",")
    letters: dict[str, Expr] = {}
    spread: tuple[Expr, ...] = ()
    for spec, ref in zip(left, operands, strict=True):
        dims = coupling.values[ref]
        before, dots, after = spec.partition("...")
        letters.update(zip(before, dims, strict=False))
        letters.update(zip(reversed(after), reversed(dims), strict=False))
        if dots and len(dims) - len(before) - len(after) > len(spread):
            spread = dims[len(before) : len(dims) - len(after)]
    return [_term(node, (*spread, *letters.values()), operands, active)] if len(operands) > 1 else []


def _bilinear(coupling: Coupling, node: Node, active: set[str]) -> list[Term]:
    refs = (node.args["input1"], node.args["input2"], node.args["weight"])
    return [_term(node, (*coupling.values[refs[0]][:-1], *coupling.values[refs[2]]), refs, active)]


def _recurrent(coupling: Coupling, node: Node, active: set[str]) -> list[Term]:
    x = node.get("input", node.get("data"))
    steps = coupling.values[x][:-1]
    matrices = [p for p in node.get("params", ()) if len(coupling.values[p]) == 2]
    terms = []
    for i, w in enumerate(matrices):
        first = i == 0
        term = _term(node, (*steps, *coupling.values[w]), (w,), active)
        grad_input = (x.node in active) if first else True
        terms.append(Term(term.owner, 1, term.dims, term.backward + int(grad_input)))
    return terms


def _cell(coupling: Coupling, node: Node, active: set[str]) -> list[Term]:
    x = node.args["input"]
    states = node.args["hx"]
    state = states[0] if isinstance(states, (list, tuple)) else states
    rows = coupling.values[x][:-1]
    pairs = ((node.args["w_ih"], x), (node.args["w_hh"], state))
    return [_term(node, (*rows, *coupling.values[w]), (w, v), active) for w, v in pairs]


_MACS: dict[str, Callable[[Coupling, Node, set[str]], list[Term]]] = {
    "linear": _linear,
    **dict.fromkeys(
        ("matmul", "mm", "bmm", "mv", "dot", "vdot", "addmm", "baddbmm", "_grouped_mm", "prunus.grouped_mm"), _matmul
    ),
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        _convolution,
    ),
    "scaled_dot_product_attention": _attention,
    "einsum": _einsum,
    "bilinear": _bilinear,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _cell),
}
