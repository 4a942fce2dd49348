"""Predicted time as a sum of products of axis sizes, so that a budget in milliseconds is solved like one in MACs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from prunus.budget.bounds import Bound
from prunus.budget.limits import FS_PER_MS
from prunus.cost.price import CostModel, Term, cost_model, product_of, sizes_under
from prunus.errors import PrunusError
from prunus.foundation.progress import Progress
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Node, Ref, refs_in
from prunus.graph.layout import Expr, atoms_of
from prunus.measurement.latency import latency_ratio
from prunus.measurement.timing.fit import fit_times
from prunus.measurement.timing.sampling import OpTimes, time_ops
from prunus.measurement.timing.table import kept_times
from prunus.plans import Plan, fingerprint
from prunus.surgery.cut import cut_with_record

Kept = Mapping[str, int | np.ndarray]
Dims = tuple[Expr, ...]
SHARES = (0.75, 0.5, 0.25, 0.1)
DRAWN = 12
_CUT = 4
"""The number of networks that are really cut and timed: the last of those with drawn widths."""


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Milliseconds of one forward call as a function of kept counts.

    ms(kept) = fixed + Σ coefficient · Π sizes; the empty product is an op's dispatch time, ``fixed`` that of
    the model's Python code.

    Attributes:
        coupling: defines the sizes.
        terms: (op, coefficient in ms, dims) of every product.
        fixed: ms.
        error: median relative error of the fit over the timed widths.
        measured: measured ms of the whole model.
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
        """Return a cost model with the time as a metric, for budgets of ``latency_ms``."""
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
    A few networks are really cut and timed against the model, because a program run op by op is not quite as fast as
    the model. The sum over the ops is scaled to be exact for the whole model and best for these. Times are stored in
    the user's cache for the next run on this machine.

    Args:
        model: untouched.
        coupling: its analysis.
        example_inputs: one call; its batch is the batch that is timed.
        multiple: widths are timed at multiples of this number, as in plans for a time budget.
        rounds: timed runs of each set of widths.
        threads: intra-op threads while timing.
        seed: of the widths that are drawn.
        progress: receives the rounds done.

    Units: milliseconds.
    """
    keeps = [*(_even(coupling, share, multiple) for share in SHARES), *_drawn(coupling, multiple, seed)]

    def measure() -> OpTimes:
        measured = time_ops(model, coupling, example_inputs, keeps, rounds=rounds, threads=threads, progress=progress)
        ratios = (_cut_ratio(model, coupling, keep, example_inputs, 2 * rounds, threads) for keep in keeps[-_CUT:])
        return replace(measured, cut_ratios=tuple(ratios))

    times = kept_times(coupling, keeps, rounds, threads, measure)
    return _stretched(_fitted(coupling, [{}, *keeps], times), keeps[-_CUT:], times.cut_ratios)


def _cut_ratio(
    model: nn.Module, coupling: Coupling, keep: dict[str, np.ndarray], inputs: Any, rounds: int, threads: int | None
) -> float:
    """Cut a network and time it against the model; return NaN where it cannot be cut."""
    keep = {axis: mask for axis, mask in keep.items() if not mask.all()}
    if not keep:
        return math.nan
    before, after = cost_model(coupling).price(), cost_model(coupling).price(keep)
    plan = Plan(fingerprint(coupling.graph), keep, coupling.tensor_masks(keep), before=before, after=after)
    try:
        small, _ = cut_with_record(model, coupling, plan, inputs)
    except PrunusError:
        return math.nan
    return latency_ratio(small, model, inputs, rounds=rounds, threads=threads).median


def _stretched(fitted: LatencyModel, keeps: Sequence[Kept], ratios: Sequence[float]) -> LatencyModel:
    """Return measured + s·(t − t_whole) with the s ≥ 0 of least squares over the cut networks.

    Terms that depend on widths are multiplied by s, the others by the factor that makes the whole model's time exact.
    """
    whole = fitted.ms()
    saved = [(whole - fitted.ms(keep), (1 - r) * fitted.measured) for keep, r in zip(keeps, ratios, strict=False)]
    usable = [(predicted, true) for predicted, true in saved if math.isfinite(true) and predicted > 0]
    stretch = sum(a * b for a, b in usable) / sum(a * a for a, _ in usable) if usable else 1.0
    constant = fitted.fixed + sum(weight for _, weight, dims in fitted.terms if not dims)
    if stretch <= 0 or constant <= 0:
        return fitted
    rest = max(0.0, fitted.measured - stretch * (whole - constant)) / constant
    terms = tuple((name, weight * (stretch if dims else rest), dims) for name, weight, dims in fitted.terms)
    return replace(fitted, terms=terms, fixed=fitted.fixed * rest)


def _fitted(coupling: Coupling, keeps: Sequence[Kept], times: OpTimes) -> LatencyModel:
    sizes = [sizes_under(coupling, keep) for keep in keeps]
    macs: dict[str, list[Dims]] = {}
    for term in cost_model(coupling).macs:
        macs.setdefault(term.owner, []).append(term.dims)
    terms: list[tuple[str, float, Dims]] = []
    predicted = np.zeros(len(keeps))
    for column, name in enumerate(times.nodes):
        groups = [*([p] for p in macs.get(name, ())), *_traffic(coupling, coupling.graph.node(name))]
        amounts = np.array([[sum(product_of(p, size) for p in group) for group in groups] for size in sizes])
        weights, constant = fit_times(amounts.reshape(len(keeps), len(groups)), times.seconds[:, column])
        predicted += amounts.reshape(len(keeps), len(groups)) @ weights + constant
        if constant > 0:
            # The constant is saved only when the op is dropped with its branch.
            terms.append((name, float(constant) * 1e3, ()))
        for group, weight in zip(groups, weights, strict=True):
            for dims in group if weight > 0 else ():
                terms.append((name, float(weight) * 1e3, dims))
    whole = times.seconds.sum(axis=1)
    outside = max(0.0, times.model_seconds - float(whole[0]))
    error = float(np.median(np.abs(predicted - whole) / whole))
    return LatencyModel(coupling, tuple(terms), outside * 1e3, error, times.model_seconds * 1e3)


def _traffic(coupling: Coupling, node: Node) -> list[list[Dims]]:
    """Return the elements that an op reads, and those that it writes, without values of fixed size."""
    results = [Ref(node.name, i) for i, meta in enumerate(node.outputs) if meta is not None]
    groups = []
    for refs in (refs_in(node.args), results):
        values = [coupling.values[r] for r in refs if r in coupling.values]
        moving = [dims for dims in values if any(a in coupling.axis_of for e in dims for a in atoms_of(e))]
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
    """Return bounds that keep wide axes at multiples of the processor's vector width; narrow axes are free."""
    sizes = {a: coupling.axis(a).size for a in axes}
    return {a: Bound(round_to=multiple) for a, size in sizes.items() if size >= 2 * multiple}


def _first(size: int, target: float, multiple: int) -> np.ndarray:
    count = max(1, round(target))
    if size >= 2 * multiple:
        count = max(multiple, round(target / multiple) * multiple)
    return np.arange(size) < min(count, size)
