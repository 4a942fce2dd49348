"""The Workload record and the registry of workloads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from prunus.registry import Registry
from prunus.training.options import TrainingOptions
from prunus.workloads.splits import Splits


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
    """

    name: str
    build: Callable[[int], nn.Module]
    load: Callable[[], Splits]
    example_inputs: Callable[[], tuple[Tensor, ...]]
    training: TrainingOptions
    recovery: TrainingOptions


WORKLOADS: Registry[Workload] = Registry("workload")
