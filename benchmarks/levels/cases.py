"""Trained networks of four modalities with their analysis: the start of every row."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from prunus.training import TrainingOptions

Row = dict[str, Any]
STEPS = 60
"""The training steps that every row gets: after the cut, or during a training that prunes."""
NETS = {
    "digits": "image",
    "speech/cnn": "speech",
    "text/transformer": "text",
    "recommendation/deepfm": "recommendation",
}
BATCH = 256


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A trained network of one seed, with the four splits of its task and its analysis on the calibration split."""

    net: str
    seed: int
    model: nn.Module
    data: Any
    analysis: Any
    recovery: TrainingOptions
    training_seconds: float

    def scored(self, model: nn.Module) -> Row:
        """Return accuracy and cross-entropy on the selection split, which chooses, and on the test split."""
        from prunus.measurement.quality import evaluate

        model.eval()
        chosen = evaluate(model, self.data.selection.batches(BATCH), self.data.classes)
        reported = evaluate(model, self.data.test.batches(BATCH), self.data.classes)
        return {
            "selection": chosen.accuracy,
            "selection_nll": chosen.nll,
            "accuracy": reported.accuracy,
            "nll": reported.nll,
        }


@functools.lru_cache(maxsize=1)
def case_of(net: str, seed: int) -> Case:
    """Train a built-in network, or take it from the cache, and analyse it."""
    from prunus.analysis import analyse
    from prunus.experiments.workloads import WORKLOADS, train_workload

    work = WORKLOADS.get(net)
    data, trained = work.load(), train_workload(net, seed)
    model = trained.model.eval()
    analysis = analyse(model, work.example_inputs(), data=data, seed=seed)
    recovery = replace(work.recovery, steps=STEPS)
    return Case(net, seed, model, data, analysis, recovery, trained.record.seconds)


def dense(net: str, seed: int) -> Row:
    """Score the dense network; ``training_seconds`` is what its training took, then or earlier."""
    case = case_of(net, seed)
    return {**case.scored(case.model), "training_seconds": case.training_seconds}
