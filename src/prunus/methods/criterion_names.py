"""Checks that a criterion scores the parts that a method ranks: units, weights or modules."""

from __future__ import annotations

from typing import Any

from prunus.criteria import UNIT_CRITERIA, mixture_of, weight_criterion_of
from prunus.criteria.functions import check_level
from prunus.errors import OptionError, nearest
from prunus.methods.branch_scores import check_branch_criterion
from prunus.methods.method import Criteria

OBS = "obs-units"
"""The criterion of group OBS with levels measured on data; it is not a function of single units."""


def check_criterion(criterion: Any, scored: Criteria) -> None:
    """Refuse a criterion that scores other parts, or that is unknown; None is always allowed.

    Raises:
        OptionError: names the criteria that are allowed.
    """
    if criterion is None:
        return
    if scored == "modules":
        check_branch_criterion(criterion)
    elif scored == "weights":
        weight_criterion_of(criterion)
    else:
        check_unit_criterion(criterion)


def check_unit_criterion(criterion: Any) -> None:
    """Refuse a name that is no unit criterion.

    Raises:
        OptionError: an unknown name.
    """
    if criterion is None or callable(criterion) or criterion == OBS:
        return
    weights = mixture_of(criterion)
    if weights is not None and OBS in weights:
        raise OptionError(
            f"criterion {OBS!r} stands in a mixture; it measures levels of whole axes and gives no score to add. "
            "Use it alone, or leave it out."
        )
    for name in weights or ():
        check_unit_criterion(name)
    if weights is not None or (isinstance(criterion, str) and criterion in UNIT_CRITERIA):
        return
    if isinstance(criterion, str):
        check_level(criterion, UNIT_CRITERIA, (OBS,))
    names = (OBS, *UNIT_CRITERIA.names())
    close = nearest(str(criterion), names)
    raise OptionError(f"criterion {criterion!r} is unknown.{close} Allowed: {', '.join(names)}.")
