"""What a network cut to a share of its MACs gets back in a tenth of the dense network's steps, way by way."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

from prunus.recovery import AUTOPILOT, RecoveryOptions, RecoveryTask, recovered_
from prunus.training import TrainingOptions, finetune_

from .starting import Parent, anew, cut_of, parent_of

Row = dict[str, Any]
NETS = ("speech/cnn", "glyphs/resnet", "text/transformer")
"""Right-sized networks of three tasks."""
KEPT = (0.5, 0.25)
WAYS = ("finetune", "distil")
CHOICES = (*WAYS, AUTOPILOT)
SCRATCH = ("scratch", "scratch-tenth")
"""The cut network with new weights: in all the steps of the dense one, and in the tenth that recoveries get."""


def measure(net: str, kept: float, way: str, seed: int) -> Row:
    """Cut a trained network without labels, and train what is left in one way.

    The selection split decides which state of a recovery is kept, and which way is better. The calibration split will
    not do: the cut network was refitted to it, and looks better there than it is.
    """
    parent, cut = parent_of(net, seed), cut_of(net, kept, seed)
    model, options = cut.fresh(), parent.short()
    raw, started = parent.judged(cut.small), time.process_time()
    if way in SCRATCH:
        model = anew(cut, seed)
        options = parent.work.training if way == "scratch" else replace(parent.work.training, steps=options.steps)
        finetune_(model, parent.data.train, options, seed=seed)
    else:
        options = parent.piloted() if way == AUTOPILOT else options
        recover_(parent, model, options, way, plan=cut.plan, coupling=cut.coupling)
    return {
        **parent.judged(model),
        "cut": raw["accuracy"],
        "macs": parent.macs(model),
        "steps": options.steps,
        "cpu_seconds": time.process_time() - started,
        "cut_cpu_seconds": cut.seconds,
    }


def recover_(model: Any, parent: Parent, options: TrainingOptions, way: str, **known: Any) -> None:
    """Train a cut network back; whoever cut it, the same state-keeping and the same steps."""
    wanted = RecoveryOptions(**asdict(options), method=way)
    data = parent.data
    recovered_(
        RecoveryTask(
            model,
            parent.model,
            data.train,
            data.selection,
            wanted,
            example_inputs=parent.example,
            seed=parent.seed,
            **known,
        )
    )
