"""Weighted sums of criteria: a mapping from names to weights, or its text ``magnitude=0.3,taylor=0.5``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from prunus.errors import OptionError

FORM = "{'magnitude': 0.3, 'taylor': 0.5}, or the text 'magnitude=0.3,taylor=0.5'"


def canonical(criterion: Any) -> Any:
    """Return a mixture as the text that plans record, with its names in order; anything else as it is.

    Raises:
        OptionError: no criterion in the mixture, one that stands twice, or a weight that is not a positive number.

    Example:
        >>> canonical({"taylor": 0.5, "magnitude": 1}), canonical("fisher")
        ('magnitude=1,taylor=0.5', 'fisher')
    """
    parts = mixture_of(criterion)
    return criterion if parts is None else ",".join(f"{name}={_shown(parts[name])}" for name in parts)


def mixture_of(criterion: Any) -> dict[str, float] | None:
    """Return the weights of a mixture, its names in order; None for a criterion that is no mixture.

    Raises:
        OptionError: as `canonical`.
    """
    if isinstance(criterion, Mapping):
        given = dict(criterion)
    elif isinstance(criterion, str) and "=" in criterion:
        given = _read(criterion)
    else:
        return None
    if not given:
        raise OptionError(f"criterion is {criterion!r}, a mixture of nothing; give names and weights such as {FORM}.")
    for name, weight in given.items():
        if not isinstance(name, str) or not name:
            raise OptionError(f"criterion mixes {name!r}, which is no name; give names and weights such as {FORM}.")
        number = isinstance(weight, (int, float, np.integer, np.floating)) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight <= 0:
            raise OptionError(
                f"criterion: the weight of {name!r} is {weight!r}; allowed: a positive number. Leave out what has no "
                "weight."
            )
    return {name: float(given[name]) for name in sorted(given)}


def _read(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for word in text.split(","):
        name, sign, value = (part.strip() for part in word.partition("="))
        try:
            weight = float(value) if sign and name else None
        except ValueError:
            weight = None
        if weight is None:
            raise OptionError(f"criterion: got {word.strip()!r} in {text!r}; allowed: NAME=WEIGHT, such as {FORM}.")
        if name in found:
            raise OptionError(f"criterion: {name!r} stands twice in {text!r}; give it once.")
        found[name] = weight
    return found


def _shown(weight: float) -> str:
    return repr(int(weight)) if weight.is_integer() and weight < 1e15 else repr(weight)
