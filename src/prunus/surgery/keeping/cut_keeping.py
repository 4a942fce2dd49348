"""Cut a model and keep all of its forwards: slice tensors, mend numbers, resize torch's attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from prunus.errors import CaptureError, PlanError
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Graph, Node
from prunus.graph.kept_forward import OwnForward
from prunus.plans import Mend, Plan
from prunus.surgery.attributes import mend_attributes_, mend_convolutions_
from prunus.surgery.bypassing import silenced
from prunus.surgery.keeping.foreign_scales import other_number
from prunus.surgery.keeping.mending import mend_
from prunus.surgery.keeping.shipped_modules import ship_, widen_attention_
from prunus.surgery.record import Surgery, merge_changes
from prunus.surgery.rewriting.diff_programs import Differ
from prunus.surgery.tensors import copy_with


def keep_forwards(
    model: nn.Module,
    coupling: Coupling,
    plan: Plan,
    edited: Graph,
    values: Mapping[str, torch.Tensor],
    inputs: Any,
    own: OwnForward,
) -> tuple[nn.Module, Surgery]:
    """Cut a model on the terms of its own forwards.

    Args:
        model: the original; untouched.
        coupling: its analysis.
        plan: kept units and dropped branches.
        edited: the program that the cut model has to compute.
        values: the tensors of that program.
        inputs: inputs of the cut model.
        own: the terms.

    Raises:
        PlanError: the plan breaks a term; the message names it, and says what to do.
        CaptureError: the cut model does not run.
    """
    refuse_broken_terms(own, coupling, plan)
    _refuse_uneven(own, coupling, plan)
    mends = mends_of(own, coupling, plan.axes)
    if plan.mended and plan.mended != mends:
        raise PlanError(
            f"The numbers to mend in the plan do not follow from its axes: {_difference(plan.mended, mends)}. "
            "Plan again."
        )
    small = copy_with(model, coupling.graph, values)
    changes = merge_changes(mend_attributes_(small, coupling.graph, edited), mend_convolutions_(small, edited))
    try:
        mended = mend_(small, mends)
    except LookupError as error:
        raise CaptureError(
            f"{type(model).__name__} was changed since it was captured: {error}. Capture it again."
        ) from error
    zeros = silenced(model, coupling, plan, edited)
    shipped = widen_attention_(small, coupling, plan, zeros)
    ship_(small, zeros)
    return small, Surgery(
        "module",
        changes,
        removed=tuple(zeros),
        mended=mended,
        shipped={**shipped, **zeros},
        forward="keep",
        same_program=_runs_program(small, edited, values, inputs),
    )


def _runs_program(small: nn.Module, edited: Graph, values: Mapping[str, torch.Tensor], inputs: Any) -> bool:
    """Return True if a cut model runs the edited program op by op.

    Raises:
        CaptureError: it computes a number from a size that is cut.
    """
    again = capture(small, inputs, method="record" if "fake" in edited.how else "run")
    if Differ(edited, again, values).first() is None:
        return True
    other = other_number(edited, again)
    if other is not None:
        raise CaptureError(
            f"{type(small).__name__} cannot keep its forward under this plan: {again.where(other)} computes a number "
            f"from a size that is cut ({_floats_of(other)}). Freeze its axes, or cut with forward='rewrite'."
        )
    return False


def _floats_of(node: Node) -> str:
    return ", ".join(f"{k} = {v:g} in {node.op}" for k, v in node.args.items() if type(v) is float)


def refuse_broken_terms(own: OwnForward, coupling: Coupling, plan: Plan) -> None:
    """Raise an error if a plan cuts a frozen axis, or breaks an equation between sizes."""
    name, graph = coupling.axis_of.__getitem__, coupling.graph
    advice = "Plan with the forward kept in mind (own_forward(…).on(coupling)), or cut with forward='rewrite'."
    for axis, why in own.frozen.items():
        mask = plan.axes.get(axis)
        if mask is not None and not mask.all():
            where = f" ({graph.where(graph.node(why.node))})" if why.node else ""
            raise PlanError(f"Axis {axis!r} would lose units, but {why.reason}{where}. {advice}")
    for axis, after in own.emptied.items():
        mask = plan.axes.get(axis)
        cut = [a for a in after if a in plan.axes and not plan.axes[a].all()]
        if cut and (mask is None or mask.any()):
            raise PlanError(f"Axis {cut[0]!r} would lose units while {axis!r}, behind it in a slice, stays. {advice}")

    for equation in own.broken(lambda atom: coupling.kept(atom, plan.axes)):
        left, right = (side.described(name) for side in (equation.left, equation.right))
        where = f" ({graph.where(graph.node(equation.node))})" if graph.find(equation.node) else ""
        raise PlanError(f"The plan breaks {left} = {right}, for {equation.reason}{where}. {advice}")


def _refuse_uneven(own: OwnForward, coupling: Coupling, plan: Plan) -> None:
    for multiple in own.multiples:
        now, before = (multiple.count.at(size) for size in (lambda a: coupling.kept(a, plan.axes), coupling.size))
        if now is not None and now != before and now % multiple.step:
            formula = multiple.count.described(coupling.axis_of.__getitem__)
            raise PlanError(f"The plan keeps {formula} = {now}, no multiple of {multiple.step}: {multiple.reason}.")


def mends_of(own: OwnForward, coupling: Coupling, keep: Mapping[str, np.ndarray]) -> tuple[Mend, ...]:
    """Return the numbers that a cut changes, sorted by module and name.

    Raises:
        PlanError: a number would not be whole.
    """
    mends = []
    for attribute, count in own.attributes.items():
        new, old = count.at(lambda atom: coupling.kept(atom, keep)), own.old[attribute]
        if new is None:
            formula = count.described(coupling.axis_of.__getitem__)
            raise PlanError(f"{attribute} would have to be {formula}, which is no whole number; keep other counts.")
        if new != old:
            mends.append(Mend(attribute.path, attribute.name, old, new))
    return tuple(sorted(mends, key=lambda m: (m.path, m.name)))


def _difference(planned: Sequence[Mend], mends: Sequence[Mend]) -> str:
    one, two = {str(m) for m in planned}, {str(m) for m in mends}
    return f"it says {', '.join(sorted(one - two)) or 'nothing'}, its axes {', '.join(sorted(two - one)) or 'nothing'}"
