"""An analysis with the calibration and selection data, the loss and the held axes that a test wants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from prunus.analysis import Analysis, analyse
from prunus.data.batches import DataSource
from prunus.data.splits import Splits
from prunus.methods import METHODS
from prunus.plans import Plan


def analysis_of(
    model: nn.Module,
    example_inputs: Any,
    calibration: DataSource,
    selection: DataSource,
    *,
    loss: Any = "cross_entropy",
    seed: int = 0,
    held: frozenset[str] = frozenset(),
    forward: str = "keep",
    **changes: Any,
) -> Analysis:
    """Analyse a model with data of its own for scores and for choices."""
    data = Splits(calibration, calibration, selection, selection)
    found = analyse(model, example_inputs, data=data, loss=loss, seed=seed, forward=forward)
    return replace(found, held=held, **changes)


def planned_by(name: str, analysis: Analysis, kept: float) -> Plan:
    """Return the plan of a method for a kept share of the analysis's metric."""
    return METHODS.get(name).plan(analysis, analysis.limits(kept))
