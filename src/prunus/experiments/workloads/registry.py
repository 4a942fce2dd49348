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
    """A model with its data and with suitable training options.

    Attributes:
        name: Its name in recipes.
        build: seed → a new, untrained model; its weights depend on the seed alone.
        load: () → the splits; the same in every run, whatever the seed.
        example_inputs: () → the positional arguments of one call of the model.
        training: The options of the first training.
        recovery: The options of the short training after pruning.
        data_key: () → a text that changes with the data; models trained on other data are not reused.
        shifts: Name → function that loads test data that differ from the training data in one respect.
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
