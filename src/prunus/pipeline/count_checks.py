"""The checks of a budget that counts or compares: the methods and options that it can stand beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunus.budget.counts import KINDS, Count
from prunus.errors import OptionError
from prunus.foundation.defaults import DEFAULTS
from prunus.foundation.registry import title_of
from prunus.methods import Method
from prunus.methods.by_count import UNIT_DIVISIONS
from prunus.methods.criterion_names import OBS

BY_COUNT = {"units": "units", "weights": "weights", "modules": "modular", "windows": "window-tile"}
"""The parts that a budget counts → the method for it, where none is named."""
LEVEL_OF = {"units": "unit", "weights": "weight"}


def check_counted(count: Count, chosen: Method, levels: Sequence[str], beside: str) -> None:
    """Refuse what a budget that counts or compares cannot have: another kind of method, stages, a search.

    Args:
        count: the budget.
        chosen: the method.
        levels: of the request.
        beside: the stages or the search of the request, in words; empty for none.

    Raises:
        OptionError: one of them does not go with the budget.
    """
    if beside:
        raise OptionError(
            f"budget {count.metric} stands beside {beside}, which divides a price; give the budget as params or macs, "
            "or leave the other out."
        )
    if not chosen.counts:
        raise OptionError(
            f"budget {count.metric} ranks the scores of single parts, and method {chosen.name!r} has none; use units, "
            "weights, modular, window-tile or a method by one criterion, such as sensitivity."
        )
    if count.metric in KINDS and count.metric != chosen.counts:
        raise OptionError(
            f"budget {count.metric} beside method {chosen.name!r}, which ranks {chosen.counts}; give the budget as "
            f"{chosen.counts} or top_n, or use method {BY_COUNT[count.metric]!r}."
        )
    if tuple(levels) not in (DEFAULTS.levels, (LEVEL_OF.get(chosen.counts),)):
        raise OptionError(
            f"budget {count.metric} ranks {chosen.counts} here, and levels is {levels!r}; leave levels out."
        )
    if chosen.counts == "modules" and count.whole is None:
        raise OptionError(f"budget {count.metric} of modules is one amount for the network; got {dict(count.amounts)}.")


def check_division(count: Count, chosen: Method, criterion: Any, allocator: Any) -> None:
    """Refuse a criterion without scores, and an allocator that cannot divide a count.

    Raises:
        OptionError: one of the two.
    """
    if criterion == OBS:
        raise OptionError(
            f"criterion {OBS!r} measures levels of whole layers and gives no score to rank or compare; with budget "
            f"{count.metric} use magnitude, sensitivity or contribution."
        )
    if allocator is None:
        return
    if count.compares or count.whole is None:
        what = "a threshold" if count.compares else "an amount of every layer"
        raise OptionError(f"allocator is {title_of(allocator)!r}, and {what} divides nothing; leave it out.")
    if chosen.counts == "units" and allocator not in UNIT_DIVISIONS:
        raise OptionError(
            f"allocator is {title_of(allocator)!r}, which divides a price; budget {count.metric} takes "
            f"{' or '.join(UNIT_DIVISIONS)}, or none for one ranking of the scores as they are."
        )
