"""Running sums per unit over the values of many batches."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prunus.criteria.producers_consumers import dim_sums, unit_line
from prunus.errors import DataError
from prunus.graph.axis import Axis
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Ref
from prunus.graph.layout import atoms_of

Reads = Mapping[str, tuple[Ref, ...]]


class UnitSums:
    """Sums of a², |a|, a ≠ 0 and of (∂L/∂a)² per unit, and the number of summed values; float64 on the CPU.

    Every call passes the coupling of the graph that computed the value: batches of other shapes have other graphs, but
    the same axis ids.
    """

    def __init__(self, coupling: Coupling) -> None:
        self.energy = _zeros(coupling)
        self.size = _zeros(coupling)
        self.active = _zeros(coupling)
        self.places = _zeros(coupling)
        self.slope = _zeros(coupling)
        self.samples = 0

    def add_energy(self, coupling: Coupling, reads: Reads, ref: Ref, value: Tensor) -> None:
        """Add the squares, sizes and non-zeros of one value to every axis that is read in it."""
        detached = value.detach()
        size = detached.abs()
        parts = (self.energy, detached.square()), (self.size, size), (self.active, size > 0)
        for axis in _axes_at(coupling, reads, ref):
            for total, part in parts:
                total[axis.id] += _sums(coupling, axis, ref, part)
            self.places[axis.id] += _sums(coupling, axis, ref, torch.ones_like(size))

    def add_slope(self, coupling: Coupling, reads: Reads, ref: Ref, grad: Tensor) -> None:
        """Add the squares of one value's gradient to every axis that is read in it."""
        for axis in _axes_at(coupling, reads, ref):
            self.slope[axis.id] += _sums(coupling, axis, ref, grad.square())

    def means(self) -> dict[str, dict[str, Tensor]]:
        """Return Σa² / places, Σ|a| / places, the share of a ≠ 0, and Σ(∂L/∂a)² / samples.

        Raises:
            DataError: a mean is NaN or infinite; the axis is named.
        """
        read = {"contribution": self.energy, "mean_abs": self.size, "active": self.active}
        means = {
            name: {axis: total / self.places[axis].clamp(min=1) for axis, total in totals.items()}
            for name, totals in read.items()
        }
        means["sensitivity"] = {axis: total / max(1, self.samples) for axis, total in self.slope.items()}
        for values in means.values():
            check_statistics(values)
        return means


def check_statistics(values: Mapping[str, Tensor]) -> None:
    """Refuse statistics of an axis that are not finite.

    Raises:
        DataError: one is NaN or infinite; the axis is named.
    """
    for name, value in values.items():
        if not torch.isfinite(value).all():
            raise DataError(
                f"statistics of axis {name!r} are NaN or infinite; allowed are finite numbers. "
                "Check the data and the weights."
            )


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
