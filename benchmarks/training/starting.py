"""Where recoveries start from: a trained network, and the same one pruned by prunus or made anew in the cut sizes."""

from __future__ import annotations

import copy
import functools
import time
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from prunus.training import TrainingOptions

METHOD, REPAIR = "obs-units", "refold"
TENTH = 0.1
"""The share of the dense network's steps that a recovery may take."""
RATE = 2.5
"""Factor on the workload's rate of recovery: with a rising start it serves labels and teacher alike."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Parent:
    """One trained network with its task; ``correct`` are its answers on the test split."""

    net: str
    seed: int
    model: nn.Module
    work: Any
    data: Any
    correct: Tensor

    @property
    def example(self) -> Any:
        """Return one call of the network, for capture."""
        return self.work.example_inputs()

    def short(self) -> TrainingOptions:
        """Return how a recovery trains: a tenth of the dense network's steps."""
        return replace(self.piloted(), lr=RATE * self.work.recovery.lr, schedule="one_cycle")

    def piloted(self) -> TrainingOptions:
        """Return the same steps at the workload's own rate, which the autopilot changes as it sees fit."""
        return replace(self.work.recovery, steps=round(TENTH * self.work.training.steps))

    def judged(self, model: nn.Module) -> Row:
        """Return accuracy on the selection split, which chooses, and on the test split, which is told."""
        from prunus.measurement.quality import evaluate

        model.eval()
        chosen = evaluate(model, self.data.selection.batches(256), self.data.classes)
        told = evaluate(model, self.data.test.batches(256), self.data.classes)
        dense = float(self.correct.float().mean())
        return {
            "selection": chosen.accuracy,
            "selection_nll": chosen.nll,
            "accuracy": told.accuracy,
            "dense": dense,
            "lost": dense - told.accuracy,
            "correct": _text(told.correct),
            "dense_correct": _text(self.correct),
        }

    def macs(self, model: nn.Module) -> float:
        """Return a network's MACs as a share of the dense one's; every tool is counted in this way."""
        return _macs(model, self.example) / _macs(self.model, self.example)


def _macs(model: nn.Module, example: Any) -> int:
    from prunus.cost.price import cost_model
    from prunus.graph.capture import capture
    from prunus.graph.coupling import couple

    return cost_model(couple(capture(model, example))).price().macs_forward


def _text(correct: Tensor) -> str:
    return "".join("1" if c else "0" for c in correct.tolist())


@functools.lru_cache(maxsize=1)
def parent_of(net: str, seed: int) -> Parent:
    """Train a built-in network, or take it from the cache."""
    from prunus.experiments.workloads import WORKLOADS, trained
    from prunus.measurement.quality import evaluate

    work, model = WORKLOADS.get(net), trained(net, seed).eval()
    data = work.load()
    return Parent(net, seed, model, work, data, evaluate(model, data.test.batches(256), data.classes).correct)


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """A network cut to a share of the MACs and repaired; ``small`` is copied before it is trained."""

    small: nn.Module
    plan: Any
    coupling: Any
    seconds: float

    def fresh(self) -> nn.Module:
        """Return a copy to train."""
        return copy.deepcopy(self.small)


@functools.lru_cache(maxsize=1)
def cut_of(net: str, kept: float, seed: int) -> Cut:
    """Prune with the calibration split alone, and refit what is left without labels."""

    from prunus.analysis import analyse
    from prunus.methods import METHODS
    from prunus.repairs import repair_
    from prunus.surgery.cut import cut_with_record

    parent, started = parent_of(net, seed), time.process_time()
    calibration = parent.data.calibration
    subject = analyse(parent.model, parent.example, data=calibration, held_out=calibration, seed=seed).in_metric("macs")
    plan = METHODS.get(METHOD).plan(subject, subject.limits(kept))
    small, _ = cut_with_record(parent.model, subject.coupling, plan, parent.example)
    repair_(parent.model, small, subject.coupling, plan, calibration, repair=REPAIR, seed=seed)
    return Cut(small, plan, subject.coupling, time.process_time() - started)


def anew(cut: Cut, seed: int) -> nn.Module:
    """Return the cut network with new weights, drawn as its modules draw them."""
    from prunus.training import reset_weights_

    model = cut.fresh()
    reset_weights_(model, seed)
    return model
