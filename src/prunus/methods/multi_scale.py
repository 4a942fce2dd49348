"""Multi-scale: blocks, then units, then weights, all under one budget; the split between them is chosen by the loss."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prunus.budget import Limit
from prunus.errors import BudgetError
from prunus.masks import absolute_masks
from prunus.methods.gates import Gates
from prunus.methods.layer_wise import layer_wise_keep
from prunus.methods.modular import greedy
from prunus.methods.reduction import Reduction, droppable, whole
from prunus.methods.subject import Subject, method
from prunus.methods.true_loss import loss_of
from prunus.methods.weights import maskable
from prunus.planning import make_plan
from prunus.plans import Decision, Plan
from prunus.surgery.cut import operate
from prunus.surgery.tensors import slice_tensors, sliced_masks
from prunus.training import finetune_, reestimate_statistics_

BLOCK_SHARES = (1.0, 0.75)
UNIT_SHARES = (1.0, 0.7, 0.45)
_STEPS = 6


@dataclass(frozen=True, slots=True)
class Split:
    """How much each scale keeps of what the scale above left; the product is the kept share."""

    blocks: float
    units: float
    weights: float

    def __str__(self) -> str:
        return f"blocks {self.blocks:.0%} × units {self.units:.0%} × weights {self.weights:.0%}"


def splits(kept: float) -> list[Split]:
    """Return the divisions of a budget that are tried: no scale keeps less than 8 % of what it is given."""
    found = []
    for blocks in BLOCK_SHARES:
        for units in UNIT_SHARES:
            weights = kept / (blocks * units)
            if 0.08 <= weights <= 1.0:
                found.append(Split(blocks, units, weights))
    return found


@method("multi-scale", "hierarchical", "blocks, then units, then weights, one budget divided by the loss")
def multi_scale(subject: Subject, kept: float) -> Plan:
    """Prune from the whole to the part and choose the division of the budget on the selection split.

    Each candidate is cut, gets its norm statistics re-estimated and a few training steps on calibration data, and is
    judged by its loss on the selection split: a cheap recovery makes candidates comparable.
    """
    candidates = splits(kept)
    best: tuple[float, Plan] | None = None
    subject.progress.start("multi-scale", len(candidates))
    for split in candidates:
        try:
            plan = plan_split(subject, split, kept)
        except BudgetError:
            plan = None
        if plan is not None:
            loss = _selection_loss(subject, plan)
            if best is None or loss < best[0]:
                best = (loss, plan)
        subject.progress.advance("multi-scale")
    subject.progress.finish("multi-scale")
    if best is None:
        raise BudgetError(f"kept {kept}: no division of the budget over blocks, units and weights fits this network.")
    return best[1]


def plan_split(subject: Subject, split: Split, kept: float) -> Plan:
    """Plan one division: drop blocks, then units, then mask weights until exactly the kept share is left."""
    total = subject.cost.price().params
    reduction = _drop_blocks(subject, split.blocks)
    keep = dict(reduction.keep)
    decisions = [Decision(b.id, "block", b.params, b.params, "least gate importance per parameter")
                 for b in reduction.dropped]  # fmt: skip
    if split.units < 1:
        limit = Limit("params", int(total * split.blocks * split.units))
        keep = layer_wise_keep(subject, (limit,), base=keep, cost=reduction.cost)
        decisions += [Decision(a, "unit", int((~m).sum()), len(m), "its share by the loss when it alone is cut")
                      for a, m in keep.items() if m.any() and not m.all()]  # fmt: skip
    masks = _masks(subject, reduction, keep, int(kept * total))
    decisions += [Decision(n, "weight", int((~m).sum()), m.size, "|w| below the threshold") for n, m in masks.items()]
    return make_plan(subject.coupling, keep, reduction.drops, masks=masks, decisions=decisions,
                     settings={"method": "multi-scale", "split": str(split)}, cost=subject.cost)  # fmt: skip


def _drop_blocks(subject: Subject, share: float) -> Reduction:
    """Drop branches, least gate importance per parameter first, down to a share of the parameters."""
    start, branches = whole(subject), droppable(subject)
    if share >= 1 or not branches:
        return start
    importance = Gates(subject).importance(start)
    worth = {b.id: sum(importance[edge] for edge in b.edges) for b in branches}
    return greedy(start, branches, worth, subject.limit(share).value)


def _masks(
    subject: Subject, reduction: Reduction, keep: Mapping[str, np.ndarray], budget: int
) -> dict[str, np.ndarray]:
    """Mask the smallest of the weights that are left, so that all parameters together meet the budget exactly."""
    bare = make_plan(subject.coupling, keep, reduction.drops, cost=subject.cost)
    assert bare.after is not None
    if bare.after.params <= budget:
        return {}
    live = {n.tensor for n in reduction.graph.nodes if n.tensor}
    weights = {n: w for n, w in maskable(subject).items() if n in live}
    small = slice_tensors(weights, subject.coupling, bare)
    maskable_left = sum(w.numel() for w in small.values())
    count = budget - (bare.after.params - maskable_left)
    if count < len(small):
        raise BudgetError("the parameters that cannot be masked exceed the budget")
    out = {}
    for name, mask in absolute_masks(small, keep_count=count).items():
        alive = np.ones((), bool)
        for expr in subject.coupling.tensors[name]:
            alive = np.logical_and.outer(alive, subject.coupling.mask(expr, keep))
        whole = np.ones(alive.shape, bool)
        whole[alive] = mask.numpy().reshape(-1)
        if not whole.all():
            out[name] = whole
    return out


def _selection_loss(subject: Subject, plan: Plan) -> float:
    small, _ = operate(subject.model, subject.coupling, plan, subject.example_inputs)
    small = copy.deepcopy(small)
    reestimate_statistics_(small, subject.calibration.batches(64))
    finetune_(small, subject.calibration, steps=_STEPS, lr=1e-3, masks=sliced_masks(plan) or None, seed=subject.seed)
    return loss_of(subject, small)
