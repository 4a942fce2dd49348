"""Merging: the inputs of a layer that stay take over the least-squares share of those that go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from prunus.analysis import Analysis
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Ref
from prunus.methods.levels_from_data import unlabelled
from prunus.methods.masked_run import Replay
from prunus.methods.reduction import tensors_of
from prunus.plans import Plan
from prunus.repairs import Site
from prunus.repairs.find_sites import find_sites
from prunus.substitutes import Merge
from prunus.surgery.merging import kept_weights, positions_of

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Ridges of the least squares over all survivors, in units of the mean variance of an input."""
ROWS = 2**14
"""Most rows of one layer that a batch adds to its moments."""
PART = 4
"""One sample in this number judges the shares; the others fit them."""
ALIKE = 0.5
"""Least correlation, in absolute value, of two inputs whose connections are merged."""


@dataclass(slots=True)
class Sums:
    """Sums over rows of the inputs of a layer: n, Σa and Σaaᵀ, in float64."""

    count: int
    total: Tensor
    square: Tensor

    @staticmethod
    def empty(inputs: int) -> Sums:
        """Return sums over no rows."""
        return Sums(0, torch.zeros(inputs, dtype=torch.float64), torch.zeros(inputs, inputs, dtype=torch.float64))

    def add(self, rows: Tensor) -> None:
        """Add rows. Shapes: rows (n, inputs)."""
        self.count += len(rows)
        self.total += rows.sum(0)
        self.square += rows.T @ rows

    @property
    def mean(self) -> Tensor:
        """E[a]."""
        return self.total / max(1, self.count)

    @property
    def second(self) -> Tensor:
        """E[aaᵀ]."""
        return self.square / max(1, self.count)

    def moment(self, centred: bool) -> Tensor:
        """Return the covariance, or E[aaᵀ]."""
        return self.second - torch.outer(self.mean, self.mean) if centred else self.second


@dataclass(frozen=True, slots=True)
class Inputs:
    """A layer that reads inputs, with their moments.

    Attributes:
        site: the layer.
        inputs: position of the weight's input dim → number of the input.
        fit, judge: moments over the rows that fit shares, and over those that judge them.
    """

    site: Site
    inputs: np.ndarray
    fit: Sums
    judge: Sums

    @property
    def dim(self) -> int:
        """The dim of the weight on which the inputs lie."""
        return _input_dim(self.site)


@dataclass(frozen=True, slots=True)
class Shares:
    """T and m of a `Merge`, in full: (inputs, inputs) and (inputs,); the mean is None where the bias stays."""

    table: Tensor
    mean: Tensor | None


def merged(analysis: Analysis, plan: Plan) -> Plan:
    """Return a plan in which the inputs of layers that stay take over the share of those that go.

    For a layer that reads units u that go and units s that stay: β = argmin E(a_u − Σ_s β_us a_s − c_u)², then
    W_:,s += W_:,u β_us and b += W_:,u c_u, where the layer has a bias. Three fits compete on samples that none of them
    saw, by the error of the layer's outputs: the mean alone, the nearest survivor alone, and ridge regression on all
    survivors; where none is better than dropping, nothing is taken over. For masked weights, inputs are paired by their
    correlation, and w_os += β w_ou in every row that loses u and keeps s, with β = Cov[a_u, a_s] / Var[a_s].

    Source: Srinivas & Babu, "Data-free Parameter Pruning for Deep Neural Networks", arXiv:1507.06149 (a removed unit's
    weights added to those of its twin); Mariet & Sra, "Diversity Networks", arXiv:1511.05077 (least squares over all
    that stay).

    Args:
        analysis: the network and its data; labels are not read.
        plan: a plan that removes units or masks weights.
    """
    sites = dict(_losing(analysis.coupling, plan))
    tensors = tensors_of(analysis)
    merges, lines = list[Merge](), list[str]()
    for layer in measured_inputs(analysis, sites):
        weight = tensors[layer.site.tensor].cpu().double()
        kept = kept_weights(plan, layer.site.tensor, layer.dim, weight)
        best, before, after = _best(layer, weight, kept)
        if best is not None:
            merges.append(_merge(layer, best, kept))
            lines.append(f"{layer.site.tensor}: error of the outputs {before:.3g} → {after:.3g}")
    settings = {**plan.settings, "merged": lines}
    return replace(plan, merges=tuple(merges), settings=settings)


