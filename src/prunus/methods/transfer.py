"""Transfer: the structure, weights and masks of a pretrained network guide what is removed from another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan
from prunus.budget import Limit, Limits, UnitProblem, unit_problem
from prunus.criteria import UnitEvidence
from prunus.criteria.units import unit_magnitude
from prunus.errors import OptionError, nearest
from prunus.exporters.source_network import Match, SourceNetwork, match_lines, match_source, read_source
from prunus.graph.capture import unwrap
from prunus.masks import top_masks
from prunus.methods.masked_copy import live_axes
from prunus.methods.masks_after_units import masks_left
from prunus.methods.method import method
from prunus.methods.reduction import SLACK, Reduction, droppable, tensors_of, whole
from prunus.methods.weights import maskable
from prunus.plans import Decision, Plan
from prunus.recovery import reseed_
from prunus.surgery.copy_module import deep_copy

KEYS = ("from", "weights")
WEIGHTS = ("keep", "copy")
_HALVINGS = 40
_OWN = 0.75
"""The least mean score of a choice that the source has: its units score from 1, the others up to 0.5."""


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """A source network, and the use of its weights: ``keep`` only guides, ``copy`` copies them first."""

    source: SourceNetwork
    weights: str = "keep"

    @staticmethod
    def of(given: Any, base_dir: Path | None = None) -> Transfer:
        """Read ``{"from": "small"}`` or ``{"from": "dense.safetensors", "weights": "copy"}``.

        Args:
            given: a mapping, or a record.
            base_dir: where relative paths start from.

        Raises:
            OptionError: an unknown key or value, or no source.
            ModelError: a source that cannot be read.
        """
        if isinstance(given, Transfer):
            return given
        check_transfer(given)
        source = given["from"]
        if base_dir is not None and isinstance(source, str | Path):
            source = base_dir / Path(source).expanduser()
        return Transfer(read_source(source), given.get("weights", "keep"))

    @property
    def copies(self) -> bool:
        """Return whether the source's weights are copied into the network first."""
        return self.weights == "copy"

    def copied(self) -> Transfer:
        """Return the same transfer after its weights were copied."""
        return replace(self, weights="keep")


def check_transfer(given: Any) -> None:
    """Refuse options of a transfer that are not allowed, before any file is read.

    Raises:
        OptionError: no mapping, an unknown key or value, or no source.
    """
    if not isinstance(given, Mapping):
        raise OptionError(f"transfer is {given!r}; allowed: a mapping such as {{'from': 'small', 'weights': 'copy'}}.")
    for key in given:
        if key not in KEYS:
            raise OptionError(f"transfer has no key {key!r}.{nearest(str(key), KEYS)} Allowed: {', '.join(KEYS)}.")
    if "from" not in given:
        raise OptionError("transfer has no source; give from, a folder that prunus.save wrote or a .safetensors file.")
    if given.get("weights", "keep") not in WEIGHTS:
        raise OptionError(
            f"transfer.weights is {given['weights']!r}.{nearest(str(given['weights']), WEIGHTS)} Allowed: "
            f"{', '.join(WEIGHTS)}."
        )


def with_weights(model: nn.Module, transfer: Transfer) -> tuple[nn.Module, Match]:
    """Return a copy of a network in which every matched tensor has the source's values, and what was matched.

    w ← w_source at the positions that the source still has. Others, and tensors without a match such as those of a new
    head, keep their own values.

    Raises:
        ModelError: nothing matches.
    """
    match = match_source(transfer.source, model)
    changed = deep_copy(unwrap(model))
    widened = deep_copy(unwrap(model))
    parameters, buffers = dict(widened.named_parameters()), dict(changed.named_buffers())
    with torch.no_grad():
        for name, value in match.values.items():
            if name in parameters:
                parameters[name].copy_(value)
            elif name in buffers:
                buffers[name].copy_(torch.where(match.kept[name], value, buffers[name]))
    after = {name: kept for name, kept in match.kept.items() if name in parameters}
    reseed_(changed, widened, {name: torch.zeros_like(kept) for name, kept in after.items()}, after)
    return changed, match


@method(
    "transfer",
    "hierarchical",
    "what a pretrained network has lost goes first, then what is smallest in it",
    options=("transfer",),
)
def transfer(analysis: Analysis, limits: Limits, transfer: Transfer | None = None) -> Plan:
    """Prune a network as another of the same architecture was pruned, within a budget.

    Tensors match by name and shape. Branches that the source has lost are dropped first. Each axis then keeps the
    source's units; under a larger budget the same share of its lost units comes back on every axis, under a smaller one
    the same share of the others goes, each time by norm in the source. Where the source has masks and the budget counts
    zeros, weights are masked as it masks them, to the exact count. Parts without a match, such as a new head, are
    ranked by their own norms. Without a source the network guides itself.

    Source: own.

    Args:
        analysis: the network.
        limits: limits of the analysis's metric.
        transfer: the source.

    Raises:
        BudgetError: the budget is out of reach.
        ModelError: nothing in the source matches.
    """
    limit = limits[0]
    source = SourceNetwork("the network itself", tensors_of(analysis)) if transfer is None else transfer.source
    match = match_source(source, analysis.model)
    reduction = _reduced(analysis, match, limit)
    scores = _unit_scores(reduction, match)
    masked = analysis.masks_save and _has_masks(match, analysis)
    keep = _units(reduction, scores, limit, masked=masked)
    masks = _masks(reduction, keep, match, limit) if masked else {}
    reason = f"removed in {source.origin}, or small in it"
    decisions = [Decision(b.id, "block", b.params, b.params, f"removed in {source.origin}") for b in reduction.dropped]
    decisions += [
        Decision(axis, "unit", int((~units).sum()), len(units), reason)
        for axis, units in keep.items()
        if units.any() and not units.all()
    ]
    decisions += [Decision(name, "weight", int((~mask).sum()), mask.size, reason) for name, mask in masks.items()]
    record = {
        "from": source.origin,
        "matched": len(match.values),
        "unmatched": list(match.unmatched),
        "unused": list(match.unused),
    }
    return make_plan(
        analysis.coupling,
        keep,
        reduction.drops,
        masks=masks,
        decisions=decisions,
        settings={"method": "transfer", "transfer": record},
        cost=analysis.cost,
    )


