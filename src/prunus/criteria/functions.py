"""A plain function as a criterion: (group) → scores of units, (name, weight) → scores of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from prunus.criteria.criterion import CRITERIA, Criterion
from prunus.criteria.mixture import canonical, mixture_of
from prunus.criteria.unit_criterion import (
    UNIT_CRITERIA,
    CriterionLike,
    UnitCriterion,
    UnitEvidence,
    UnitRule,
    enrolled_rule,
)
from prunus.criteria.unit_group import Group, groups_of
from prunus.criteria.weight_statistics import Evidence, precise
from prunus.errors import OptionError
from prunus.foundation.registry import Registry, title_of
from prunus.foundation.user_code import UserFunction, errors_named

GroupFunction: TypeAlias = Callable[[Group], Any]
"""(group) → ``group.size`` scores: a tensor, an array or a list; higher = keep."""
WeightFunction: TypeAlias = Callable[[str, Tensor], Any]
"""(name of the weight, weight) → scores of its shape; higher = keep."""


@dataclass(frozen=True, slots=True)
class ScoredGroups:
    """A unit criterion made of a function that scores one group; it reads weights alone.

    Attributes:
        function: (group) → scores.
    """

    function: GroupFunction

    def __call__(self, evidence: UnitEvidence, /) -> dict[str, Tensor]:
        """Score every unit of every removable axis.

        Shapes: → (units,), float64.
        Raises: OptionError: the function raises, or does not return one finite number a unit.
        """
        name, scores = criterion_name(self.function), {}
        for group in groups_of(evidence.coupling, evidence.weights):
            where = f"group {group.id!r} of {group.size} units"
            with errors_named(f"criterion function {name!r} for {where}", OptionError, self.function):
                returned = self.function(group)
            scores[group.id] = _numbers(returned, (group.size,), name, where)
        return scores


@dataclass(frozen=True, slots=True)
class ScoredWeights:
    """A weight criterion made of a function that scores one weight.

    Attributes:
        function: (name, weight) → scores of the weight's shape. It is given a copy of the weight, in float32 or wider.
    """

    function: WeightFunction

    def __call__(self, evidence: Evidence, /) -> dict[str, Tensor]:
        """Score every weight of the evidence.

        Raises: OptionError: the function raises, or does not return one finite number a weight.
        """
        called, found = criterion_name(self.function), {}
        for name, weight in evidence.weights.items():
            where = f"weight {name!r} of shape {tuple(weight.shape)}"
            with errors_named(f"criterion function {called!r} for {where}", OptionError, self.function):
                returned = self.function(name, precise(weight).clone())
            found[name] = _numbers(returned, tuple(weight.shape), called, where).to(weight.device)
        return found


@dataclass(frozen=True, slots=True)
class MixedWeights:
    """A weighted sum of weight criteria: s_w = Σ_c (w_c / Σw) · s_c(w) / mean(s_c), the mean over all given weights.

    Where a criterion has scores below zero, its least score is subtracted first. A criterion whose scores are all zero
    adds nothing. One mean serves all tensors, so that the tensors compare as they do under each criterion alone.

    Attributes:
        members: name of a criterion → w_c and the criterion.
    """

    members: Mapping[str, tuple[float, Criterion]]

    def __call__(self, evidence: Evidence, /) -> dict[str, Tensor]:
        """Score every weight of the evidence.

        Raises: OptionError: the evidence lacks a statistic that a criterion reads.
        """
        whole = sum(weight for weight, _ in self.members.values())
        mixed = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in evidence.weights.items()}
        for weight, criterion in self.members.values():
            scores = {name: s.detach().to(torch.float64) for name, s in criterion(evidence).items()}
            least = min((float(s.min()) for s in scores.values() if s.numel()), default=0.0)
            lifted = {name: s - min(0.0, least) for name, s in scores.items()}
            count = sum(s.numel() for s in lifted.values())
            mean = sum(float(s.sum()) for s in lifted.values()) / max(1, count)
            if mean > 0:
                mixed = {name: mixed[name] + weight / whole * s / mean for name, s in lifted.items()}
        return mixed


def criterion_of(criterion: CriterionLike) -> UnitCriterion:
    """Return the unit criterion of a name, a mixture, a `UnitRule`, or a plain function (group) → scores.

    Raises:
        OptionError: an unknown name, a function with the name of an enrolled criterion, or something else.

    Example:
        >>> criterion_of(lambda group: [1.0] * group.size)  # doctest: +ELLIPSIS
        ScoredGroups(function=...)
    """
    if isinstance(criterion, (str, Mapping)):
        return enrolled_rule(criterion)
    if isinstance(criterion, UnitRule):
        return replace(criterion, score=UserFunction("criterion", criterion_name(criterion), criterion.score))
    _check_function(criterion, UNIT_CRITERIA, "(group)")
    return ScoredGroups(criterion)


def weight_criterion_of(criterion: CriterionLike) -> Criterion:
    """Return the weight criterion of a name, a mixture, or a plain function (name, weight) → scores.

    Raises:
        OptionError: an unknown name, a function with the name of an enrolled criterion, or something else.
    """
    if isinstance(criterion, (str, Mapping)):
        weights = mixture_of(criterion)
        if weights is None:
            return _weight_criterion(criterion)
        return MixedWeights({name: (weight, _weight_criterion(name)) for name, weight in weights.items()})
    _check_function(criterion, CRITERIA, "(name, weight)")
    return ScoredWeights(criterion)


def _weight_criterion(name: Any) -> Criterion:
    check_level(name, CRITERIA)
    return CRITERIA.get(name)


def check_level(name: object, wanted: Registry[Any], more: Sequence[str] = ()) -> None:
    """Refuse the name of a criterion of the other level, with the names of the right one.

    Args:
        name: name of a criterion; one that no level knows is left to the registry.
        wanted: the registry of the right level.
        more: names beside those of the registry.

    Raises:
        OptionError: the name is one of the other level alone.
    """
    right, other, registry = (
        ("weights", "units", UNIT_CRITERIA) if wanted is CRITERIA else ("units", "weights", CRITERIA)
    )
    if name in wanted or name in more or name not in registry:
        return
    raise OptionError(
        f"criterion {name!r} scores {other}, and {right} are ranked here; allowed for {right}: "
        f"{', '.join([*more, *wanted.names()])}. To rank {other}, use a method or level of {other}."
    )


def criterion_name(criterion: CriterionLike) -> str:
    """Return the name of a criterion in plans: as enrolled, the text of a mixture, or the function's ``__name__``."""
    return title_of(canonical(criterion.score if isinstance(criterion, UnitRule) else criterion))


