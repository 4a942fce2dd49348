"""Coupling turns a `Graph` into the axes of units that must be removed together, and the frozen dims with reasons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from prunus.errors import OptionError, SelectorError, nearest
from prunus.foundation.arguments import door
from prunus.graph.axis import Axis, FrozenDim, Member, Tie
from prunus.graph.axis_names import first_roles, label
from prunus.graph.freeze import freeze_outputs, freeze_unread, freeze_unused
from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref, refs_in
from prunus.graph.kept_forward import OwnForward, renamed
from prunus.graph.layout import ConflictError, Expr, Frozen, Prod, Sum, atoms_of
from prunus.graph.rules import RULES, Flow, load_rules
from prunus.graph.rules.context import Dims, base_name
from prunus.graph.vocabulary import give_tokens, settle_tokens

Keep = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Coupling:
    """The dims of every value as expressions over axes.

    ``axes`` are removable. ``values`` holds the dims of every value, ``tensors`` those of every named tensor, ``aux``
    the expressions that literal arguments (groups, repeats, pads) count. ``ids`` names the inputs and constants whose
    integers are positions of a dim: a cut renumbers them. ``options`` are the keyword arguments of `couple`.
    ``forward`` holds the terms on which every forward stays the user's, where forwards are kept: axes that would need
    another forward are frozen, and ``ties`` hold between kept counts.
    """

    graph: Graph
    axes: Mapping[str, Axis]
    values: Mapping[Ref, Dims]
    tensors: Mapping[str, Dims]
    aux: Mapping[tuple[str, str], tuple[Expr, ...]]
    frozen: tuple[FrozenDim, ...]
    unknown: Mapping[str, str]
    sizes: tuple[int, ...]
    axis_of: Mapping[int, str] = field(default_factory=dict)
    ids: Mapping[str, Expr] = field(default_factory=dict)
    options: Mapping[str, bool] = field(default_factory=dict)
    ties: tuple[Tie, ...] = ()
    forward: OwnForward | None = None

    def under(self, forward: OwnForward) -> Coupling:
        """Return the analysis on the terms of the kept forwards: axes that they need whole are frozen, others tied."""
        return replace(frozen_axes(self.followed(forward), forward.frozen), ties=forward.ties, forward=forward)

    def followed(self, forward: OwnForward) -> Coupling:
        """Return an analysis in which the followers lie on the axes with which they lose units."""
        if not forward.followers:
            return self
        sizes, tensors, axes = list(self.sizes), dict(self.tensors), dict(self.axes)
        covered = set()
        for follower in forward.followers:
            names = {}
            for i, (axis, size) in enumerate(follower.parts):
                names[i] = axes[axis].atom if axis in axes else len(sizes)
                if axis not in axes:
                    sizes.append(size)
            tensors[follower.tensor] = tuple(renamed(e, names) for e in follower.dims)
            for axis in sorted(follower.axes & axes.keys()):
                atom = axes[axis].atom
                places = [(d, e) for d, e in enumerate(tensors[follower.tensor]) if atom in atoms_of(e)]
                members = tuple(Member(follower.tensor, d, e) for d, e in places)
                axes[axis] = replace(axes[axis], members=(*axes[axis].members, *members))
                covered |= {(follower.tensor, d) for d, _ in places}
        frozen = tuple(f for f in self.frozen if (f.tensor, f.dim) not in covered)
        return replace(self, sizes=tuple(sizes), tensors=tensors, axes=axes, frozen=frozen)

    def axis(self, name: str) -> Axis:
        """Return an axis by id; an unknown one names the nearest."""
        if name not in self.axes:
            raise SelectorError(f"No removable axis {name!r}.{nearest(name, self.axes)}")
        return self.axes[name]

    def size(self, expr: Expr) -> int:
        """Return the number of positions of an expression."""
        return int(count(expr, lambda a: self.sizes[a]))

    def mask(self, expr: Expr, keep: Keep) -> np.ndarray:
        """Return the mask of the positions of a dim that stay: product = outer and, sum = concatenation.

        ``keep`` maps axis ids to boolean arrays; axes that are not named stay whole.
        """
        if isinstance(expr, int):
            chosen = keep.get(self.axis_of.get(expr, ""))
            return np.ones(self.sizes[expr], bool) if chosen is None else np.asarray(chosen, bool)
        if isinstance(expr, Sum):
            return np.concatenate([self.mask(t, keep) for t in expr.terms])
        out = np.ones(1, bool)
        for f in expr.factors:
            out = np.logical_and.outer(out, self.mask(f, keep)).reshape(-1)
        return out

    def kept(self, expr: Expr, keep: Keep) -> int:
        """Return the number of positions of a dim that stay."""
        return int(count(expr, lambda a: self._kept_atom(a, keep)))

    def _kept_atom(self, atom: int, keep: Keep) -> int:
        chosen = keep.get(self.axis_of.get(atom, ""))
        return self.sizes[atom] if chosen is None else int(np.count_nonzero(chosen))

    def positions(self, expr: Expr, axis: Axis) -> Iterator[np.ndarray]:
        """Yield, for each occurrence of an axis in a dim, an array dim position → unit (or -1 outside it)."""
        yield from _positions(expr, axis.atom, self.sizes)

    def tensor_masks(self, keep: Keep) -> dict[str, dict[int, np.ndarray]]:
        """Return tensor → dim → kept indices, for the dims that lose positions."""
        # In the order of the axes, which is the same in every process; the order of a set is not.
        touched = dict.fromkeys(m.tensor for name in keep for m in self.axis(name).members)
        kept: dict[str, dict[int, np.ndarray]] = {}
        for tensor in touched:
            for dim, expr in enumerate(self.tensors[tensor]):
                mask = self.mask(expr, keep)
                if not mask.all():
                    kept.setdefault(tensor, {})[dim] = np.flatnonzero(mask)
        return kept

    def coverage(self) -> float:
        """Return the share of parameters that lie on at least one removable axis."""
        total = covered = 0
        for name, info in self.graph.tensors.items():
            if info.kind != "parameter":
                continue
            numel = int(np.prod(info.shape))
            total += numel
            atoms = {a for e in self.tensors[name] for a in atoms_of(e)}
            covered += numel if any(a in self.axis_of for a in atoms) else 0
        return covered / total if total else 0.0


def count(expr: Expr, size: object) -> float:
    """Return the number of positions of an expression whose atoms have ``size(atom)`` positions."""
    if isinstance(expr, int):
        return size(expr)  # type: ignore[operator,no-any-return]
    if isinstance(expr, Prod):
        total: float = 1
        for f in expr.factors:
            total *= count(f, size)
        return total
    return sum(count(t, size) for t in expr.terms)


def _positions(expr: Expr, atom: int, sizes: Sequence[int]) -> Iterator[np.ndarray]:
    if isinstance(expr, int):
        if expr == atom:
            yield np.arange(sizes[atom])
        return
    parts = expr.factors if isinstance(expr, Prod) else expr.terms
    lengths = [int(count(p, lambda a: sizes[a])) for p in parts]
    for i, part in enumerate(parts):
        before, after = lengths[:i], lengths[i + 1 :]
        for inner in _positions(part, atom, sizes):
            if isinstance(expr, Prod):
                outer = np.tile(np.repeat(inner, int(np.prod(after))), int(np.prod(before)))
            else:
                outer = np.concatenate([np.full(sum(before), -1), inner, np.full(sum(after), -1)])
            yield outer.astype(np.int64)


def frozen_axes(coupling: Coupling, reasons: Mapping[str, Frozen]) -> Coupling:
    """Return the analysis with some axes frozen; ``reasons`` maps axis ids to the reason and the node."""
    frozen = {name: axis for name, axis in coupling.axes.items() if name in reasons}
    dims = [
        FrozenDim(m.tensor, m.dim, reasons[name].reason, reasons[name].node, axis.size)
        for name, axis in frozen.items()
        for m in axis.members
    ]
    return replace(
        coupling,
        axes={name: axis for name, axis in coupling.axes.items() if name not in frozen},
        axis_of={atom: name for atom, name in coupling.axis_of.items() if name not in frozen},
        frozen=(*coupling.frozen, *dims),
    )


OPT_INS = ("experts", "vocabulary")


def opted_in(names: Iterable[str]) -> dict[str, bool]:
    """Return the keyword arguments of `couple` for the units that the user makes removable beyond the default.

    Raises:
        OptionError: an unknown name.
    """
    chosen = [names] if isinstance(names, str) else list(names)
    for name in chosen:
        if name not in OPT_INS:
            raise OptionError(f"opt_in names {name!r}.{nearest(str(name), OPT_INS)} Allowed: {', '.join(OPT_INS)}.")
    return {name: name in chosen for name in OPT_INS}


@door()
def couple(graph: Graph, *, protect_outputs: bool = True, experts: bool = False, vocabulary: bool = False) -> Coupling:
    """Analyse a graph: one forward pass of the dim algebra.

    Args:
        graph: the result of `capture`.
        protect_outputs: freeze every dim of the network's outputs; a cache among them is a state and follows the cut.
        experts: make whole experts removable, with their rows of the router, as long as it has enough to choose from.
        vocabulary: make tokens removable, in the embedding and the output layer. The cut model numbers the kept tokens
            from 0: its inputs have to be renumbered, and its outputs use the new numbers.

    An op without a rule, or one whose dims cannot be aligned, freezes the dims of its arguments; it is never an error.
    """
    load_rules()
    flow = Flow(graph, experts=experts)
    tensors = {n: tuple(flow.fresh(s) for s in info.shape) for n, info in graph.tensors.items()}
    for node in graph.nodes:
        flow.used.update(refs_in(node.args))
    unknown: dict[str, str] = {}
    if vocabulary:
        give_tokens(flow)
    for node in graph.nodes:
        _step(flow, node, tensors, unknown)
    tokens = settle_tokens(flow) if vocabulary else None
    if protect_outputs:
        freeze_outputs(flow, tokens)
    flow.layout.node = ""
    freeze_unused(flow, tensors)
    freeze_unread(flow, tensors)
    least = flow.routes.settle()
    for name, dim in flow.ids.comparisons().items():
        flow.aux[(name, "other")] = (dim,)
    result = _collect(flow, graph, tensors, unknown, least)
    return replace(result, options={"protect_outputs": protect_outputs, "experts": experts, "vocabulary": vocabulary})


def couple_again(graph: Graph, first: Coupling) -> Coupling:
    """Analyse another program of the same model, at other shapes, with the options and kept forwards of the first."""
    result = couple(graph, **first.options)
    return result if first.forward is None else result.under(first.forward)


def _step(flow: Flow, node: Node, tensors: Mapping[str, Dims], unknown: dict[str, str]) -> None:
    flow.layout.node = node.name
    if node.op == INPUT:
        results: Sequence[Sequence[Expr] | None] = flow.frozen_like(node, "input")
    elif node.op == TENSOR:
        results = [tensors[node.tensor]]
    else:
        member = RULES.find(base_name(node.op))
        if member is None:
            unknown.setdefault(base_name(node.op), flow.graph.where(node))
            results = _give_up(flow, node, f"no rule for {base_name(node.op)}")
        else:
            try:
                results = member(flow, node)
                _check_sizes(flow, node, results)
            except ConflictError:
                results = _give_up(flow, node, f"conflict in {base_name(node.op)}")
    for index, dims in enumerate(results):
        if dims is not None:
            flow.values[Ref(node.name, index)] = tuple(dims)
    if node.op not in (INPUT, TENSOR):
        flow.ids.pass_on(node, base_name(node.op))


def _give_up(flow: Flow, node: Node, reason: str) -> list[Dims | None]:
    for ref in refs_in(node.args):
        for expr in flow.values.get(ref, ()):
            flow.freeze(expr, reason)
        flow.ids.spoil(ref, reason)
    return flow.frozen_like(node, reason)


def _check_sizes(flow: Flow, node: Node, results: Sequence[Sequence[Expr] | None]) -> None:
    if len(results) < len(node.outputs):
        raise ConflictError(f"{node.op}: {len(results)} results for {len(node.outputs)}")
    for dims, meta in zip(results, node.outputs, strict=False):
        if meta is not None and dims is not None and tuple(flow.size(e) for e in dims) != meta.shape:
            raise ConflictError(f"{node.op}: sizes do not match {meta.shape}")


def _collect(
    flow: Flow, graph: Graph, tensors: Mapping[str, Dims], unknown: dict[str, str], least: Mapping[int, int]
) -> Coupling:
    norm, layout = flow.layout.norm, flow.layout
    dims = {name: tuple(norm(e) for e in d) for name, d in tensors.items()}
    members: dict[int, list[Member]] = {}
    frozen: list[FrozenDim] = []
    for name, exprs in dims.items():
        for dim, expr in enumerate(exprs):
            for atom in dict.fromkeys(atoms_of(expr)):
                why = layout.frozen[atom]
                if why is None:
                    members.setdefault(atom, []).append(Member(name, dim, expr))
                else:
                    frozen.append(FrozenDim(name, dim, why.reason, why.node, layout.sizes[atom]))
    axes: dict[str, Axis] = {}
    roles = first_roles(graph)
    for atom, places in members.items():
        if any(graph.tensors[m.tensor].kind == "parameter" for m in places):
            name = label(places, atom, roles, axes)
            axes[name] = Axis(name, atom, layout.sizes[atom], tuple(places), layout.statistic[atom], least.get(atom, 1))
    return Coupling(
        graph=graph,
        axes=axes,
        values={ref: tuple(norm(e) for e in d) for ref, d in flow.values.items()},
        tensors=dims,
        aux={key: tuple(norm(e) for e in d) for key, d in flow.aux.items()},
        frozen=tuple(frozen),
        unknown=unknown,
        sizes=tuple(layout.sizes),
        axis_of={axis.atom: name for name, axis in axes.items()},
        ids={
            graph.node(s).tensor or s: e for s, e in flow.ids.sources().items() if graph.node(s).op in (INPUT, TENSOR)
        },
    )