def _reduced(analysis: Analysis, match: Match, limit: Limit) -> Reduction:
    """Drop the branches of which the source has nothing left, as long as the budget is not passed."""
    reduction = whole(analysis)
    lost = {name for name, kept in match.kept.items() if not kept.any()}
    branches = [b for b in droppable(analysis) if b.tensors and lost.issuperset(b.tensors)]
    for branch in sorted(branches, key=lambda b: (-b.params, b.id)):
        smaller = reduction.without(branch) if branch in reduction.left(branches) else None
        if smaller is not None and smaller.spent >= (1 - SLACK) * limit.value:
            reduction = smaller
    return reduction


def _unit_scores(reduction: Reduction, match: Match) -> dict[str, np.ndarray]:
    """Score units: 1 + norm in the source for its own ones, the own norm for those it lost; norms up to 0.5 an axis."""
    analysis = reduction.analysis
    own = {name: value.detach() for name, value in unwrap(analysis.model).named_parameters()}
    theirs = {name: match.values.get(name, torch.zeros_like(value)) for name, value in own.items()}
    found, mine = (unit_magnitude(UnitEvidence(analysis.coupling, weights)) for weights in (theirs, own))
    scores = {}
    for axis in live_axes(reduction):
        norms = found[axis].double().numpy()
        has = norms > 0 if norms.any() else np.ones(len(norms), bool)
        scores[axis] = has + 0.5 * np.where(has & norms.any(), _relative(norms), _relative(mine[axis].double().numpy()))
    return scores


def _relative(norms: np.ndarray) -> np.ndarray:
    return np.asarray(norms / max(float(norms.max()), 1e-300)) if len(norms) else norms


def _units(
    reduction: Reduction, scores: Mapping[str, np.ndarray], limit: Limit, *, masked: bool
) -> dict[str, np.ndarray]:
    """Choose units around the source's widths; where masks meet the budget, no more go than the source has lost."""
    analysis = reduction.analysis
    if masked:
        bounds = {axis: bound for axis, bound in analysis.bounds.items() if axis in scores}
        problem = unit_problem(reduction.cost, scores, (), base=reduction.keep or None, bounds=bounds)
        keep = problem.masks(_counts(problem, 1.0))
        if analysis.spent(reduction.cost.price(keep)) > limit.value:
            return keep
    return analysis.fit(scores, limit, cost=reduction.cost, base=reduction.keep or None, allocator=_around_source)


def _around_source(problem: UnitProblem) -> dict[str, int]:
    """Return the widest counts within the limits on the way from none over the source's widths to all units."""
    low, high = 0.0, 2.0
    if problem.fits(_counts(problem, high)):
        return _counts(problem, high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if problem.fits(_counts(problem, middle)) else (low, middle)
    return _counts(problem, low)


def _counts(problem: UnitProblem, level: float) -> dict[str, int]:
    """Return level times the source's widths up to level 1; above, the same share of its lost units comes back."""
    found = {}
    for axis, values in problem.scores.items():
        # Tied units are one choice; it is the source's if most of its units are.
        theirs = int((np.asarray(values) >= _OWN * sum(problem.groups.get(axis, {axis: 1}).values())).sum())
        wide = theirs + max(0.0, level - 1) * (len(values) - theirs)
        found[axis] = problem.snap(axis, int(min(1.0, level) * wide + 1e-9))
    return found


def _has_masks(match: Match, analysis: Analysis) -> bool:
    """Return whether the source masks single weights: zeros that are no whole row or column."""
    return any(_scattered(match.kept[name]) for name in maskable(analysis) if name in match.kept)


def _scattered(kept: Tensor) -> bool:
    if bool(kept.all()) or not bool(kept.any()):
        return False
    lines = kept
    for dim in range(kept.dim()):
        others = [d for d in range(kept.dim()) if d != dim]
        alive = kept.any(dim=others) if len(others) > 1 else kept.any(others[0])
        lines = lines.index_select(dim, alive.nonzero().reshape(-1))
    return not bool(lines.all())


def _masks(reduction: Reduction, keep: Mapping[str, np.ndarray], match: Match, limit: Limit) -> dict[str, np.ndarray]:
    own = maskable(reduction.analysis)
    most = max((float(value.abs().max()) for value in own.values()), default=1.0) or 1.0
    theirs = max((float(match.values[name].abs().max()) for name in own if name in match.values), default=1.0) or 1.0
    scores = {}
    for name, value in own.items():
        mine = 0.5 * value.detach().abs() / most
        if name in match.values:
            kept = match.kept[name]
            scores[name] = torch.where(kept, 1 + match.values[name].abs() / theirs, mine)
        else:
            scores[name] = 1 + mine
    return masks_left(reduction, keep, scores, limit, lambda left, count: top_masks(left, keep_count=count))


def transfer_lines(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return lines about the transfer behind a plan; none for other plans."""
    record = settings.get("transfer")
    if not isinstance(record, Mapping) or "matched" not in record:
        return ()
    return match_lines(record["from"], record["matched"], record["unmatched"], record["unused"])
