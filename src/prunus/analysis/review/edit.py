"""A plan that a person has edited: it is checked against the model and its constraints, and its parts recomputed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prunus.analysis.score import make_plan
from prunus.budget import parse_budget
from prunus.cost.price import cost_model
from prunus.errors import PlanError, nearest
from prunus.foundation.index_ranges import to_ranges
from prunus.graph.coupling import Coupling
from prunus.plans import Decision, Plan
from prunus.surgery.cut import check_fingerprint
from prunus.tree import Branch, find_branches

EDITED = "set by hand"
_BLOCKS = ("block", "structure")


@dataclass(frozen=True, slots=True)
class Settled:
    """A plan whose tensors, price and decisions follow from its axes, and the edits, a line each."""

    plan: Plan
    edits: tuple[str, ...]


def settle(plan: Plan, coupling: Coupling) -> Settled:
    """Recompute every part of an edited plan from its ``axes``; `apply` of a plan folder begins with this.

    A person may change ``keep`` of any axis in ``plan.json``, delete an axis (it stays whole), add one, delete a drop,
    or add the name of a branch to ``drops``. Kept indices of tensors, prices and decisions are recomputed; budget,
    floors and held nodes must still hold.

    Raises:
        PlanError: another model, an unknown axis, a wrong size, an empty axis that is needed, or a constraint that the
            edited plan breaks, by name.
    """
    check_fingerprint(plan, coupling.graph)
    plan, forced = _forced(plan, coupling)
    _check_axes(plan, coupling)
    touched = {a: m for a, m in plan.axes.items() if not m.all()}
    fresh = make_plan(coupling, touched, plan.drops, plan.masks, plan.decisions, plan.settings)
    before = plan.before if plan.bridges else fresh.before  # the price of the network without bridges
    fresh = replace(fresh, merges=plan.merges, bridges=plan.bridges, before=before)
    edits = (*(f"{branch.id}: dropped" for branch in forced), *_edits(plan, fresh))
    if edits:
        _check_constraints(fresh, coupling)
        settings = {k: v for k, v in fresh.settings.items() if k != "damage"}  # measured on the plan before the edit
        fresh = replace(fresh, settings=settings | _counted(plan, fresh))
    decisions = [Decision(b.id, _BLOCKS[0], b.params, b.params, EDITED) for b in forced]
    return Settled(replace(fresh, decisions=(*decisions, *_decisions(plan, fresh))), edits)


def _forced(plan: Plan, coupling: Coupling) -> tuple[Plan, list[Branch]]:
    """Turn the branches that a person named into bypasses, or into axes to empty."""
    named = [drop.label for drop in plan.drops if not drop.join]
    if not named:
        return plan, []
    known = {branch.id: branch for branch in find_branches(coupling)}
    for name in named:
        if name not in known:
            raise PlanError(
                f"The plan drops {name!r}, which is no branch of this model that can go.{nearest(name, known)} "
                f"Known: {', '.join(known) or 'none'}."
            )
    branches = [known[name] for name in dict.fromkeys(named)]
    drops = [*(d for d in plan.drops if d.join), *(b.drop for b in branches if b.drop is not None)]
    emptied = {axis: np.zeros(coupling.axes[axis].size, bool) for b in branches for axis in b.axes}
    return replace(plan, drops=tuple(dict.fromkeys(drops)), axes={**plan.axes, **emptied}), branches


def _check_axes(plan: Plan, coupling: Coupling) -> None:
    for axis, mask in plan.axes.items():
        if axis not in coupling.axes:
            raise PlanError(
                f"The plan names axis {axis!r}, which this model does not have.{nearest(axis, coupling.axes)}"
            )
        size = coupling.axes[axis].size
        if len(mask) != size:
            raise PlanError(f"The plan gives axis {axis!r} {len(mask)} units; this model has {size}. Correct 'size'.")


def _edits(stored: Plan, fresh: Plan) -> list[str]:
    """Describe the axes that a person edited: the stored tensors still show the plan as it was written."""
    lines = []
    decisions = {d.node: d for d in stored.decisions if d.level == "unit"}
    for axis in dict.fromkeys([*fresh.axes, *decisions]):
        mask = fresh.axes.get(axis)
        removed = 0 if mask is None else int((~mask).sum())
        before = decisions[axis].removed if axis in decisions else 0
        if removed != before:
            lines.append(f"{axis}: {before} units went, now {removed}")
    if not lines and _kept(stored) != _kept(fresh):
        changed = sorted(t for t in {**stored.keep, **fresh.keep} if _of(stored, t) != _of(fresh, t))
        lines.append(f"other units of {', '.join(changed[:3])}{' …' if len(changed) > 3 else ''}")
    labels = {d.label for d in stored.drops} | {bridge.path for bridge in stored.bridges}
    dropped = [d.node for d in stored.decisions if d.level in _BLOCKS]
    lines += [f"{node}: no longer dropped" for node in dropped if node not in labels]
    return lines


def _kept(plan: Plan) -> dict[str, dict[int, str]]:
    return {t: _of(plan, t) for t in plan.keep}


def _of(plan: Plan, tensor: str) -> dict[int, str]:
    return {d: to_ranges(np.asarray(i)) for d, i in plan.keep.get(tensor, {}).items()}


def _check_constraints(plan: Plan, coupling: Coupling) -> None:
    whole = plan.before if plan.bridges else cost_model(coupling).price()
    # The cut network stores masked weights too; the price with masks was counted when they were made.
    known = ("macs",) if plan.masks else ("params", "macs", "bytes")
    counted = {m: v for m, v in dict(plan.settings.get("budget") or {}).items() if m in known}
    for limit in parse_budget(counted, whole) if counted else ():
        if not limit.holds(plan.after):
            raise PlanError(
                f"The edited plan breaks its budget: {limit.metric} are {limit.shown(limit.of(plan.after))}, allowed "
                f"{limit.shown()}. Remove more elsewhere, or plan again with another budget."
            )
    for axis in plan.settings.get("held") or ():
        if axis in plan.axes:
            raise PlanError(f"The edited plan cuts {axis!r}, which the recipe holds (ignore). Leave it whole.")
    for axis, least in dict(plan.settings.get("floor") or {}).items():
        left = int(plan.axes[axis].sum()) if axis in plan.axes else None
        if left is not None and left < int(least):
            raise PlanError(f"The edited plan leaves {left} units of {axis!r}; at least {least} are needed.")


def _counted(stored: Plan, fresh: Plan) -> dict[str, Any]:
    """Return the setting ``counted`` of an edited plan whose budget counts units or modules; more are refused."""
    counted: dict[str, Any] = dict(stored.settings.get("counted") or {})
    kind = counted.get("kind")
    if stored.bridges:
        return {}  # bridges cannot be edited, so the number of modules stays
    if kind == "units":
        removed = sum(int((~mask).sum()) for mask in fresh.axes.values())
    elif kind == "modules":
        removed = len({drop.label for drop in fresh.drops})
    else:
        return {}
    kept, allowed = int(counted["of"]) - removed, int(counted["kept"])
    if kept > allowed:
        raise PlanError(
            f"The edited plan breaks its budget: it keeps {kept} of {counted['of']} {kind}, allowed {allowed}. Remove "
            "more elsewhere, or plan again with another budget."
        )
    return {"counted": {**counted, "kept": kept}}


def _decisions(stored: Plan, fresh: Plan) -> tuple[Decision, ...]:
    out = []
    seen = set()
    for d in stored.decisions:
        if d.level != "unit":
            out.append(d)
            continue
        mask = fresh.axes.get(d.node)
        removed = 0 if mask is None else int((~mask).sum())
        seen.add(d.node)
        if removed:
            edited = replace(d, removed=removed, reason=EDITED, score_share=None, damage=None)
            out.append(d if removed == d.removed else edited)
    out += [
        Decision(a, "unit", int((~m).sum()), len(m), EDITED)
        for a, m in fresh.axes.items()
        if a not in seen and not _whole_block(stored)
    ]
    return tuple(out)


def _whole_block(plan: Plan) -> bool:
    """Return whether axes were removed with dropped branches, which have decisions of their own level."""
    return any(d.level in _BLOCKS for d in plan.decisions)
