"""Calibration samples without targets, for methods that measure levels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from prunus.analysis import Analysis
from prunus.data.batches import Batch, device_of
from prunus.data.programs import names_of
from prunus.repairs.samples import MOST, SampleGroup, sample_groups_of, samples_that_fit


@dataclass(frozen=True, slots=True, eq=False)
class Unlabelled:
    """Calibration samples as a data source of methods; all targets are zero."""

    groups: tuple[SampleGroup, ...]

    def __len__(self) -> int:
        return sum(group.count for group in self.groups)

    def batches(self, batch_size: int | None = None, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Yield (inputs, zeros) in the parts that the samples were divided into, in stored order."""
        return iter([(group.inputs, torch.zeros(group.count, dtype=torch.int64)) for group in self.groups])


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
        return Unlabelled(sample_groups_of(data, device_of(analysis.model), names=names, most=most))

    samples: Unlabelled = analysis.remember("unlabelled samples", divide)
    return samples
