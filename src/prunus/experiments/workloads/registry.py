"""The Workload record and the registry of workloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from prunus.data.batches import DataSource
from prunus.data.splits import Splits
from prunus.foundation.registry import Registry
from prunus.training.options import TrainingOptions


@dataclass(frozen=True, slots=True)
class Workload:
    """A model and the data it learns, with training that works.

    Attributes:
        name: What recipes call it.
        build: seed → a fresh, untrained model; the seed alone decides its weights.
        load: () → the splits; the same in every run, whatever the seed.
        example_inputs: () → the positional arguments of one call of the model.
        training: From fresh to trained.
        recovery: The short training after a prune.
        data_key: () → a text that changes with the data; what was trained on other data is not used again.
        shifts: Name → what loads test data that differ from the training data in one way.
    """

    name: str
    build: Callable[[int], nn.Module]
    load: Callable[[], Splits]
    example_inputs: Callable[[], tuple[Tensor, ...]]
    training: TrainingOptions
    recovery: TrainingOptions
    data_key: Callable[[], str] = str
    shifts: Mapping[str, Callable[[], DataSource]] = field(default_factory=dict)


WORKLOADS: Registry[Workload] = Registry("workload")
