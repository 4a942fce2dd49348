"""Similarity of parts of a network: cosines of units over their weights, linear CKA of values over data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from prunus.criteria.redundancy import distinctness
from prunus.errors import DataError
from prunus.graph.axis import Axis
from prunus.graph.coupling import Coupling

__all__ = ["Alignment", "distinctness", "unit_gram"]

LEAST_SAMPLES = 4
"""The unbiased estimate of CKA divides by n − 3."""


def unit_gram(coupling: Coupling, axis: Axis, weights: Mapping[str, Tensor]) -> np.ndarray:
    """Return the inner products of the units of an axis over all their weights, those that read them included.

    G_uv = Σ_W ⟨W_u, W_v⟩ / (‖W‖² / units): every tensor has the same weight. Vectors (norms, biases) are left out: they
    have one number a unit, mostly of one sign.

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
            # Every unit has equally many positions in an occurrence, now in order of unit.
            rows = lines[torch.from_numpy(places)].reshape(axis.size, -1)
            gram += rows @ rows.T / scale
    return gram.numpy()


class Alignment:
    """Linear CKA between values of one network, summed over batches.

    CKA(X, Y) = HSIC(X, Y) / √(HSIC(X, X)·HSIC(Y, Y)), with linear kernels and the unbiased estimate of HSIC, whose
    batch sums do not depend on the size of a batch. 1: equal up to rotation and scale; unrelated: about 0.
    Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", arXiv:1905.00414;
    Nguyen et al., "Do Wide and Deep Networks Learn the Same Things?", arXiv:2010.15327 (batches).
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], float] = {}
        self._energy: dict[str, float] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add a batch: name → values with the samples on dim 0; batches of fewer than 4 samples are ignored."""
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
        """Return Σ a² over all added batches."""
        return self._energy[name]


def _hsic(one: Tensor, other: Tensor) -> float:
    """Return the unbiased HSIC of two kernels whose diagonals are zero."""
    n = len(one)
    trace = float((one * other).sum())
    means = float(one.sum()) * float(other.sum()) / ((n - 1) * (n - 2))
    cross = 2 * float(one.sum(0) @ other.sum(0)) / (n - 2)
    return (trace + means - cross) / (n * (n - 3))
