"""Predicted time as a sum of products of axis sizes, so that a budget in milliseconds is solved like one in MACs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from prunus.budget.bounds import Bound
from prunus.budget.limits import FS_PER_MS
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Node, Ref, refs_in
from prunus.graph.layout import Expr, atoms_of
from prunus.measurement.price import CostModel, Term, cost_model, product_of, sizes_under
from prunus.progress import Progress
from prunus.timing.fit import fit_times
from prunus.timing.sampling import OpTimes, time_ops
from prunus.timing.table import kept_times

Kept = Mapping[str, int | np.ndarray]
Dims = tuple[Expr, ...]
SHARES = (0.75, 0.5, 0.25, 0.1)
DRAWN = 12


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Milliseconds of one forward call as a function of kept counts.

    ms(kept) = fixed + Σ coefficient · Π sizes; fixed holds what does not shrink: dispatch and the model's own Python.

    Attributes:
        coupling: what the sizes belong to.
        terms: (op, coefficient in ms, dims) of every product.
        fixed: ms.
        error: median relative error of the fit over the widths that were timed.
        measured: ms of the whole model, timed.
    """

    coupling: Coupling
    terms: tuple[tuple[str, float, Dims], ...]
    fixed: float
    error: float
    measured: float

    def ms(self, kept: Kept | None = None) -> float:
        """Return the predicted time when axis ``a`` keeps ``kept[a]`` units (a count or a bool mask)."""
        size = sizes_under(self.coupling, kept)
        return self.fixed + sum(c * product_of(dims, size) for _, c, dims in self.terms)

    def priced(self, cost: CostModel) -> CostModel:
        """Return a cost model that knows the time too, for budgets of ``latency_ms``."""
        times = tuple(Term(name, round(c * FS_PER_MS), dims) for name, c, dims in self.terms)
        return replace(cost, times=times, fixed_fs=round(self.fixed * FS_PER_MS))


def latency_model(
    model: nn.Module,
    coupling: Coupling,
    example_inputs: Any,
    *,
    multiple: int = 8,
    rounds: int = 7,
    threads: int | None = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> LatencyModel:
    """Time the model's ops at several widths on this machine and fit how they depend on the widths.

    Each op's time is fitted by non-negative least squares on its MACs, the elements that it reads and writes, and one.
    Times are kept in the user's cache for the next run on this machine.

    Args:
        model: untouched.
        coupling: its analysis.
        example_inputs: one call; its batch is the batch that is timed.
        multiple: widths are timed at multiples of this, as plans for a time budget will have them.
        rounds: timed runs of each set of widths.
        threads: intra-op threads while timing.
        seed: of the widths that are drawn.
        progress: told how far it is.

    Units: milliseconds.
    """
    keeps = [*(_even(coupling, share, multiple) for share in SHARES), *_drawn(coupling, multiple, seed)]

    def measure() -> OpTimes:
        return time_ops(model, coupling, example_inputs, keeps, rounds=rounds, threads=threads, progress=progress)

    found = kept_times(coupling, keeps, rounds, threads, measure)
    return _fitted(coupling, [{}, *keeps], found)


def _fitted(coupling: Coupling, keeps: Sequence[Kept], times: OpTimes) -> LatencyModel:
    sizes = [sizes_under(coupling, keep) for keep in keeps]
    macs: dict[str, list[Dims]] = {}
    for term in cost_model(coupling).macs:
        macs.setdefault(term.owner, []).append(term.dims)
    terms: list[tuple[str, float, Dims]] = []
    fixed = 0.0
    predicted = np.zeros(len(keeps))
    for column, name in enumerate(times.nodes):
        groups = [*([p] for p in macs.get(name, ())), *_traffic(coupling, coupling.graph.node(name))]
        amounts = np.array([[sum(product_of(p, size) for p in group) for group in groups] for size in sizes])
        weights, constant = fit_times(amounts.reshape(len(keeps), len(groups)), times.seconds[:, column])
        predicted += amounts.reshape(len(keeps), len(groups)) @ weights + constant
        fixed += constant
        for group, weight in zip(groups, weights, strict=True):
            for dims in group if weight > 0 else ():
                terms.append((name, float(weight) * 1e3, dims))
    whole = times.seconds.sum(axis=1)
    outside = max(0.0, times.model_seconds - float(whole[0]))
    error = float(np.median(np.abs(predicted - whole) / whole))
    return LatencyModel(coupling, tuple(terms), (fixed + outside) * 1e3, error, times.model_seconds * 1e3)


def _traffic(coupling: Coupling, node: Node) -> list[list[Dims]]:
    """Return the elements that an op reads, and those that it writes; what never shrinks is left out."""
    results = [Ref(node.name, i) for i, meta in enumerate(node.outputs) if meta is not None]
    groups = []
    for refs in (refs_in(node.args), results):
        found = [coupling.values[r] for r in refs if r in coupling.values]
        moving = [dims for dims in found if any(a in coupling.axis_of for e in dims for a in atoms_of(e))]
        groups += [moving] if moving else []
    return groups


def _even(coupling: Coupling, share: float, multiple: int) -> dict[str, np.ndarray]:
    return {a.id: _first(a.size, share * a.size, multiple) for a in coupling.axes.values()}


def _drawn(coupling: Coupling, multiple: int, seed: int) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(seed)
    return [
        {a.id: _first(a.size, generator.uniform(0.05, 1) * a.size, multiple) for a in coupling.axes.values()}
        for _ in range(DRAWN)
    ]


def widths_in_multiples(coupling: Coupling, axes: Iterable[str], multiple: int = 8) -> dict[str, Bound]:
    """Return bounds that keep wide axes at multiples of what the processor's registers hold; narrow ones are free."""
    sizes = {a: coupling.axis(a).size for a in axes}
    return {a: Bound(round_to=multiple) for a, size in sizes.items() if size >= 2 * multiple}


def _first(size: int, wanted: float, multiple: int) -> np.ndarray:
    count = max(1, round(wanted))
    if size >= 2 * multiple:
        count = max(multiple, round(wanted / multiple) * multiple)
    return np.arange(size) < min(count, size)