def is_unit_criterion(criterion: CriterionLike | None) -> bool:
    """Return whether a criterion is the name of an enrolled unit criterion, or a mixture of such names."""
    weights = mixture_of(criterion)
    return criterion in UNIT_CRITERIA if weights is None else all(name in UNIT_CRITERIA for name in weights)


def is_weight_criterion(criterion: CriterionLike | None) -> bool:
    """Return whether a criterion is the name of an enrolled weight criterion, or a mixture of such names."""
    weights = mixture_of(criterion)
    return criterion in CRITERIA if weights is None else all(name in CRITERIA for name in weights)


def _check_function(criterion: Any, registry: Registry[Any], form: str) -> None:
    """Refuse a criterion that is no function, and a function with the name of an enrolled criterion.

    Raises:
        OptionError: it is one of these.
    """
    if not callable(criterion) or isinstance(criterion, type):
        raise OptionError(
            f"{registry.role} is {criterion!r}; allowed: a name out of {', '.join(registry.names())}, or a function "
            f"{form} → scores."
        )
    name = criterion_name(criterion)
    if name in registry:
        raise OptionError(
            f"criterion function {name!r} has the name of an enrolled {registry.role}; give the name as text, or "
            "rename the function."
        )


def _numbers(returned: Any, shape: tuple[int, ...], name: str, where: str) -> Tensor:
    """Convert the return value of a function to float64 on the CPU and check it."""
    begin = f"criterion function {name!r} returned"
    allowed = f"allowed: finite numbers of shape {shape}, higher = keep."
    if not isinstance(returned, Tensor | np.ndarray | Sequence) or isinstance(returned, str):
        raise OptionError(f"{begin} a {type(returned).__name__} for {where}; {allowed}")
    try:
        values = torch.as_tensor(returned).detach().to("cpu")
        scores = values.to(torch.float64) if not values.is_complex() else None
    except (TypeError, ValueError, RuntimeError):
        scores = None
    if scores is None:
        raise OptionError(f"{begin} a {type(returned).__name__} that holds no real numbers for {where}; {allowed}")
    if tuple(scores.shape) != shape:
        raise OptionError(f"{begin} scores of shape {tuple(scores.shape)} for {where}; {allowed}")
    if not bool(torch.isfinite(scores).all()):
        raise OptionError(f"{begin} NaN or infinite scores for {where}; {allowed}")
    return scores
