"""The role of a unit criterion, the record it reads, and the registry of its members."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from prunus.criteria.mixture import mixture_of
from prunus.errors import DataError, OptionError
from prunus.foundation.registry import Registry
from prunus.graph.coupling import Coupling

Scale = Literal["loss", "energy", "norm"]
CriterionLike: TypeAlias = str | Callable[..., Any] | Mapping[str, float]
"""A criterion by its name, as a `UnitRule` or a plain function, or weights of several by name; see `criterion_of`."""


@dataclass(frozen=True, slots=True)
class UnitEvidence:
    """The weights and statistics that unit criteria read.

    Attributes:
        coupling: the axes and their members.
        weights: tensor name → weight; `dict(model.named_parameters())` gives all.
        grad: tensor name → E[g] of the weights, see `collect_gradients`.
        sensitivity: axis id → (units,), see `activation_statistics`.
        contribution: axis id → (units,), see `activation_statistics`.
        seed: seed of criteria that draw numbers.
        more: name of a statistic → axis id or tensor name → values; see `prunus.criteria.probes`.
    """

    coupling: Coupling
    weights: Mapping[str, Tensor]
    grad: Mapping[str, Tensor] | None = None
    sensitivity: Mapping[str, Tensor] | None = None
    contribution: Mapping[str, Tensor] | None = None
    seed: int = 0
    more: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def statistic(self, name: str, criterion: str) -> Mapping[str, Tensor]:
        """Return a statistic by name.

        Raises:
            OptionError: the evidence lacks it; the message names the criterion that needs it.
        """
        own = {"grad": self.grad, "sensitivity": self.sensitivity, "contribution": self.contribution}
        values = self.more.get(name) if own.get(name) is None else own[name]
        if values is None:
            raise OptionError(
                f"criterion {criterion!r} needs {name}, which the evidence lacks; make it with collect_evidence(...)."
            )
        return values


class UnitCriterion(Protocol):
    """Map evidence to axis id → scores (units,), float64; higher = keep, the evidence is only read."""

    def __call__(self, evidence: UnitEvidence, /) -> dict[str, Tensor]:
        """Score every unit of every removable axis."""
        ...


@dataclass(frozen=True, slots=True)
class UnitRule:
    """A unit criterion with the statistics that it reads and the scale of its scores; calling it scores.

    Attributes:
        score: evidence → scores.
        needs: names of the statistics that it reads beside weights and coupling; see `prunus.criteria.probes`.
        scale: ``loss``: scores are predicted rises of the loss and may be compared between axes; ``energy``: scores
            add up within an axis; ``norm``: their squares do. See `damage_curves`.
    """

    score: UnitCriterion
    needs: tuple[str, ...] = ()
    scale: Scale = "energy"

    def __call__(self, evidence: UnitEvidence, /) -> dict[str, Tensor]:
        """Score every unit of every removable axis."""
        return self.score(evidence)


UNIT_CRITERIA: Registry[UnitCriterion] = Registry("unit_criterion", "prunus.criteria", kind=Callable)

Score = Callable[[UnitEvidence], dict[str, Tensor]]


def unit_rule(*names: str, needs: tuple[str, ...] = (), scale: Scale = "energy") -> Callable[[Score], Score]:
    """Enrol a function as a unit criterion under every given name; arguments as in `UnitRule`."""

    def enrol(score: Score) -> Score:
        UNIT_CRITERIA.register(*names)(UnitRule(score, needs, scale))
        return score

    return enrol


@dataclass(frozen=True, slots=True)
class MixedUnits:
    """A weighted sum of unit criteria: s_u = Σ_c (w_c / Σw) · s_c(u) / mean_axis(s_c).

    Where a criterion has scores below zero on an axis, its least score of that axis is subtracted first. A criterion
    whose scores are all zero adds nothing.

    Attributes:
        weights: name of a criterion → w_c.
    """

    weights: Mapping[str, float]

    def __call__(self, evidence: UnitEvidence, /) -> dict[str, Tensor]:
        """Score every unit of every removable axis."""
        whole = sum(self.weights.values())
        mixed: dict[str, Tensor] = {}
        for name, weight in self.weights.items():
            for axis, scores in UNIT_CRITERIA.get(name)(evidence).items():
                values = scores.to(torch.float64)
                values = values - values.min().clamp(max=0) if len(values) else values
                mean = float(values.mean()) if len(values) else 0.0
                share = weight / whole * values / mean if mean > 0 else torch.zeros_like(values)
                mixed[axis] = mixed[axis] + share if axis in mixed else share
        return mixed


def enrolled_rule(criterion: str | Mapping[str, float]) -> UnitCriterion:
    """Return the unit criterion of a name, or the rule of a mixture of names.

    Raises:
        OptionError: an unknown name, or weights that are not allowed.
    """
    weights = mixture_of(criterion)
    if weights is None:
        return UNIT_CRITERIA.get(criterion)  # type: ignore[arg-type]
    members = [UNIT_CRITERIA.get(name) for name in weights]
    needs = dict.fromkeys(need for member in members for need in getattr(member, "needs", ()))
    norms = all(getattr(member, "scale", "energy") == "norm" for member in members)
    return UnitRule(MixedUnits(weights), tuple(needs), "norm" if norms else "energy")


def needs_of(criterion: CriterionLike) -> tuple[str, ...]:
    """Return the statistics that a criterion, named or given itself, reads; a plain function reads none.

    Raises:
        OptionError: an unknown criterion.
    """
    return tuple(getattr(criterion if callable(criterion) else enrolled_rule(criterion), "needs", ()))


def collected(evidence: UnitEvidence, name: str, criterion: str) -> dict[str, Tensor]:
    """Return a copy of a statistic that is one number a unit.

    Raises:
        OptionError: the evidence lacks it.
        DataError: an axis has none, or it is not finite.
    """
    statistic = evidence.statistic(name, criterion)
    missing = [axis for axis in evidence.coupling.axes if axis not in statistic]
    if missing:
        raise DataError(f"axis {missing[0]!r} has no statistic; collect it with the same coupling.")
    return {axis: finite(axis, statistic[axis].clone()) for axis in evidence.coupling.axes}


def finite(axis: str, scores: Tensor) -> Tensor:
    """Return the scores of an axis if all are finite.

    Raises:
        DataError: one is not.
    """
    if not torch.isfinite(scores).all():
        raise DataError(f"scores of axis {axis!r} are NaN or infinite; allowed are finite numbers. Check the weights.")
    return scores
