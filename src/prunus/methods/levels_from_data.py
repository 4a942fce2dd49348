"""Calibration samples without targets, for methods that measure levels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from prunus.analysis import Analysis
from prunus.data.batches import Batch, device_of
from prunus.data.programs import names_of
from prunus.repairs.memory_fit import samples_that_fit
from prunus.repairs.samples import MOST, Lane, lanes_of


@dataclass(frozen=True, slots=True, eq=False)
class Unlabelled:
    """Calibration samples as a data source of methods; all targets are zero."""

    lanes: tuple[Lane, ...]

    def __len__(self) -> int:
        return sum(lane.count for lane in self.lanes)

    def batches(self, batch_size: int | None = None, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Yield (inputs, zeros) in the stored batches and their order; both arguments are ignored."""
        return iter(
            [(sample_group.inputs, torch.zeros(sample_group.count, dtype=torch.int64)) for sample_group in self.lanes]
        )


def unlabelled(analysis: Analysis) -> Unlabelled:
    """Return as many calibration samples as fit in memory, without their targets; divided once for an analysis.

    Raises:
        OptionError: there are no data.
        DataError: no batches, NaN, or batches that do not go through the model.
    """

    def divide() -> Unlabelled:
        most = min(MOST, samples_that_fit(analysis.coupling))
        given = analysis.given.data if analysis.given is not None and analysis.given.splits is None else None
        data = analysis.calibration if given is None else given
        names = names_of(analysis.model, analysis.coupling.graph)
        return Unlabelled(lanes_of(data, device_of(analysis.model), names=names, most=most))

    samples: Unlabelled = analysis.remember("unlabelled samples", divide)
    return samples


__all__ = ["Unlabelled", "unlabelled"]
