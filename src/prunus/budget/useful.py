"""Checks that a count or a threshold divides: something goes, and something stays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from prunus.budget.counts import Count, Threshold
from prunus.errors import BudgetError

_DIGITS = range(4, 18)


def check_threshold(layers: Mapping[str, tuple[np.ndarray, Threshold]], kind: str, criterion: str) -> None:
    """Refuse a threshold above which everything lies, or nothing.

    Raises:
        BudgetError: names the number of parts, the extreme score, and the nearest value that divides them.
    """
    total = sum(scores.size for scores, _ in layers.values())
    kept = sum(int(threshold.keeps(scores).sum()) for scores, threshold in layers.values())
    if 0 < kept < total:
        return
    given = ", ".join(dict.fromkeys(str(threshold) for _, threshold in layers.values()))
    effect = f"removes {'none of' if kept else 'all'} {total:,} {kind} by their {criterion}"
    ratios = np.concatenate([np.asarray(s, float).reshape(-1) / (t.unit(s) or 1.0) for s, t in layers.values()])
    low, high = float(ratios.min()), float(ratios.max())
    inclusive = any(threshold.inclusive for _, threshold in layers.values())
    of = {threshold.of for _, threshold in layers.values()}
    unit = f"*{of.pop()}" if len(of) == 1 and "" not in of else ""
    if low == high:
        raise BudgetError(f"Threshold {given} {effect}: all are {low:.6g}{unit}, so no threshold divides them.")

    def divides(value: float) -> bool:
        stay = (replace(threshold, value=value).keeps(scores) for scores, threshold in layers.values())
        return 0 < sum(int(mask.sum()) for mask in stay) < total

    # Scores are compared in their own type, so the next value is the next one of that type.
    number = np.result_type(*(scores.dtype for scores, _ in layers.values())).type
    if kept:
        start = float(np.nextafter(number(low), number(np.inf))) if inclusive else low
        useful, extreme, side = _short(start, math.ceil, divides), f"the smallest is {low:.6g}{unit}", "more"
    else:
        start = high if inclusive else float(np.nextafter(number(high), number(-np.inf)))
        useful, extreme, side = _short(start, math.floor, divides), f"the largest is {high:.6g}{unit}", "less"
    raise BudgetError(f"Threshold {given} {effect}: {extreme}. Give {useful}{unit} or {side}.")


def _short(value: float, rounding: Callable[[float], int], useful: Callable[[float], bool]) -> str:
    """Return a rounded value that is still useful, with four digits or as many as that needs."""
    for digits in _DIGITS if value else ():
        scale = 10.0 ** (digits - 1 - math.floor(math.log10(abs(value))))
        rounded = float(f"{rounding(value * scale) / scale:.{digits}g}")
        if useful(rounded):
            return f"{rounded:g}" if float(f"{rounded:g}") == rounded else repr(rounded)
    return repr(value)


def check_something_goes(count: Count, kind: str, total: int, goes: bool) -> None:
    """Refuse a budget that keeps everything.

    Raises:
        BudgetError: it does.
    """
    if not goes:
        raise BudgetError(f"Budget {count} keeps all {total:,} {kind}; nothing would go. Give less.")
