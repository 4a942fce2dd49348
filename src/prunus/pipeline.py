"""The one-call function and its stages: capture → couple → score → allocate → cut → verify."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from prunus.budget import ALLOCATORS, Bound, Limit, fit_units, parse_budget
from prunus.budget.weights import WEIGHT_ALLOCATORS, fit_weights
from prunus.criteria import UNIT_CRITERIA
from prunus.errors import BudgetError, OptionError
from prunus.graph.capture import unwrap
from prunus.graph.coupling import Coupling, couple, opted_in
from prunus.graph.parts import Captured, capture_or_parts
from prunus.masks import absolute_masks, prunable_weights
from prunus.measurement.price import cost_model
from prunus.planning import check_weights, make_plan, unit_criterion, unit_decisions
from prunus.plans import Cost, Decision, Plan
from prunus.selectors import bounds_on, ignored_axes, matching_modules, tensors_below
from prunus.surgery.cut import cut, operate
from prunus.surgery.record import Surgery
from prunus.surgery.tensors import slice_tensors
from prunus.surgery.verify import Check, verify
from prunus.tree import grow_tree

LEVELS = ("unit", "weight")
NEEDS_ACTIVATIONS = ("contribution", "sensitivity")
Bounds = Mapping[str, Bound | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What `prune` returns; printing it shows a table.

    Attributes:
        model: the smaller network.
        plan: what went and why; ``plan.keep`` maps tensor name → dim → kept indices.
        before, after: exact counts.
        check: the proof that masked and cut agree.
        coverage: share of the parameters that lie on removable axes.
        surgery: which forwards were rewritten and which integers mended.
        parts: the submodules that were captured, where the whole could not be; the rest is as it was.
        example_inputs: what the model was captured with; file formats that need a call of it use them.
    """

    model: nn.Module
    plan: Plan
    before: Cost
    after: Cost
    check: Check
    coverage: float
    surgery: Surgery
    parts: tuple[str, ...] = ()
    example_inputs: Any = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        rows = [("", "before", "after", "kept")]
        for label, name in (("params", "params"), ("MACs forward", "macs_forward"),
                             ("MACs backward", "macs_backward"), ("bytes", "param_bytes")):  # fmt: skip
            old, new = getattr(self.before, name), getattr(self.after, name)
            rows.append((label, f"{old:,}", f"{new:,}", f"{new / old:.1%}" if old else "–"))
        if self.plan.masks:
            total, kept = self.before.params, self.after.params - self._masked()
            rows.append(("weights not masked", f"{total:,}", f"{kept:,}", f"{kept / total:.1%}"))
        widths = [max(len(r[i]) for r in rows) for i in range(4)]
        lines = ["  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True)))
                 for r in rows]  # fmt: skip
        lines += [str(self.check), f"coverage: {self.coverage:.1%} of the parameters can be removed"]
        if self.parts:
            lines.append(f"captured in parts (MACs count these alone): {', '.join(self.parts)}")
        return "\n".join(lines)

    def _masked(self) -> int:
        """Return how many weights of the cut model the masks hold at zero."""
        count = 0
        for name, mask in self.plan.masks.items():
            left = mask
            for dim, index in self.plan.keep.get(name, {}).items():
                left = left.take(index, axis=dim)
            count += int((~left).sum())
        return count


def prune(
    model: nn.Module,
    example_inputs: Any,
    *,
    budget: Mapping[str, float | int | str],
    criterion: str = "magnitude",
    levels: Sequence[str] = ("unit",),
    data: Iterable[Any] | None = None,
    ignore: Sequence[str] = (),
    seed: int = 0,
    allocator: str | None = None,
    bounds: Bounds | None = None,
    opt_in: Sequence[str] = (),
) -> PruneResult:
    """Return a smaller network that provably computes what the masked original computes.

    Args:
        model: any network that can be captured; it is left untouched.
        example_inputs: a tensor, a tuple of arguments, or a dict of keyword arguments.
        budget: ``{"params": 0.5}``, ``{"macs": 0.3}``, ``{"bytes": "2MB"}``; several mean all.
        criterion: how units are scored: magnitude, contribution, sensitivity, taylor, random.
        levels: ``("unit",)`` removes units, ``("weight",)`` masks weights, both share the budget.
        data: batches (inputs, targets) for criteria that need them; cross-entropy is the loss.
        ignore: modules to leave as they are: names, globs, ``re:`` patterns, class names.
        seed: for criteria and checks that draw numbers.
        allocator: who gets how much: uniform, global, isomorphic, erk, lamp, lagrangian, knapsack, viterbi; single
            weights know uniform, global, erk and lamp. By default uniform for units and global for weights.
        bounds: limits of parts of the tree: ``{"stage3/*/heads": {"round_to": 2}, "layer4": {"floor": 0.5}}`` with
            any of floor, ceiling, round_to, frozen, forced.
        opt_in: what else may go: ``"experts"`` whole, with their rows of the router; ``"vocabulary"``, tokens. Tokens
            that stay are numbered anew: ``plan.keep[embedding][0]`` lists their old ids.

    Raises:
        UsageError: bad arguments, NaN weights, unknown names.
        CaptureError: the model cannot be captured.
        BudgetError: nothing is removable, or the budget is out of reach or met already.
        VerifyError: the cut model differs; nothing is returned.
    """
    model = unwrap(model)
    captured, coupling, chosen = _planned(
        model, example_inputs, budget, criterion, levels, data, ignore, seed, allocator, bounds, opt_in
    )
    small, surgery = operate(captured.model, coupling, chosen, captured.inputs)
    check = verify(captured.model, small, coupling, chosen, captured.inputs, seed=seed)
    assert chosen.before is not None
    assert chosen.after is not None
    small = captured.restored(small, model)
    return PruneResult(
        small, chosen, chosen.before, chosen.after, check, coupling.coverage(), surgery, captured.parts, example_inputs
    )


