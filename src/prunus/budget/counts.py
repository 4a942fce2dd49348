"""Budgets that count or compare: the n best units, modules, windows or weights stay, or all above a threshold."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from prunus.errors import OptionError, shown

KINDS = ("units", "modules", "windows", "weights")
TOP_N = "top_n"
THRESHOLD = "threshold"
COUNTS = (*KINDS, TOP_N, THRESHOLD)
WHOLE = ""
"""The selector of an amount for the whole network."""

_NUMBER = r"[0-9]+\.?[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?"
_TEXT = re.compile(rf"\s*(>=|>)?\s*({_NUMBER})\s*(?:\*?\s*(max|mean|std))?\s*")


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold τ = value, or value · statistic of the scores of a layer; scores s > τ stay, or s ≥ τ.

    Attributes:
        value: τ, or its factor.
        of: ``max``, ``mean`` or ``std`` of the layer's scores; empty for an absolute threshold.
        inclusive: scores that equal τ stay.
    """

    value: float
    of: Literal["", "max", "mean", "std"] = ""
    inclusive: bool = False

    def unit(self, scores: np.ndarray) -> float:
        """Return the size of 1 for the scores of a layer: 1, or their largest, mean or standard deviation."""
        if not self.of or not scores.size:
            return 1.0
        return float(np.max(scores) if self.of == "max" else np.mean(scores) if self.of == "mean" else np.std(scores))

    def keeps(self, scores: np.ndarray) -> np.ndarray:
        """Return the mask of the scores that stay; they are compared in their own type, so a float32 0.1 equals 0.1."""
        tau = scores.dtype.type(self.value * self.unit(scores))
        return np.asarray(scores >= tau if self.inclusive else scores > tau)

    def __str__(self) -> str:
        return f"{'>= ' if self.inclusive else ''}{self.shown}"

    @property
    def shown(self) -> str:
        """The value in words: ``0.1*max``."""
        return f"{self.value:g}{'*' if self.of else ''}{self.of}"

    @property
    def removes(self) -> str:
        """The condition of a removal in words: ``≤ 0.1*max``."""
        return f"{'<' if self.inclusive else '≤'} {self.shown}"


Amount: TypeAlias = float | int | Threshold
"""A share (float), a number (int), or a threshold."""


@dataclass(frozen=True, slots=True)
class Count:
    """A budget that counts or compares.

    Attributes:
        metric: ``units``, ``modules``, ``windows``, ``weights``, ``top_n`` or ``threshold``.
        amounts: selector of layers → amount; one for the whole network has the selector `WHOLE`.
    """

    metric: str
    amounts: Mapping[str, Amount]

    @property
    def whole(self) -> Amount | None:
        """The amount of the whole network; None where each layer has its own."""
        return self.amounts.get(WHOLE)

    @property
    def compares(self) -> bool:
        """Return whether a threshold decides, and the number follows."""
        return self.metric == THRESHOLD

    def __str__(self) -> str:
        if self.whole is not None:
            return f"{self.metric}: {self.whole}"
        return f"{self.metric}: {{{', '.join(f'{selector}: {amount}' for selector, amount in self.amounts.items())}}}"


def count_of(budget: Mapping[str, Any]) -> Count | None:
    """Return the count or the threshold of a budget; None for a budget of another metric.

    ``{"units": 0.2}``, ``{"top_n": 100}``, ``{"threshold": "0.1*max"}``, ``{"weights": {"conv1": 0.5, "fc*": 0.2}}``

    Raises:
        OptionError: another budget beside it, or an amount that is not allowed.
    """
    metric = next((metric for metric in budget if metric in COUNTS), None)
    if metric is None:
        return None
    if len(budget) > 1:
        others = ", ".join(str(other) for other in budget if other != metric)
        raise OptionError(f"budget {metric} stands beside {others}; it alone decides how much stays. Give one of them.")
    value = budget[metric]
    if not isinstance(value, Mapping):
        return Count(metric, {WHOLE: _amount(metric, value)})
    if metric == "modules" or not value or not all(isinstance(name, str) and name for name in value):
        raise OptionError(
            f"budget {metric} is {shown(value)}; allowed: one amount for the network"
            + ("." if metric == "modules" else ", or a section of layers and amounts such as {'conv1': 0.5}.")
        )
    return Count(metric, {name: _amount(f"{metric} of {name!r}", each, metric) for name, each in value.items()})


def number_kept(amount: float | int, total: int) -> int:
    """Return the number that an amount keeps of a total: ⌊share · total⌋, or the number itself.

    A product within rounding of a whole number is that number: 0.29 of 100 is 29.
    """
    return math.floor(amount * total + 1e-9) if isinstance(amount, float) else min(amount, total)


def _amount(where: str, value: Any, metric: str = "") -> Amount:
    metric = metric or where
    if metric == THRESHOLD:
        return _threshold(where, value)
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    count = number and math.isfinite(value) and value == int(value) and value >= 1
    share = number and isinstance(value, (float, np.floating)) and 0 < value <= 1
    if metric == TOP_N and not (count and not share):
        raise OptionError(f"budget {where} is {value!r}; allowed: a whole number of at least 1.")
    if share:
        return float(value)
    if count:
        return int(value)
    raise OptionError(f"budget {where} is {value!r}; allowed: a share in (0, 1] or a whole number of at least 1.")


def _threshold(where: str, value: Any) -> Threshold:
    if isinstance(value, str) and (match := _TEXT.fullmatch(value)):
        return Threshold(float(match[2]), match[3] or "", match[1] == ">=")  # type: ignore[arg-type]
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if number and math.isfinite(value) and value >= 0:
        return Threshold(float(value))
    raise OptionError(
        f"budget {where} is {value!r}; allowed: a number from 0 such as 0.1, or a text such as '0.1*max' or "
        "'0.5*mean' of the layer, with '>=' before it if scores that equal it stay."
    )
