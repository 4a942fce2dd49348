"""The moments of the inputs of every layer of the dense network, and the unit that feeds each input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.analysis import Analysis
from prunus.foundation.free_memory import default_memory
from prunus.graph.axis import Axis
from prunus.graph.coupling import Coupling
from prunus.graph.ir import refs_in
from prunus.graph.recorder import named_tensors
from prunus.graph.rules.context import base_name
from prunus.methods.levels_from_data import unlabelled
from prunus.repairs import Moments, Site, see_layers
from prunus.repairs.moments import FewRows
from prunus.repairs.room import holds_pairs
from prunus.solvers import Consumer, WideConsumer, refit
from prunus.solvers.nested import nested_refits
from prunus.solvers.problem import DAMPING


@dataclass(frozen=True, slots=True)
class Seen:
    """A layer with the moments of its inputs, in the dense network.

    Attributes:
        site: the layer in the program.
        moments: moments of its inputs and outputs.
        shifts: a constant error of its outputs can be corrected: it has a bias, or a batch norm follows.
    """

    site: Site
    moments: Moments
    shifts: bool

    def centred(self) -> Tensor:
        """Return the moment of the layer problem, the covariance if `shifts`. Shapes: → (G, D, D)."""
        return self.moments.covariance() if self.shifts else self.moments.second


@dataclass(frozen=True, slots=True)
class Reader:
    """A layer that reads an axis: one layer problem for each of its groups.

    Attributes:
        seen: the layer.
        consumers: the problems that order units; for a layer that is too wide, those of one scale a unit.
        wide: the problems of a layer that is too wide for matrices over pairs of its inputs; else empty.
    """

    seen: Seen
    consumers: tuple[Consumer, ...]
    wide: tuple[WideConsumer, ...] = ()

    @property
    def weights(self) -> list[Tensor]:
        """The dense weight of every group. Shapes: each (O, D)."""
        return [problem.weight for problem in self.wide or self.consumers]

    def refitted(self, kept: Tensor) -> list[Tensor]:
        """Return the best weights of every group when these units stay. Shapes: kept (units,), bool."""
        if self.wide:
            return [problem.refit(kept) for problem in self.wide]
        return [refit(c.weight, c.moment, c.kept_inputs(kept), damping=DAMPING) for c in self.consumers]

    def levels(self, order: Tensor, counts: Sequence[int]) -> list[dict[int, Tensor]]:
        """Return the best weights of every group at each number of kept units, removed in the given order."""
        if self.wide:
            return [problem.refits(order, len(order), counts) for problem in self.wide]
        return [nested_refits(c, order, len(order), counts) for c in self.consumers]


def seen_inputs(analysis: Analysis) -> dict[str, Seen]:
    """Return node name → layer, in the order of the program; measured once for an analysis."""

    def measure() -> dict[str, Seen]:
        graph = analysis.coupling.graph
        normed = {r.node for n in graph.nodes if base_name(n.op) == "batch_norm" for r in refs_in(n.args)}
        found: dict[str, Seen] = {}

        def note(site: Site, moments: Moments) -> None:
            found[site.node] = Seen(site, moments, bool(site.bias) or site.node in normed)

        see_layers(analysis.model, analysis.coupling, unlabelled(analysis), note, seed=analysis.seed)
        return found

    layers: dict[str, Seen] = analysis.remember("seen inputs", measure)
    return layers


def readers_of(analysis: Analysis, axis: Axis, outputs: Mapping[str, Tensor] | None = None) -> list[Reader]:
    """Return the layers that read the units of an axis.

    A layer reads an axis if the axis is on the input dim of its weight; a depthwise convolution does not, it loses its
    filters with the units. Errors are relative to the variance of the layer's output, unless ``outputs`` gives
    weights.

    Args:
        analysis: the network and its data.
        axis: the axis of the units.
        outputs: node name → S of `prunus.methods.output_fisher`.
    """
    weights = named_tensors(analysis.model)
    readers = []
    for node, seen in seen_inputs(analysis).items():
        unit = units_of_inputs(analysis.coupling, axis, seen.site)
        if unit is None:
            continue
        matrix = seen.site.matrix(weights[seen.site.tensor].detach().cpu().double())
        counts = None if outputs is None else outputs.get(node)
        scale = 1.0 if counts is not None else 1.0 / max(float(seen.moments.target_variance().sum()), 1e-30)
        size = matrix.shape[1]
        output = [None if counts is None else _block(counts, g, size) for g in range(len(matrix))]
        if isinstance(seen.moments, FewRows) and not holds_pairs(matrix.shape[2], len(matrix), default_memory()):
            rows, mean = seen.moments.inputs.cpu(), seen.moments.mean.cpu()
            mean = mean if seen.shifts else torch.zeros_like(mean)
            wide = [WideConsumer(m, rows[g], mean[g], unit, output[g], scale) for g, m in enumerate(matrix)]
            readers.append(Reader(seen, tuple(own.scales() for own in wide), tuple(wide)))
            continue
        moment = seen.centred().cpu()
        consumers = [Consumer(m, moment[g], unit, output[g], scale) for g, m in enumerate(matrix)]
        readers.append(Reader(seen, tuple(consumers)))
    return readers


def units_of_inputs(coupling: Coupling, axis: Axis, site: Site) -> Tensor | None:
    """Return the unit of an axis that feeds each input of a layer's matrix, −1 for none; None if it reads no unit.

    Shapes: → (D,), int64, kernel positions last.
    """
    expr = coupling.tensors[site.tensor][0 if site.turned else 1]
    unit: Tensor | None = None
    for where in coupling.positions(expr, axis):
        line = torch.from_numpy(where)
        unit = line if unit is None else torch.where(line >= 0, line, unit)
    return None if unit is None or not bool((unit >= 0).any()) else unit.repeat_interleave(site.positions)


def _block(matrix: Tensor, group: int, size: int) -> Tensor:
    return matrix[group * size : (group + 1) * size, group * size : (group + 1) * size].cpu().double()
