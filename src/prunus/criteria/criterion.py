"""The role of a weight criterion, and the registry of its members."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from prunus.criteria.weight_statistics import Evidence
from prunus.foundation.registry import Registry


class Criterion(Protocol):
    """Map evidence to scores of the same names and shapes; higher = keep, the evidence is only read."""

    def __call__(self, evidence: Evidence, /) -> dict[str, Tensor]:
        """Score every weight of the evidence."""
        ...


CRITERIA: Registry[Criterion] = Registry("criterion", "prunus.weight_criteria", kind=Callable)
