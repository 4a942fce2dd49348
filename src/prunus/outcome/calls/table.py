"""The table: every call of a list is made of the masked dense network and of the cut one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from prunus.errors import OptionError, nearest
from prunus.foundation.progress import Progress, Silent
from prunus.graph.capture import quiet
from prunus.outcome.calls import storing  # noqa: F401  (enters its rows)
from prunus.outcome.calls.built_in import CALLS
from prunus.outcome.calls.pair import SINGLE, NotTaken, Refused, call_of, in_short
from prunus.outcome.calls.record import FAILS, NONE, CallTable, Row
from prunus.outcome.calls.subject import Subject

Calls = Mapping[str, Any] | Iterable[str] | None


def call_table(it: Subject, calls: Calls = None, progress: Progress | None = None) -> CallTable:
    """Return the table of a cut network.

    Args:
        it: the cut network and its dense network.
        calls: None for all built-in calls, names of some, or name → ``(args, kwargs)`` or a function of the model.
        progress: reports every call.

    Raises:
        OptionError: an unknown name, or a value that is no call.
        CaptureError: the dense network's calls cannot be masked by the plan.
    """
    makers = _makers(calls)
    it.check_shapes()
    shown, task, rows = progress or Silent(), "calls", []
    renumbered = any(not it.coupling.mask(e, it.plan.axes).all() for e in it.coupling.ids.values())
    if not renumbered:
        it.pair()
    shown.start(task, len(makers))
    for name, make in makers.items():
        if renumbered:
            rows.append(Row(name, NONE, reason="not comparable: words were removed, ids have other numbers"))
        else:
            rows.append(_row(it, name, make))
        shown.advance(task)
    shown.finish(task)
    return CallTable(type(it.dense).__name__, tuple(rows))


def _row(it: Subject, name: str, make: Callable[[Subject, str], Row]) -> Row:
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return make(it, name)
            except Refused:
                # The network may refuse float64 only.
                return make(replace(it, narrow=True), name)
    except NotTaken as why:
        return Row(name, NONE, reason=str(why))
    except Exception as error:
        return Row(name, FAILS, reason=f"the call could not be made: {in_short(error)}")


def _makers(calls: Calls) -> dict[str, Callable[[Subject, str], Row]]:
    if calls is None:
        return dict(CALLS)
    if isinstance(calls, Mapping):
        return {name: _of_user(name, value) for name, value in calls.items()}
    names = [calls] if isinstance(calls, str) else list(calls)
    for name in names:
        if name not in CALLS:
            raise OptionError(f"calls names {name!r}, which is none of the built-in calls.{nearest(name, CALLS)}")
    return {name: CALLS[name] for name in names}


def _of_user(name: str, value: Any) -> Callable[[Subject, str], Row]:
    if callable(value) and not isinstance(value, nn.Module):
        # The user's tensors have the network's own type.
        return lambda it, row: it.pair(torch.float32).row(row, value, tolerance=SINGLE, one_number=False)
    if (
        isinstance(value, tuple)
        and len(value) == 2
        and isinstance(value[0], tuple | list)
        and isinstance(value[1], dict)
    ):
        args, kwargs = tuple(value[0]), value[1]
        return lambda it, row: it.pair().row(row, call_of(it.pair().wide(args), it.pair().wide(kwargs)))
    raise OptionError(
        f"the call {name!r} is a {type(value).__name__}; allowed: a function of the model, or a pair of a tuple of "
        "arguments and a dict of keyword arguments."
    )
