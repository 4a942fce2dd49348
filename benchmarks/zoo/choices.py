"""Which units of a model stay, what a coupling covers, and how much of the user's own model a cut one still is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from torch import nn

from prunus.budget.fit_units import fit_units
from prunus.budget.limits import Limit
from prunus.cost.price import cost_model
from prunus.graph.coupling import Coupling
from prunus.graph.layout import atoms_of
from prunus.surgery.record import Surgery


def described(coupling: Coupling) -> dict[str, Any]:
    """Return the size of a model, what of it can be removed, and why the rest cannot."""
    price = cost_model(coupling).price()
    reasons = Counter(f.reason for f in coupling.frozen)
    return {
        "axes": len(coupling.axes),
        "params": price.params,
        "macs": price.macs_forward,
        "coverage_params": round(coupling.coverage(), 4),
        "coverage_macs": round(coverage_macs(coupling), 4),
        "unknown": sorted(coupling.unknown),
        "frozen": dict(reasons.most_common()),
    }


def coverage_macs(coupling: Coupling) -> float:
    """Return the share of forward MACs in products that at least one removable axis shrinks."""
    total = covered = 0.0
    for term in cost_model(coupling).macs:
        macs = float(term.factor * np.prod([float(coupling.size(e)) for e in term.dims]))
        total += macs
        covered += macs if any(a in coupling.axis_of for e in term.dims for a in atoms_of(e)) else 0.0
    return covered / total if total else 0.0


def kept_sets(coupling: Coupling, kind: str, seed: int) -> dict[str, np.ndarray]:
    """Choose which units stay: half of every axis, a share between 5 and 90 % of each, or what a budget leaves."""
    generator = np.random.default_rng(seed)
    if kind == "budget":
        scores = {axis.id: generator.random(axis.size) for axis in coupling.axes.values()}
        cost = cost_model(coupling)
        total = cost.price().params
        limit = Limit("params", int(total - round(0.5 * removable_params(coupling))))
        return fit_units(cost, scores, limit)
    keep = {}
    for axis in coupling.axes.values():
        share = 0.5 if kind == "half" else generator.uniform(0.05, 0.9)
        mask = np.zeros(axis.size, bool)
        mask[generator.permutation(axis.size)[: max(1, int(axis.size * share))]] = True
        keep[axis.id] = mask
    return keep


def removable_params(coupling: Coupling) -> int:
    """Return how many parameters lie on a removable axis."""
    return round(coupling.coverage() * cost_model(coupling).price().params)


def kept_of_removable(coupling: Coupling, params: int) -> float:
    """Return the share of the removable parameters that is left when ``params`` are left in all."""
    total, removable = cost_model(coupling).price().params, removable_params(coupling)
    return round(1 - (total - params) / max(removable, 1), 4)


def survival(model: nn.Module, small: nn.Module, surgery: Surgery) -> dict[str, Any]:
    """Say what of the user's own classes is left, and how much of it runs a forward of its own."""
    own = {path: type(m) for path, m in model.named_modules()}
    total = kept = rewritten = 0
    for path, module in small.named_modules():
        count = sum(p.numel() for p in module._parameters.values() if p is not None)
        total += count
        kept += count if path in own and isinstance(module, own[path]) else 0
        rewritten += count if path in surgery.spliced else 0
    return {
        "survives": isinstance(small, type(model)),
        "surgery": surgery.mode,
        "spliced": len(surgery.spliced),
        "spliced_paths": list(surgery.spliced[:3]),
        "removed": len(surgery.removed),
        "own_share": round(kept / max(total, 1), 4),
        "rewritten_share": round(rewritten / max(total, 1), 4),
    }