def dense_sites(coupling: Coupling, tensors: Iterable[str]) -> dict[Site, np.ndarray]:
    """Return the layers of some weights, every position an input: linear layers and convolutions without groups.

    A layer whose weight another layer reads too is left out.
    """
    names = set(tensors)
    found = (s for s in find_sites(coupling.graph).values() if isinstance(s, Site) and s.tensor in names)
    plain = (site for site in found if site.groups == 1 and not site.others)
    return {site: np.arange(site.shape[_input_dim(site)], dtype=np.int32) for site in plain}


def _losing(coupling: Coupling, plan: Plan) -> Iterator[tuple[Site, np.ndarray]]:
    """Yield the layers that lose inputs, or weights of their own, with the number of the input at each position."""
    for site, positions in dense_sites(coupling, {*plan.keep, *plan.masks}).items():
        dim = _input_dim(site)
        removed = plan.keep.get(site.tensor, {}).get(dim)
        if removed is not None:
            if len(removed):
                yield site, _inputs(coupling, plan, site, dim)
        elif site.tensor in plan.masks and not plan.masks[site.tensor].all():
            yield site, positions


def _input_dim(site: Site) -> int:
    return 0 if site.turned or site.kind == "transposed" else 1


def _inputs(coupling: Coupling, plan: Plan, site: Site, dim: int) -> np.ndarray:
    """Return the number of the input at each position of a weight's dim: its unit, where one axis alone goes."""
    expr = coupling.tensors[site.tensor][dim]
    touched = [
        a for a in plan.axes if not plan.axes[a].all() and any(True for _ in coupling.positions(expr, coupling.axes[a]))
    ]
    line = np.full(site.shape[dim], -1, np.int32)
    if len(touched) == 1:
        for where in coupling.positions(expr, coupling.axes[touched[0]]):
            line = np.where(where >= 0, where, line).astype(np.int32)
    counts = np.bincount(line[line >= 0], minlength=1)
    # Where several axes lose units, or the axis is part of the dim only, every position is an input of its own.
    return line if (line >= 0).all() and (counts == counts[0]).all() else np.arange(len(line), dtype=np.int32)


def measured_inputs(analysis: Analysis, sites: Mapping[Site, np.ndarray]) -> list[Inputs]:
    """Return the moments of the inputs of layers over the calibration data, in the dense network.

    Args:
        analysis: the network and its data.
        sites: layer → number of the input at each position.
    """
    layers = [Inputs(s, i, Sums.empty(int(i.max()) + 1), Sums.empty(int(i.max()) + 1)) for s, i in sites.items()]
    refs = {layer.site.reads for layer in layers}
    if not refs:
        return []
    for values in Replay(analysis).values(unlabelled(analysis), refs):
        for layer in layers:
            _add(layer, values)
    return layers


