"""Running sums per unit over the values of many batches."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prunus.criteria.places import dim_sums, unit_line
from prunus.errors import DataError
from prunus.graph.coupling import Axis, Coupling
from prunus.graph.ir import Ref
from prunus.graph.layout import atoms_of

Reads = Mapping[str, tuple[Ref, ...]]


class UnitSums:
    """Sums of a² and of (∂L/∂a)² per unit, and how many values went in; float64 on the CPU.

    Every call names the coupling of the graph that made the value: batches of other shapes have other graphs, but
    the same axis ids.
    """

    def __init__(self, coupling: Coupling) -> None:
        self.energy = _zeros(coupling)
        self.places = _zeros(coupling)
        self.slope = _zeros(coupling)
        self.samples = 0

    def add_energy(self, coupling: Coupling, reads: Reads, ref: Ref, value: Tensor) -> None:
        """Add the squares of one value to every axis that is read in it."""
        for axis in _axes_at(coupling, reads, ref):
            self.energy[axis.id] += _sums(coupling, axis, ref, value.detach().square())
            self.places[axis.id] += _sums(coupling, axis, ref, torch.ones_like(value))

    def add_slope(self, coupling: Coupling, reads: Reads, ref: Ref, grad: Tensor) -> None:
        """Add the squares of one value's gradient to every axis that is read in it."""
        for axis in _axes_at(coupling, reads, ref):
            self.slope[axis.id] += _sums(coupling, axis, ref, grad.square())

    def means(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return Σa² / places and Σ(∂L/∂a)² / samples.

        Raises:
            DataError: a mean is NaN or infinite; the axis is named.
        """
        energy = {name: total / self.places[name].clamp(min=1) for name, total in self.energy.items()}
        slope = {name: total / max(1, self.samples) for name, total in self.slope.items()}
        for name in energy:
            if not (torch.isfinite(energy[name]).all() and torch.isfinite(slope[name]).all()):
                raise DataError(
                    f"statistics of axis {name!r} are NaN or infinite; allowed are finite numbers. "
                    "Check the data and the weights."
                )
        return energy, slope


def _zeros(coupling: Coupling) -> dict[str, Tensor]:
    return {name: torch.zeros(axis.size, dtype=torch.float64) for name, axis in coupling.axes.items()}


def _axes_at(coupling: Coupling, reads: Reads, ref: Ref) -> list[Axis]:
    return [coupling.axes[name] for name, refs in reads.items() if ref in refs]


def _sums(coupling: Coupling, axis: Axis, ref: Ref, value: Tensor) -> Tensor:
    total = torch.zeros(axis.size, dtype=torch.float64)
    for dim, expr in enumerate(coupling.values[ref]):
        if axis.atom in atoms_of(expr):
            total += unit_line(coupling, axis, expr, dim_sums(value, dim))
    return total
