"""Limits of a budget: a kept fraction or an absolute amount of params, MACs, bytes or milliseconds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunus.errors import OptionError, nearest
from prunus.plans import Cost

METRICS = {"params": "params", "macs": "macs_forward", "bytes": "param_bytes", "latency_ms": "latency_fs"}
LATENCY = "latency_ms"
FLOPS = "flops"
Limits = tuple["Limit", ...]
FS_PER_MS = 10**12
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True, slots=True)
class Limit:
    """``metric`` may be at most ``value``, a whole number; milliseconds are counted in femtoseconds."""

    metric: str
    value: int

    def of(self, cost: Cost) -> int:
        """Return the amount of this metric in a cost."""
        return int(getattr(cost, METRICS[self.metric]))

    def shown(self, amount: int | None = None) -> str:
        """Return an amount of this metric as text, by default that of the limit."""
        amount = self.value if amount is None else amount
        return f"{amount / FS_PER_MS:.4g}" if self.metric == LATENCY else f"{amount:,}"

    def holds(self, cost: Cost) -> bool:
        """Return True if a cost stays within the limit."""
        return self.of(cost) <= self.value


def canonical_budget(budget: Any) -> Any:
    """Return a budget in its one form: ``flops`` as ``macs``, with 1 MAC = 2 FLOP, and ``"50%"`` as the share 0.5.

    Anything that is no budget is returned as it is, for the checks that follow.

    Raises:
        OptionError: macs and flops at once, or a percentage outside (0, 100].
    """
    if not isinstance(budget, Mapping):
        return budget
    found = {}
    for metric, value in budget.items():
        amount = _share(metric, value)
        if metric == FLOPS:
            if "macs" in budget:
                raise OptionError(
                    "budget names macs and flops, which are one price (1 MAC = 2 FLOP); give one of them."
                )
            metric = "macs"
            if _is_number(amount) and amount > 1:
                amount = math.floor(amount / 2)
            elif not _is_number(amount):
                raise OptionError(
                    f"budget {FLOPS} is {value!r}; allowed: a kept fraction in (0, 1], a percentage such as '50%', or "
                    "a whole number such as 2000000 (1 MAC = 2 FLOP)."
                )
        found[metric] = amount
    return found


def _share(metric: str, value: Any) -> Any:
    """Return the share of a percentage; anything else as it is."""
    match = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*%\s*", value) if isinstance(value, str) else None
    if match is None:
        return value
    share = float(match[1]) / 100
    if not 0 < share <= 1:
        raise OptionError(f"budget {metric} is {value!r}; allowed: a percentage above 0% and up to 100%.")
    return share


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def parse_budget(budget: Mapping[str, float | int | str], before: Cost) -> tuple[Limit, ...]:
    """Turn ``{"params": 0.3}``, ``{"macs": 10**9}``, ``{"bytes": "2MB"}`` into limits; all of them must hold.

    A number in (0, 1] is the kept fraction, rounded down; a larger one is absolute. For ``latency_ms`` a number
    above 1 is milliseconds; less is written ``"0.5ms"``.

    Raises:
        OptionError: an unknown metric, or a value outside its range.
    """
    if not isinstance(budget, Mapping) or not budget:
        raise OptionError(f"budget is {budget!r}; give a dict such as {{'params': 0.5}} ({', '.join(METRICS)}).")
    limits = []
    for metric, value in budget.items():
        if metric not in METRICS:
            allowed = ", ".join(METRICS)
            raise OptionError(f"Unknown budget {metric!r}.{nearest(str(metric), METRICS)} Allowed: {allowed}.")
        total = Limit(metric, 0).of(before)
        limits.append(
            Limit(metric, _milliseconds(value, total) if metric == LATENCY else _amount(metric, value, total))
        )
    return tuple(limits)


def _milliseconds(value: float | int | str, total: int) -> int:
    match = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*ms\s*", value) if isinstance(value, str) else None
    if match and float(match[1]) > 0:
        return int(float(match[1]) * FS_PER_MS)
    if not _is_number(value) or not math.isfinite(float(value)) or float(value) <= 0:
        raise OptionError(
            f"budget {LATENCY} is {value!r}; allowed: a kept fraction in (0, 1], milliseconds above 1 such as 5.0, or "
            "a text such as '0.5ms'."
        )
    return math.floor(total * float(value)) if float(value) <= 1 else int(float(value) * FS_PER_MS)


def _amount(metric: str, value: float | int | str, total: int) -> int:
    number: float | int | None = None
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*([A-Za-z]*)\s*", value)
        if match and match[2].lower() in _UNITS and (metric == "bytes" or not match[2]):
            number = int(float(match[1]) * _UNITS[match[2].lower()])
    elif isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        number = int(value)
    elif isinstance(value, (float, np.floating)) and math.isfinite(value):
        number = float(value)
    if number is None or number <= 0 or (number > 1 and number != int(number)):
        example = "'2MB'" if metric == "bytes" else "1000000"
        raise OptionError(
            f"budget {metric} is {value!r}; allowed: a kept fraction in (0, 1] or a whole number such as {example}."
        )
    if isinstance(number, float) and number <= 1:
        return math.floor(total * number)
    return int(number)
