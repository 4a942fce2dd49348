"""The least time of a comparison, from a few measured training steps."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from prunus.data.splits import Splits
from prunus.experiments.recipe import Recipe
from prunus.foundation import clock
from prunus.training.finetune import finetune_

_STEPS = 6


@dataclass(frozen=True, slots=True)
class Estimate:
    """The trainings of a comparison and their time.

    Attributes:
        trainings: the dense networks, those that start from new weights, and one recovery a run.
        steps: the steps of all of them; those that minutes limit are left out.
        minutes: the time of these steps and minutes, in all processes together. Planning, repairs, scores and
            measurements come on top of it.
    """

    trainings: int
    steps: int
    minutes: float

    def __str__(self) -> str:
        return f"at least {_shown(self.minutes)}: {self.trainings} trainings of {self.steps:,} steps in all"


def estimate(recipe: Recipe, methods: Sequence[str], model: nn.Module, data: Splits) -> Estimate:
    """Train a copy for a few steps, and multiply.

    Args:
        recipe: the comparison.
        methods: names of its methods.
        model: the network of the recipe; it stays as it is.
        data: the splits of the recipe.
    """
    from prunus.methods import METHODS

    section = recipe.compare
    each = len(section.kept) * len(section.repair)
    fresh = sum(METHODS.get(name).fresh_weights for name in methods) * each
    trained = 0 if recipe.checkpoint else 1
    full, runs = (trained + fresh) * section.seeds, len(methods) * each * section.seeds
    limited = recipe.recover.minutes is not None
    steps = full * recipe.train.steps + (0 if limited else runs * recipe.recover.steps)
    minutes = runs * float(recipe.recover.minutes or 0) / max(1, recipe.workers)
    seconds = _seconds_a_step(recipe, model, data) if steps else 0.0
    return Estimate(full + runs, steps, minutes + seconds * steps / 60 / max(1, recipe.workers))


def _seconds_a_step(recipe: Recipe, model: nn.Module, data: Splits) -> float:
    """Return the seconds of one step of training, the fastest of a few: the least that a step takes."""
    ends: list[float] = []
    finetune_(
        copy.deepcopy(model),
        data.train,
        replace(recipe.train, steps=_STEPS),
        seed=recipe.seed,
        progress=lambda done, steps: ends.append(clock.seconds()),
    )
    return min((after - before for before, after in itertools.pairwise(ends)), default=0.0)


def _shown(minutes: float) -> str:
    if minutes < 1.5:
        return f"{max(1, round(minutes * 60))} seconds"
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
