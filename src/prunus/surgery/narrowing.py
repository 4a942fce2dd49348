"""Find by trial the axes under which a kept forward fails, where its code hides a number from the analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from prunus.errors import CaptureError
from prunus.graph.coupling import Coupling
from prunus.graph.kept_forward import OwnForward
from prunus.graph.layout import Frozen
from prunus.plans import Plan, fingerprint
from prunus.surgery.cut import operate


def narrowed(model: nn.Module, coupling: Coupling, own: OwnForward, example_inputs: Any) -> OwnForward:
    """Return terms under which a trial cut runs: what makes it fail, found by halving, is frozen.

    To be called when `operate` raised `CaptureError` under ``own``: a number went through code that hides where it
    comes from (``numpy.sqrt(self.width)``), so that it was not known to follow a size.

    Args:
        model: the original; untouched.
        coupling: its analysis, before ``own`` was laid on it.
        own: the terms so far.
        example_inputs: what it was captured with.
    """
    kept = own.on(coupling)
    tied = [tuple(tie.units) for tie in kept.ties]
    members = {a for group in tied for a in group}
    groups = [*tied, *((a,) for a in kept.axes if a not in members and a not in own.emptied)]
    failures: dict[tuple[str, ...], str] = {}

    def failing(chosen: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        why = _failure(model, kept, chosen, example_inputs)
        if not why:
            return []
        if len(chosen) == 1:
            failures[chosen[0]] = why
            return list(chosen)
        half = len(chosen) // 2
        found = failing(chosen[:half]) + failing(chosen[half:])
        if found:
            return found
        failures.update(dict.fromkeys(chosen, why))  # each half is right, both together are not
        return list(chosen)

    for group in failing(groups) if groups else []:
        why = Frozen(f"a trial cut of it failed: {failures[group]}")
        own = replace(own, frozen={**own.frozen, **dict.fromkeys(group, why)},
                      ties=tuple(t for t in own.ties if tuple(t.units) != group))  # fmt: skip
    return own


def _failure(model: nn.Module, kept: Coupling, chosen: Sequence[tuple[str, ...]], example_inputs: Any) -> str:
    """Return why half of every chosen axis cannot go, in a line; empty where it can."""
    plan = _halved(kept, [a for group in chosen for a in group])
    try:
        operate(model, kept, plan, example_inputs)
    except CaptureError as error:
        return str(error).splitlines()[0][:200]
    return ""


def _halved(kept: Coupling, axes: Sequence[str]) -> Plan:
    units: Mapping[str, int] = {a: n for tie in kept.ties for a, n in tie.units.items()}
    keep = {}
    for a in axes:
        size, step = kept.axes[a].size, units.get(a, 1)
        keep[a] = np.arange(size) < max(1, size // step // 2) * step
    if kept.forward is not None:
        keep |= {a: np.zeros(kept.axes[a].size, bool) for a in kept.forward.emptied if a in kept.axes}
    return Plan(fingerprint(kept.graph), keep, kept.tensor_masks(keep))


__all__ = ["narrowed"]