def plan(
    model: nn.Module,
    example_inputs: Any,
    *,
    budget: Mapping[str, float | int | str],
    criterion: str = "magnitude",
    levels: Sequence[str] = ("unit",),
    data: Iterable[Any] | None = None,
    ignore: Sequence[str] = (),
    seed: int = 0,
    allocator: str | None = None,
    bounds: Bounds | None = None,
    opt_in: Sequence[str] = (),
) -> Plan:
    """Decide what would go and price it exactly; nothing is changed. Arguments as in `prune`."""
    return _planned(
        unwrap(model), example_inputs, budget, criterion, levels, data, ignore, seed, allocator, bounds, opt_in
    )[2]


def _planned(
    model: nn.Module,
    example_inputs: Any,
    budget: Mapping[str, float | int | str],
    criterion: str,
    levels: Sequence[str],
    data: Iterable[Any] | None,
    ignore: Sequence[str],
    seed: int,
    allocator: str | None,
    bounds: Bounds | None,
    opt_in: Sequence[str],
) -> tuple[Captured, Coupling, Plan]:
    """Capture and couple once, then plan; the cut goes on from the same coupling."""
    _check_levels(levels, budget)
    _check_ignore(ignore)
    UNIT_CRITERIA.get(criterion)
    if allocator is not None and allocator not in WEIGHT_ALLOCATORS:
        ALLOCATORS.get(allocator)
    check_weights(model)
    more = opted_in(opt_in)
    captured = capture_or_parts(model, example_inputs)
    if captured.parts and criterion in NEEDS_ACTIVATIONS:
        raise OptionError(
            f"criterion {criterion!r} runs data through the captured program, and {type(model).__name__} was captured "
            f"in parts ({', '.join(captured.parts)}); use magnitude or taylor."
        )
    coupling = couple(captured.graph, **more)
    cost = cost_model(coupling)
    limits = parse_budget(budget, cost.price())
    held = ignored_axes(coupling, ignore) if ignore else set()
    free = [a for a in coupling.axes if a not in held]
    if "unit" in levels and not free:
        raise BudgetError(_nothing_removable(coupling, ignore))
    _check_anything_to_do(limits, cost.price())
    keep: dict[str, np.ndarray] = {}
    decisions: list[Decision] = []
    if "unit" in levels:
        scores = unit_criterion(model, coupling, criterion, data, seed)
        shared = tuple(_share(limit, cost.price()) for limit in limits) if "weight" in levels else limits
        chosen = bounds_on(grow_tree(coupling), bounds) if bounds else {}
        keep = fit_units(cost, {a: scores[a] for a in free}, shared, allocator=allocator or "uniform", bounds=chosen)
        decisions = unit_decisions(keep, criterion)
    masks = _weight_masks(model, coupling, keep, limits, ignore, allocator) if "weight" in levels else {}
    settings = {"budget": _plain(budget), "criterion": criterion, "levels": list(levels), "ignore": list(ignore),
                "seed": seed}  # fmt: skip
    if allocator is not None:
        settings["allocator"] = allocator
    if opt_in:
        settings["opt_in"] = list(opt_in)
    if bounds:
        settings["bounds"] = {pattern: asdict(Bound.of(bound)) for pattern, bound in bounds.items()}
    return captured, coupling, make_plan(coupling, keep, masks=masks, decisions=decisions, settings=settings, cost=cost)


