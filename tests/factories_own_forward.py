"""Cuts that keep every forward: the analysis with its terms, a plan within them, the proof."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import nn

from prunus.analysis.score import make_plan
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.graph.kept_forward import OwnForward
from prunus.nn import Bypass, MultiheadAttention, Zero
from prunus.plans import Plan
from prunus.surgery.cut import cut_with_record
from prunus.surgery.keeping.own_forward import own_forward
from prunus.surgery.proving.verify import Check, verify

SHIPPED = (Bypass, MultiheadAttention, Zero)


def terms_of(model: nn.Module, inputs: Any, **options: Any) -> tuple[Coupling, OwnForward]:
    """Return the analysis with every axis that may go, and the terms."""
    coupling = couple(capture(model.eval(), inputs))
    return coupling, own_forward(model, coupling, inputs, **options)


def kept_units(coupling: Coupling, share: float = 0.5, seed: int = 0) -> dict[str, np.ndarray]:
    """Choose units at random: this share of every axis, of every step where axes are tied."""
    generator = np.random.default_rng(seed)
    units = {a: (n, tie.rest.get(a, 0)) for tie in coupling.ties for a, n in tie.units.items()}
    emptied = coupling.forward.emptied if coupling.forward is not None else {}
    keep = {}
    for axis in coupling.axes.values():
        step, rest = units.get(axis.id, (1, 0))
        count = 0 if axis.id in emptied else max(1, int((axis.size - rest) // step * share)) * step + rest
        keep[axis.id] = np.zeros(axis.size, bool)
        keep[axis.id][generator.permutation(axis.size)[:count]] = True
    return keep


def keep_forward(
    model: nn.Module, inputs: Any, *, share: float = 0.5, seed: int = 0, same_program: bool = False, **options: Any
) -> Any:
    """Cut a model on its own terms and prove it; ``small``, ``surgery``, ``plan``, ``check``, ``coupling``."""
    coupling, own = terms_of(model, inputs, **options)
    coupling = own.on(coupling)
    plan = make_plan(coupling, kept_units(coupling, share, seed))
    small, surgery = cut_with_record(model, coupling, plan, inputs)
    check: Check = verify(model, small, coupling, plan, inputs, same_program=same_program)
    assert_own_forwards(model, small)
    return SimpleNamespace(model=small, surgery=surgery, plan=plan, check=check, coupling=coupling, own=own)


def assert_own_forwards(model: nn.Module, small: nn.Module) -> None:
    """Insist that every module of a cut model runs the forward of its class, or is one that prunus ships."""
    kinds = {path: type(m) for path, m in model.named_modules()}
    for path, module in small.named_modules():
        assert isinstance(module, SHIPPED) or type(module) is kinds[path], path


def plan_of(coupling: Coupling, **keep: Any) -> Plan:
    """Return a plan that keeps the units of these axes; ``_`` stands for ``:`` and ``.`` in names is written out."""
    return make_plan(coupling, {a: np.asarray(m, bool) for a, m in keep.items()})
