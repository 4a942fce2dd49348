"""The role of a pruning strategy, the scene that it works on, and the registry of its members."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prunus.errors import BudgetError, OptionError, nearest
from prunus.foundation.registry import Registry
from prunus.masks import resolve_count
from prunus.pruner.options import UPDATES, Moment, PrunerOptions
from prunus.pruner.structure import Structure

Masks = dict[str, Tensor]

CHOICES = ("criterion", "pattern", "metric", "allocator")
"""Options that only some strategies use."""


@dataclass(slots=True)
class Scene:
    """The network, options, weights and masks that a strategy works on. Only the pruner changes it.

    Attributes:
        weights: parameter name → parameter, those that may be masked; tied ones appear once.
        masks: parameter name → bool tensor, True = keep; unmasked parameters are left out.
        structure: axes and price of the network, for strategies whose ``structural`` is True.
    """

    model: nn.Module
    options: PrunerOptions
    weights: dict[str, nn.Parameter]
    masks: Masks = field(default_factory=dict)
    structure: Structure | None = None

    @property
    def parts(self) -> Structure:
        """The structure, which every structural strategy has."""
        assert self.structure is not None
        return self.structure

    def placed(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return copies of tensors of a checkpoint, each on the device of its parameter."""
        parameters = dict(self.model.named_parameters())
        return {name: value.to(parameters[name].device, copy=True) for name, value in values.items()}

    def mask(self, name: str) -> Tensor:
        """Return the mask of a weight; all True where it is not masked."""
        if name in self.masks:
            return self.masks[name]
        return self.weights[name].detach().new_ones((), dtype=torch.bool).expand(self.weights[name].shape)

    def kept_count(self) -> int:
        """Return the present number of kept weights."""
        return sum(
            int(torch.count_nonzero(self.masks[n])) if n in self.masks else w.numel() for n, w in self.weights.items()
        )


class Strategy(ABC):
    """Decides which weights, units or branches stay while a network trains.

    A member defines ``Settings``, a frozen dataclass of its own settings, and implements ``update``; the other
    hooks do nothing unless it needs them. Gradients are those of the loss with the masked weights in place, at every
    position, masked ones included. ``reads`` names those of CHOICES that it uses; the others are refused. A structural
    member whose ``masks_weights`` is True masks single weights too.
    """

    structural: ClassVar[bool] = False
    needs_loss: ClassVar[bool] = False
    masks_weights: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = CHOICES
    schedule: ClassVar[str] = "cubic"
    Settings: ClassVar[type[Any]]

    def __init__(self, scene: Scene, settings: Any) -> None:
        self.scene, self.settings = scene, settings

    @property
    def changes(self) -> int:
        """The number of changes of the masks, where the options do not give the steps between two."""
        return UPDATES

    def check(self) -> None:
        """Refuse, before the training begins, a final level that cannot be reached.

        Raises:
            BudgetError: so few weights would leave a tensor empty.
        """
        weights = self.scene.weights
        count = resolve_count(sum(w.numel() for w in weights.values()), self.scene.options.kept, None)
        if count < len(weights):
            raise BudgetError(
                f"kept is {self.scene.options.kept:g}, which is {count} weights and would empty at least "
                f"{len(weights) - count} of {len(weights)} tensors; keep at least {len(weights)}."
            )

    @abstractmethod
    def update(self, moment: Moment) -> Masks | None:
        """Return the new masks, or None to leave the present ones."""

    def observe(self, moment: Moment) -> None:  # noqa: B027
        """Read the gradients of a step, before the optimizer uses them."""

    def after_step(self, moment: Moment) -> None:  # noqa: B027
        """Change weights right after the optimizer did."""

    def evidence(self) -> list[Tensor]:
        """Return the tensors that were summed over the data of one process; they are averaged over all processes."""
        return []

    def state(self) -> dict[str, Any]:
        """Return the state that a bit-identical resume needs: a nest of tensors, numbers and texts."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore the state that ``state`` returned."""

    def forget(self) -> None:  # noqa: B027
        """Drop all statistics: the shapes of the weights have changed."""


STRATEGIES: Registry[type[Strategy]] = Registry("pruning strategy", "prunus.strategies")


def strategy_of(scene: Scene) -> Strategy:
    """Build the strategy that the options name.

    Raises:
        OptionError: an unknown name, or options or settings that the strategy does not use.
    """
    kind, given = STRATEGIES.get(scene.options.method), scene.options.settings
    _check_choices(kind, scene.options)
    known = [f.name for f in dataclasses.fields(kind.Settings)]
    for name in given:
        if name not in known:
            raise OptionError(
                f"method {scene.options.method!r} has no setting {name!r}.{nearest(name, known)} "
                f"Allowed: {', '.join(known) or 'none'}."
            )
    return kind(scene, kind.Settings(**given))


def _check_choices(kind: type[Strategy], options: PrunerOptions) -> None:
    usual = {f.name: f.default for f in dataclasses.fields(PrunerOptions)}
    for name in CHOICES:
        value = getattr(options, name)
        if name not in kind.reads and value != usual[name]:
            able = [other for other in STRATEGIES if name in STRATEGIES.get(other).reads]
            raise OptionError(
                f"{name} is {value!r}, which method {options.method!r} does not follow; leave it out, or choose one of "
                f"{', '.join(able)}."
            )


@dataclass(frozen=True, slots=True)
class NoSettings:
    """The settings of a strategy without any."""


def check_range(method: str, name: str, value: Any, low: float, high: float) -> None:
    """Raise OptionError unless a setting is a number from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise OptionError(f"setting {name!r} of {method!r} is {value!r}; allowed: a number from {low:g} to {high:g}.")