def apply(model: nn.Module, plan: Plan, example_inputs: Any) -> nn.Module:
    """Cut a model exactly as a plan says, and verify it; the argument is untouched.

    Raises:
        PlanError: the plan was made for another model.
        VerifyError: the cut model differs from the masked original.
    """
    model = unwrap(model)
    captured = capture_or_parts(model, example_inputs)
    coupling = couple(captured.graph, **opted_in(plan.settings.get("opt_in", ())))
    small = cut(captured.model, coupling, plan, captured.inputs)
    verify(captured.model, small, coupling, plan, captured.inputs)
    return captured.restored(small, model)


def _check_levels(levels: Sequence[str], budget: Mapping[str, Any]) -> None:
    unknown = [x for x in levels if x not in LEVELS]
    if unknown or not levels or isinstance(levels, str):
        raise OptionError(f"levels is {levels!r}; allowed: a tuple of {', '.join(LEVELS)}.")
    if "weight" in levels and set(budget) != {"params"}:
        raise OptionError(
            f"budget {sorted(budget)} with level 'weight': masked weights are zeros and change neither MACs nor dense "
            "bytes; give the budget as params (weights that are not zero), or use levels=('unit',)."
        )


def _check_ignore(ignore: Sequence[str]) -> None:
    if isinstance(ignore, str) or not all(isinstance(pattern, str) for pattern in ignore):
        raise OptionError(f"ignore is {ignore!r}; allowed: a list of patterns such as ['head', 'layer3.*'].")


def _check_anything_to_do(limits: Sequence[Limit], before: Cost) -> None:
    if all(limit.holds(before) for limit in limits):
        met = ", ".join(f"{limit.metric} ≤ {limit.value:,} (it has {limit.of(before):,})" for limit in limits)
        raise BudgetError(f"The model meets the budget as it is: {met}; nothing would go. Lower the budget.")


def _plain(budget: Mapping[str, Any]) -> dict[str, Any]:
    """Return a budget that JSON can hold."""
    return {metric: value.item() if isinstance(value, np.generic) else value for metric, value in budget.items()}


def _share(limit: Limit, before: Cost) -> Limit:
    """The unit level's part when the weight level shares the budget: the geometric mean of all and the limit."""
    return Limit(limit.metric, int((limit.value * limit.of(before)) ** 0.5))


def _weight_masks(
    model: nn.Module,
    coupling: Coupling,
    keep: Mapping[str, np.ndarray],
    limits: Sequence[Limit],
    ignore: Sequence[str],
    allocator: str | None,
) -> dict[str, np.ndarray]:
    """Mask the smallest weights of what the unit level left, until the non-zero parameters meet the limit."""
    temporary = make_plan(coupling, keep)
    assert temporary.after is not None
    weights = {n: w for n, w in prunable_weights(model).items() if n in coupling.tensors}
    if ignore:
        spared = tensors_below(coupling, matching_modules(coupling, ignore))
        weights = {n: w for n, w in weights.items() if n not in spared}
    alive = {n: torch.from_numpy(_alive(coupling, keep, n)) for n in weights}
    rest = temporary.after.params - sum(int(a.sum()) for a in alive.values())
    count = limits[0].value - rest
    if count < len(weights):
        raise BudgetError(
            f"Budget params ≤ {limits[0].value:,} cannot be met by masks: {rest:,} parameters are no maskable weights. "
            "Raise the budget or add the level 'unit'."
        )
    small = slice_tensors({n: w.detach() for n, w in weights.items()}, coupling, temporary)
    count = min(count, sum(w.numel() for w in small.values()))
    if allocator is not None and allocator in WEIGHT_ALLOCATORS:
        found = fit_weights({n: w.abs().double().cpu().numpy() for n, w in small.items()}, count, allocator)
        chosen = {n: torch.from_numpy(mask) for n, mask in found.items()}
    else:
        chosen = absolute_masks(small, keep_count=count)
    masks = {}
    for name, mask in chosen.items():
        whole = np.ones(tuple(weights[name].shape), bool)
        whole[alive[name].numpy()] = mask.cpu().numpy().reshape(-1)
        masks[name] = whole
    return masks


def _alive(coupling: Coupling, keep: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    out = np.ones((), bool)
    for expr in coupling.tensors[name]:
        out = np.logical_and.outer(out, coupling.mask(expr, keep))
    return out


def _nothing_removable(coupling: Coupling, ignore: Sequence[str]) -> str:
    reasons = sorted({f.reason for f in coupling.frozen})
    held = f" (ignored: {', '.join(ignore)})" if ignore else ""
    if not reasons and not coupling.axes:
        return "Nothing can be removed from this model: it has no weights."
    why = f"frozen ({', '.join(reasons[:6])})"
    if not coupling.axes:
        return f"Nothing can be removed from this model: all its dims are {why}. Use levels=('weight',)."
    return (
        f"Nothing can be removed from this model{held}: all {len(coupling.axes)} axes are held, the other dims are "
        f"{why}. Loosen ignore, or use levels=('weight',)."
    )
