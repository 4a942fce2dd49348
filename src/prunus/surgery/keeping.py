"""Cut a model in which every forward stays the user's: tensors sliced, numbers mended, attention of torch widened."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prunus.errors import CaptureError, PlanError
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Graph
from prunus.graph.layout import Expr, Prod
from prunus.nn.attention import widened_
from prunus.plans import Plan
from prunus.surgery.attributes import mend_attributes_, mend_convolutions_
from prunus.surgery.differ import Differ
from prunus.surgery.mending import Mend, mend_
from prunus.surgery.own_forward import OwnForward
from prunus.surgery.record import Shipped, Surgery, merge_changes
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
        plan: what goes.
        edited: the program that the cut model shall compute.
        values: its tensors.
        inputs: of the cut model.
        own: the terms.

    Raises:
        PlanError: the plan breaks them; the message says which, and what to do.
        CaptureError: the cut model does not run.
    """
    refuse_broken_terms(own, coupling, plan)
    mends = _mends(own, coupling, plan)
    small = copy_with(model, coupling.graph, values)
    changes = merge_changes(mend_attributes_(small, coupling.graph, edited), mend_convolutions_(small, edited))
    try:
        done = mend_(small, mends)
    except LookupError as error:
        raise CaptureError(
            f"{type(model).__name__} was changed since it was captured: {error}. Capture it again."
        ) from error
    shipped = _widen_attention_(small, coupling, plan, values)
    how = "record" if "fake" in coupling.graph.how else "run"
    again = capture(small, inputs, method=how)
    same = Differ(edited, again, values).first() is None
    return small, Surgery("module", changes, mended=done, shipped=shipped, forward="keep", same_program=same)


def refuse_broken_terms(own: OwnForward, coupling: Coupling, plan: Plan) -> None:
    """Insist that a plan keeps whole what has to stay whole, and sizes equal that have to be equal."""
    name, graph = coupling.axis_of.__getitem__, coupling.graph
    way = "Plan with the forward kept in mind (own_forward(…).on(coupling)), or cut with forward='rewrite'."
    for axis, why in own.frozen.items():
        mask = plan.axes.get(axis)
        if mask is not None and not mask.all():
            where = f" ({graph.where(graph.node(why.node))})" if why.node else ""
            raise PlanError(f"Axis {axis!r} would lose units, but {why.reason}{where}. {way}")

    def kept(atom: int) -> int:
        return coupling.kept(atom, plan.axes)

    for equation in own.equations:
        gap = (equation.left - equation.right).at(kept)
        if gap != 0:
            left, right = (side.described(name) for side in (equation.left, equation.right))
            where = f" ({graph.where(graph.node(equation.node))})" if graph.find(equation.node) else ""
            raise PlanError(f"The plan breaks {left} = {right}, for {equation.reason}{where}. {way}")


def _mends(own: OwnForward, coupling: Coupling, plan: Plan) -> list[Mend]:
    found = []
    for attribute, count in own.attributes.items():
        new, old = count.at(lambda atom: coupling.kept(atom, plan.axes)), own.old[attribute]
        if new is None:
            formula = count.described(coupling.axis_of.__getitem__)
            raise PlanError(f"{attribute} would have to be {formula}, which is no whole number; keep other counts.")
        if new != old:
            found.append(Mend(attribute.path, attribute.name, old, new))
    return found


def _widen_attention_(
    small: nn.Module, coupling: Coupling, plan: Plan, values: Mapping[str, torch.Tensor]
) -> dict[str, Shipped]:
    """Give every `torch.nn.MultiheadAttention` that lost something its new widths."""
    shipped = {}
    for path, module in small.named_modules(remove_duplicate=True):
        if type(module) is not nn.MultiheadAttention:
            continue
        prefix = f"{path}." if path else ""
        names = {n: coupling.graph.aliases.get(f"{prefix}{n}", f"{prefix}{n}")
                 for n in ("out_proj.weight", "in_proj_weight", "q_proj_weight")}  # fmt: skip
        inner = coupling.tensors[names["out_proj.weight"]][1]
        heads, width = _heads_of(coupling, inner, module.head_dim)
        num_heads, value_dim = coupling.kept(heads, plan.axes), coupling.kept(width, plan.axes)
        rows = (coupling.kept(coupling.tensors[names["in_proj_weight"]][0], plan.axes) - num_heads * value_dim
                if module._qkv_same_embed_dim
                else 2 * coupling.kept(coupling.tensors[names["q_proj_weight"]][0], plan.axes))  # fmt: skip
        head_dim, scale = rows // (2 * num_heads), 1 / math.sqrt(module.head_dim)
        record = _resized(module, num_heads, head_dim, value_dim, scale)
        if record is not None:
            shipped[path] = record
    return shipped


def _resized(
    module: nn.MultiheadAttention, num_heads: int, head_dim: int, value_dim: int, scale: float
) -> Shipped | None:
    """Set the widths of an attention; it stays torch's where torch's can hold them. None where nothing changed."""
    width = module.out_proj.weight.shape[0]
    same = (num_heads, head_dim, value_dim, width) == (
        module.num_heads,
        module.head_dim,
        module.head_dim,
        module.embed_dim,
    )
    if same:
        return None
    keys = [module.k_proj_weight, module.v_proj_weight]
    kdim, vdim = (width if w is None else w.shape[1] for w in keys)
    record = Shipped("MultiheadAttention", {"embed_dim": width, "kdim": kdim, "vdim": vdim, "num_heads": num_heads,
                                            "head_dim": head_dim, "value_dim": value_dim}, scale)  # fmt: skip
    ship_attention_(module, record)
    return record


def ship_attention_(module: nn.Module, record: Shipped) -> None:
    """Make a module of torch the shipped one that a record describes; its parameters are cut already."""
    if not isinstance(module, nn.MultiheadAttention):
        raise ValueError(f"a {type(module).__name__} where the cut found a MultiheadAttention")
    sizes = record.sizes
    module.embed_dim, module.kdim, module.vdim = sizes["embed_dim"], sizes["kdim"], sizes["vdim"]
    fills = sizes["num_heads"] * sizes["head_dim"] == sizes["embed_dim"] and sizes["value_dim"] == sizes["head_dim"]
    if fills and math.isclose(record.scale, 1 / math.sqrt(sizes["head_dim"])):
        module.num_heads, module.head_dim = sizes["num_heads"], sizes["head_dim"]
        return
    widened_(module, sizes["num_heads"], sizes["head_dim"], sizes["value_dim"], record.scale)


def _heads_of(coupling: Coupling, inner: Expr, head_dim: int) -> tuple[Expr, Expr]:
    """Write the inner width of an attention as heads × width of a head."""
    if isinstance(inner, Prod):
        for at in range(1, len(inner.factors)):
            trail = Prod(inner.factors[at:])
            if coupling.size(trail) == head_dim:
                return Prod(inner.factors[:at]), trail
    size = coupling.size(inner)
    if size == head_dim:
        return Prod(()), inner  # a single head
    if not any(a in coupling.axis_of for a in _atoms(inner)):
        return _constant(coupling, size // head_dim), _constant(coupling, head_dim)
    raise CaptureError("The heads of an attention could not be told from their width; use forward='rewrite'.")


def _atoms(expr: Expr) -> list[int]:
    from prunus.graph.layout import atoms_of

    return list(atoms_of(expr))


def _constant(coupling: Coupling, size: int) -> Expr:
    """Return an expression of a size that no cut changes."""
    from prunus.graph.layout import UNIT, Sum

    return Sum((UNIT,) * size)