def _add(layer: Inputs, values: Mapping[Ref, Tensor]) -> None:
    value = values[layer.site.reads].detach().cpu()
    rows = value.movedim(1, -1) if layer.site.kind != "linear" else value
    rows = rows.reshape(len(rows), -1, rows.shape[-1]) if rows.dim() > 1 else rows.reshape(1, 1, -1)
    places = positions_of(layer.inputs)
    for part, sums in ((rows[PART - 1 :: PART], layer.judge), (_others(rows), layer.fit)):
        flat = part.reshape(-1, part.shape[-1])
        flat = flat[:: max(1, len(flat) // ROWS)].double()
        sums.add(flat[:, places].movedim(1, 2).reshape(-1, len(places)))


def _others(rows: Tensor) -> Tensor:
    """Return the samples that fit: all but every fourth."""
    return rows[torch.arange(len(rows)) % PART != PART - 1]


def _best(layer: Inputs, weight: Tensor, kept: Tensor) -> tuple[Shares | None, float, float]:
    """Return the shares of least error on the rows that judge; None where dropping is as good."""
    if layer.fit.count == 0 or layer.judge.count == 0:
        return None, 0.0, 0.0
    lines = kept.movedim(layer.dim, 0).flatten(1)[positions_of(layer.inputs)].flatten(1)
    whole = bool((lines.all(1) | ~lines.any(1)).all())
    candidates = _of_units(layer, lines.any(1)) if whole else _of_connections(layer)
    nothing = Shares(torch.zeros(len(lines), len(lines), dtype=torch.float64), None)
    before = after = _error(layer, weight, kept, nothing)
    best = None
    for shares in candidates:
        error = _error(layer, weight, kept, shares)
        if error < after:
            best, after = shares, error
    return best, before, after


def _of_units(layer: Inputs, stays: Tensor) -> Iterator[Shares]:
    """Yield fits of the inputs that go on those that stay: the mean, the nearest survivor, ridge regression on all."""
    centred = bool(layer.site.bias)
    moment = layer.fit.moment(centred)
    gone, left = torch.nonzero(~stays).flatten(), torch.nonzero(stays).flatten()
    own, cross = moment[left][:, left], moment[left][:, gone]
    if centred:
        yield _shares(layer, gone, left, torch.zeros_like(cross))
    power = own.diagonal().clamp_min(1e-30)
    nearest = (cross.square() / power.unsqueeze(1)).argmax(0)
    alone = torch.zeros_like(cross)
    columns = torch.arange(len(gone))
    alone[nearest, columns] = cross[nearest, columns] / power[nearest]
    yield _shares(layer, gone, left, alone)
    scale = float(power.mean())
    for ridge in RIDGES:
        yield _shares(layer, gone, left, torch.linalg.solve(own + ridge * scale * torch.eye(len(own)).double(), cross))


def _shares(layer: Inputs, gone: Tensor, left: Tensor, solution: Tensor) -> Shares:
    """Return the full table of a solution. Shapes: solution (left, gone)."""
    table = torch.zeros_like(layer.fit.square)
    table[gone.unsqueeze(1), left.unsqueeze(0)] = solution.T
    return Shares(table, layer.fit.mean if layer.site.bias else None)


def _of_connections(layer: Inputs) -> Iterator[Shares]:
    """Yield the shares between paired inputs, each with the other: β_us = E[a_u a_s] / E[a_s²]."""
    mean = layer.fit.mean if layer.site.bias else None
    moment = layer.fit.moment(mean is not None)
    table = torch.zeros_like(moment)
    if mean is not None:
        yield Shares(table.clone(), mean)
    for one, other in paired_inputs(moment):
        table[one, other] = moment[one, other] / moment[other, other]
        table[other, one] = moment[one, other] / moment[one, one]
    yield Shares(table, mean)


def paired_inputs(moment: Tensor) -> list[tuple[int, int]]:
    """Return disjoint pairs of inputs, the most correlated first, none below `ALIKE`. Shapes: moment (D, D)."""
    power = moment.diagonal().clamp_min(0).sqrt()
    scale = torch.outer(power, power)
    alike = torch.where(scale > 0, moment / scale.clamp_min(1e-30), torch.zeros_like(moment)).abs().triu(1)
    places = torch.nonzero(alike >= ALIKE)
    order = torch.argsort(alike[places[:, 0], places[:, 1]], descending=True, stable=True)
    taken, pairs = set[int](), list[tuple[int, int]]()
    for one, other in places[order].tolist():
        if one not in taken and other not in taken:
            taken |= {one, other}
            pairs.append((one, other))
    return pairs


def _error(layer: Inputs, weight: Tensor, kept: Tensor, shares: Shares) -> float:
    """Return the error of the layer's outputs over the rows that judge, relative to their second moment.

    The kernel positions of a convolution count one by one: the error is Σ_k E|D_k a + d|² with D the change of the
    weight at kernel position k and d that of the bias, spread over the positions.
    """
    places = positions_of(layer.inputs)
    dense = weight.movedim(layer.dim, -1)[..., places]
    mask = kept.movedim(layer.dim, -1)[..., places]
    removed = dense * ~mask
    taken = torch.einsum("...up,us->...sp", removed, shares.table) * mask
    change = (taken - removed).movedim(-1, -2).reshape(-1, len(places))
    second, mean = layer.judge.second, layer.judge.mean
    shift = torch.zeros(len(change), dtype=torch.float64) if shares.mean is None else -change @ shares.mean
    error = torch.einsum("ru,uv,rv->", change, second, change) + 2 * (change @ mean) @ shift + shift @ shift
    rows = dense.movedim(-1, -2).reshape(-1, len(places))
    whole = torch.einsum("ru,uv,rv->", rows, second, rows)
    return float(error) / max(float(whole), 1e-30)


def _merge(layer: Inputs, shares: Shares, kept: Tensor) -> Merge:
    places = torch.nonzero(shares.table)
    at = shares.table[places[:, 0], places[:, 1]]
    mean = np.zeros(0, np.float32) if shares.mean is None else shares.mean.numpy().astype(np.float32)
    return Merge(
        tensor=layer.site.tensor,
        dim=layer.dim,
        bias=layer.site.bias if len(mean) else "",
        inputs=np.ascontiguousarray(layer.inputs, dtype=np.int32),
        removed=places[:, 0].numpy().astype(np.int32),
        kept=places[:, 1].numpy().astype(np.int32),
        share=at.numpy().astype(np.float32),
        mean=mean,
    )
