"""How alike two parts of a network are: cosines of units over their weights, linear CKA of values over data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from prunus.errors import DataError
from prunus.graph.coupling import Axis, Coupling

LEAST_SAMPLES = 4
"""The unbiased estimate of CKA divides by n − 3."""


def unit_gram(coupling: Coupling, axis: Axis, weights: Mapping[str, Tensor]) -> np.ndarray:
    """Return the inner products of the units of an axis over all their weights, those that read them included.

    G_uv = Σ_W ⟨W_u, W_v⟩ / (‖W‖² / units): every tensor counts alike. Vectors (norms, biases) stay out: they
    hold one number a unit, and of one sign mostly.

    Shapes: weights name → as in the model; → (units, units), float64.
    """
    gram = torch.zeros(axis.size, axis.size, dtype=torch.float64)
    for member in axis.members:
        weight = weights.get(member.tensor)
        if weight is None or weight.dim() < 2:
            continue
        lines = weight.movedim(member.dim, 0).flatten(1).double().cpu()
        scale = float(lines.square().sum()) / axis.size
        if scale <= 0:
            continue
        for where in coupling.positions(member.expr, axis):
            places = np.argsort(where, kind="stable")[int((where < 0).sum()) :]
            # Every unit stands at equally many places of an occurrence, now in order of unit.
            rows = lines[torch.from_numpy(places)].reshape(axis.size, -1)
            gram += rows @ rows.T / scale
    return gram.numpy()


def distinctness(gram: np.ndarray) -> np.ndarray:
    """Score units by how unlike they are to what stays: of the two most alike, the one of less norm goes first.

    s_u = 1 − max_{v still there} cos(u, v) at the moment at which u goes, never less than that of a unit gone before;
    the last one scores 2, as the opposite of everything would. A unit without weights is like any other: 0.

    Shapes: (units, units) → (units,), in [0, 2].
    """
    norms = np.sqrt(np.diag(gram))
    safe = np.where(norms > 0, norms, 1.0)
    cosines = np.where((norms > 0)[:, None] & (norms > 0), gram / np.outer(safe, safe), 1.0)
    np.fill_diagonal(cosines, -np.inf)
    scores, left, so_far = np.full(len(norms), 2.0), len(norms), 0.0
    nearest, best = cosines.argmax(1), cosines.max(1)
    while left > 1:
        first = int(best.argmax())
        second = int(nearest[first])
        goes = first if (norms[first], -first) < (norms[second], -second) else second
        so_far = max(so_far, float(np.clip(1 - best[first], 0.0, 2.0)))
        scores[goes] = so_far
        cosines[goes, :] = cosines[:, goes] = best[goes] = -np.inf
        stale = np.flatnonzero((nearest == goes) & (best > -np.inf))
        nearest[stale], best[stale] = cosines[stale].argmax(1), cosines[stale].max(1)
        left -= 1
    return scores


class Alignment:
    """Linear CKA between values of one network, summed up over batches.

    CKA(X, Y) = HSIC(X, Y) / √(HSIC(X, X)·HSIC(Y, Y)), with linear kernels and the unbiased estimate of HSIC, whose
    batch sums do not depend on the size of a batch. 1: equal up to rotation and scale; unrelated: about 0.
    Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", arXiv:1905.00414;
    Nguyen et al., "Do Wide and Deep Networks Learn the Same Things?", arXiv:2010.15327 (batches).
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], float] = {}
        self._energy: dict[str, float] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add a batch: name → values with the samples on dim 0; fewer than 4 samples say nothing and are left out."""
        kernels = {}
        for name, value in values.items():
            flat = value.flatten(1).double()
            self._energy[name] = self._energy.get(name, 0.0) + float(flat.square().sum())
            kernels[name] = (flat @ flat.T).fill_diagonal_(0)
        for first, one in kernels.items():
            for second, other in kernels.items():
                if first <= second and len(one) >= LEAST_SAMPLES:
                    self._sums[first, second] = self._sums.get((first, second), 0.0) + _hsic(one, other)

    def cka(self, first: str, second: str) -> float:
        """Return the alignment of two values; 0 where one of them is constant.

        Raises:
            DataError: no batch had 4 samples.
        """
        if not self._sums:
            raise DataError("no batch holds 4 samples, which CKA needs; give larger calibration batches.")
        pair = (first, second) if first <= second else (second, first)
        scale = self._sums[first, first] * self._sums[second, second]
        return self._sums[pair] / scale**0.5 if min(self._sums[first, first], self._sums[second, second]) > 0 else 0.0

    def energy(self, name: str) -> float:
        """Return Σ a² over everything that was added."""
        return self._energy[name]


def _hsic(one: Tensor, other: Tensor) -> float:
    """Return the unbiased HSIC of two kernels whose diagonals are zero."""
    n = len(one)
    trace = float((one * other).sum())
    means = float(one.sum()) * float(other.sum()) / ((n - 1) * (n - 2))
    cross = 2 * float(one.sum(0) @ other.sum(0)) / (n - 2)
    return (trace + means - cross) / (n * (n - 3))
