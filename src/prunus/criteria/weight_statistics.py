"""The record that a weight criterion reads: named weights and statistics of their gradients and inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from prunus.errors import DataError, OptionError, SelectorError

_SOURCES = {
    "movement": "add it up in a running training with MovementSums",
    "input_norm": "take it from the inputs of each layer",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """Named weights with optional gradient statistics of the same names and shapes.

    Attributes:
        weights: name → weight.
        grad_sq: name → E[g²].
        grad_abs: name → E|g|.
        grad: name → E[g].
        seed: seed of criteria that draw numbers.
        movement: name → −Σ w·g over the steps of a training, see `prunus.criteria.movement.MovementSums`.
        input_norm: name → norm of the input that each weight multiplies; may be an expanded view.

    Raises:
        SelectorError: a statistic lacks a weight.
        DataError: a statistic has another shape than its weight.
    """

    weights: Mapping[str, Tensor]
    grad_sq: Mapping[str, Tensor] | None = None
    grad_abs: Mapping[str, Tensor] | None = None
    grad: Mapping[str, Tensor] | None = None
    seed: int = 0
    movement: Mapping[str, Tensor] | None = None
    input_norm: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        for field in ("grad_sq", "grad_abs", "grad", "movement", "input_norm"):
            statistic: Mapping[str, Tensor] | None = getattr(self, field)
            for name, weight in self.weights.items() if statistic is not None else ():
                if statistic is None or name not in statistic:
                    raise SelectorError(f"{field} has no entry {name!r}; give one for every weight.")
                if statistic[name].shape != weight.shape:
                    raise DataError(
                        f"{field} of {name!r} has shape {tuple(statistic[name].shape)}; "
                        f"the weight has {tuple(weight.shape)}. Collect it from this model."
                    )


class StatisticMissing(OptionError):
    """The evidence lacks a statistic that a weight criterion reads.

    Attributes:
        statistic: name of the field of `Evidence`.
    """

    def __init__(self, message: str, statistic: str) -> None:
        super().__init__(message)
        self.statistic = statistic


def needed(statistic: Mapping[str, Tensor] | None, field: str, criterion: str) -> Mapping[str, Tensor]:
    """Return the statistic if it is there.

    Raises:
        StatisticMissing: the evidence lacks it; the message names the criterion that needs it.
    """
    if statistic is None:
        raise StatisticMissing(
            f"criterion {criterion!r} needs {field}, which the evidence lacks; "
            f"{_SOURCES.get(field, 'make it with collect_gradients(...)')}.",
            field,
        )
    return statistic


def precise(tensor: Tensor) -> Tensor:
    """Return the values detached and at least in float32, because squares in half precision overflow or vanish."""
    detached = tensor.detach()
    return detached if detached.element_size() >= 4 and detached.is_floating_point() else detached.float()
