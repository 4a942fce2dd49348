"""Levels of a captured model from data without labels: the measured choice of units where nobody is asked for more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prunus.criteria.programs import names_of
from prunus.graph.coupling import Coupling
from prunus.measurement.batches import Batch, device_of
from prunus.measurement.price import CostModel
from prunus.methods.level_scan import LEAST_SAMPLES, SHARES, WORK
from prunus.methods.obs_units import Levels, unit_levels
from prunus.methods.subject import Subject
from prunus.planning import cross_entropy
from prunus.repair.lanes import MOST, Lane, lanes_of
from prunus.repair.room import samples_that_fit


@dataclass(frozen=True, slots=True, eq=False)
class Unlabelled:
    """Calibration samples as methods read their data; the targets are zeros, for there are none."""

    lanes: tuple[Lane, ...]

    def __len__(self) -> int:
        return sum(lane.count for lane in self.lanes)

    def batches(self, batch_size: int | None = None, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Yield (inputs, zeros) in the parts that the samples were divided into, in stored order."""
        return iter([(lane.inputs, torch.zeros(lane.count, dtype=torch.int64)) for lane in self.lanes])


def levels_of_data(
    model: nn.Module, example_inputs: Any, coupling: Coupling, data: Iterable[Any], *, cost: CostModel, seed: int,
    held: Set[str],
) -> Levels:  # fmt: skip
    """Order the units of every axis by group OBS and measure what each level does to the outputs; see `unit_levels`.

    Args:
        model: as it was captured.
        example_inputs: one call of it.
        coupling: its analysis.
        data: batches of inputs, with or without targets; targets are not looked at.
        cost: prices the network.
        seed: of rows drawn.
        held: axes that may not be cut.

    Raises: DataError: no batches, NaN, or batches that do not go through the model.
    """
    most = min(MOST, samples_that_fit(coupling))
    lanes = lanes_of(data, device_of(model), names=names_of(model, coupling.graph), most=most)
    source = Unlabelled(lanes)
    return unit_levels(
        Subject(model, example_inputs, coupling, cost, source, source, cross_entropy, seed, frozenset(held))
    )


def affordable_levels(coupling: Coupling, cost: CostModel) -> bool:
    """Whether measuring all levels takes no longer than the minutes that a scan is given."""
    graph = coupling.graph
    batch = max(1, graph.node(graph.inputs[0]).shape[0]) if graph.inputs and graph.node(graph.inputs[0]).shape else 1
    sample = cost.price().macs_forward / batch
    return len(coupling.axes) * len(SHARES) * LEAST_SAMPLES * sample <= WORK


__all__ = ["Unlabelled", "affordable_levels", "levels_of_data"]
