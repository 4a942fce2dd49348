"""Rounds: prune at a rate that falls round by round, and train in between; weights, each tensor alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from prunus.data.batches import check_count
from prunus.errors import OptionError
from prunus.masks import resolve_count, top_masks
from prunus.pruner.gradient_statistics import Gathered
from prunus.pruner.options import Moment
from prunus.pruner.strategy import STRATEGIES, Masks, Scene, Strategy, check_range
from prunus.training.schedules import DECAY, kept_after

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class RoundSettings:
    """The settings of pruning in rounds.

    Attributes:
        rounds: the number of prunings.
        rate: the share of the rest that the first round removes; None makes the last round meet the budget.
        decay: the factor from one round's rate to the next.
    """

    rounds: int = ROUNDS
    rate: float | None = None
    decay: float = DECAY

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds)
        if self.rate is not None:
            check_range("fine-tuning", "rate", self.rate, 0.0, 0.99)
            if not self.rate:
                raise OptionError(
                    "setting 'rate' of 'fine-tuning' is 0, so no round removes anything; give 0.2, or None."
                )
        check_range("fine-tuning", "decay", self.decay, 1e-3, 1.0)


class FallingRate:
    """The kept share after each round."""

    def __init__(self, settings: RoundSettings, kept: float) -> None:
        self.round = 0
        if settings.rate is None:
            self._shares = kept_after(kept, settings.rounds, settings.decay)
        else:
            rates = settings.rate * settings.decay ** np.arange(settings.rounds)
            self._shares = tuple(max(kept, float(share)) for share in np.cumprod(1 - rates))

    def following(self, moment: Moment) -> float:
        """Return the kept share after the next round; the last change of the schedule is the last round."""
        self.round = len(self._shares) if moment.final else min(self.round + 1, len(self._shares))
        return self._shares[self.round - 1]


@STRATEGIES.register("fine-tuning-weights")
class FineTuningWeights(Strategy):
    """Mask the weights of lowest score of every tensor in rounds, the network trained between them.

    Round r removes the share p_r = p_0·0.9^r of each tensor's remaining weights. p_0 follows from the budget, or is
    given as ``rate``; ``kept`` is then the least share that stays. Scores are |w| unless a criterion is given. The
    training between the rounds is that of the loop itself, so the weights adapt to each pruning.

    Source: own; rounds of pruning and training: Han et al., "Learning both Weights and Connections for Efficient Neural
    Networks", arXiv:1506.02626.
    """

    reads = ("criterion",)
    Settings = RoundSettings

    def __init__(self, scene: Scene, settings: RoundSettings) -> None:
        super().__init__(scene, settings)
        self._gathered = Gathered(scene, scene.options.criterion or "magnitude")
        self._rate = FallingRate(settings, scene.options.kept)

    @property
    def changes(self) -> int:
        """The number of rounds."""
        return int(self.settings.rounds)

    def observe(self, moment: Moment) -> None:
        """Add the gradients of the step, as long as masks still change."""
        if moment.updates_left:
            self._gathered.observe()

    def update(self, moment: Moment) -> Masks | None:
        """Prune every tensor at the rate of the round."""
        scores = self._gathered.scores()
        total = sum(score.numel() for score in scores.values())
        count = min(self.scene.kept_count(), resolve_count(total, self._rate.following(moment), None))
        counts = divided(count, {name: int(self.scene.mask(name).sum()) for name in scores})
        return {
            name: top_masks(
                {name: score},
                keep_count=counts[name],
                within={name: self.scene.masks[name]} if name in self.scene.masks else None,
            )[name]
            for name, score in scores.items()
        }

    def evidence(self) -> list[Tensor]:
        """Return the sums over gradients."""
        return self._gathered.tensors()

    def state(self) -> dict[str, Any]:
        """Return the round and the sums."""
        return {"round": self._rate.round, "gathered": self._gathered.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the round and the sums."""
        self._rate.round = int(state["round"])
        self._gathered.restore(state["gathered"])


def divided(count: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Divide a number of weights between tensors in proportion to their sizes; each gets at least one.

    Example:
        >>> divided(10, {"a": 30, "b": 60, "c": 1})
        {'a': 3, 'b': 6, 'c': 1}
    """
    names, total = list(sizes), sum(sizes.values())
    exact = np.array([count * sizes[name] / total for name in names])
    found = np.maximum(1, np.floor(exact).astype(int))
    # The largest remainders get the rest; where the least of one exceeds it, the largest tensors give.
    for index in np.argsort(np.floor(exact) - exact, kind="stable")[: max(0, count - int(found.sum()))]:
        found[index] += 1
    while found.sum() > count:
        found[int(found.argmax())] -= 1
    return {name: int(number) for name, number in zip(names, found, strict=True)}
