"""Weight level: single weights or windows of them become zero; the network keeps its shape."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from prunus.criteria import CRITERIA, Evidence, collect_gradients
from prunus.errors import BudgetError
from prunus.masks import (
    KernelPosition,
    Tile,
    absolute_masks,
    contracted_dims,
    gradient_masks,
    importance_masks,
    nm_masks,
    prunable_weights,
    relative_masks,
    window_masks,
)
from prunus.methods.subject import Subject, method
from prunus.planning import make_plan
from prunus.plans import Decision, Plan

_BATCH = 32


def maskable(subject: Subject) -> dict[str, torch.Tensor]:
    """Return the weights that masks may touch: those on no held axis."""
    held = {m.tensor for a in subject.held for m in subject.coupling.axes[a].members}
    weights = prunable_weights(subject.model)
    return {n: w for n, w in weights.items() if n not in held and n in subject.coupling.tensors}


def weights_to_keep(subject: Subject, weights: Mapping[str, torch.Tensor], kept: float) -> int:
    """Return how many maskable weights stay so that all parameters together meet the kept share.

    Raises:
        BudgetError: the parameters that cannot be masked exceed the budget already.
    """
    total = subject.cost.price().params
    rest = total - sum(w.numel() for w in weights.values())
    count = int(kept * total) - rest
    if count < len(weights):
        raise BudgetError(f"kept {kept} leaves {int(kept * total):,} parameters, {rest:,} of which cannot be masked.")
    return count


def masked_plan(subject: Subject, masks: Mapping[str, torch.Tensor], reason: str) -> Plan:
    """Build a plan that only masks."""
    arrays = {n: m.cpu().numpy() for n, m in masks.items()}
    decisions = [Decision(n, "weight", int((~m).sum()), m.size, reason) for n, m in arrays.items() if not m.all()]
    return make_plan(subject.coupling, {}, masks=arrays, decisions=decisions, cost=subject.cost)


def gradient_evidence(subject: Subject) -> Evidence:
    """Return E[g], E|g| and E[g²] over the calibration batches, measured once."""

    def measure() -> Evidence:
        names = list(prunable_weights(subject.model))
        batches = subject.calibration.batches(_BATCH)
        return collect_gradients(subject.model, batches, subject.loss, names, seed=subject.seed)

    found: Evidence = subject.remember("gradients", measure)
    return found


def _only(values: Mapping[str, torch.Tensor] | None, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n: v for n, v in (values or {}).items() if n in weights}


@method("absolute-threshold", "weight", "keep |w| > τ, one τ for the network")
def absolute_threshold(subject: Subject, kept: float) -> Plan:
    """Keep the weights above one absolute threshold."""
    weights = maskable(subject)
    masks = absolute_masks(weights, keep_count=weights_to_keep(subject, weights, kept))
    return masked_plan(subject, masks, "|w| at or below the threshold")


@method("relative-threshold", "weight", "keep |w| > τ·max|W| of its tensor, one τ for the network")
def relative_threshold(subject: Subject, kept: float) -> Plan:
    """Keep the weights above a threshold relative to each tensor's largest."""
    weights = maskable(subject)
    masks = relative_masks(weights, keep_count=weights_to_keep(subject, weights, kept))
    return masked_plan(subject, masks, "|w| / max|W| at or below the threshold")


@method("gradient-threshold", "weight", "keep E|g| > τ, one τ for the network")
def gradient_threshold(subject: Subject, kept: float) -> Plan:
    """Keep the weights with large gradients on calibration data."""
    weights = maskable(subject)
    gradients = _only(gradient_evidence(subject).grad_abs, weights)
    masks = gradient_masks(gradients, keep_count=weights_to_keep(subject, weights, kept))
    return masked_plan(subject, masks, "E|g| at or below the threshold")


def _importance(subject: Subject, kept: float, variant: str) -> Plan:
    weights = maskable(subject)
    found = gradient_evidence(subject)
    evidence = Evidence(weights=weights, grad_sq=_only(found.grad_sq, weights), grad=_only(found.grad, weights),
                        grad_abs=_only(found.grad_abs, weights), seed=subject.seed)  # fmt: skip
    masks = importance_masks(evidence, variant=variant, keep_count=weights_to_keep(subject, weights, kept))
    return masked_plan(subject, masks, f"lowest {variant}")


@method("importance", "weight", "keep exactly the n weights of highest E[g²]")
def importance(subject: Subject, kept: float) -> Plan:
    """Keep the top n by E[g²]."""
    return _importance(subject, kept, "importance")


@method("importance-weighted", "weight", "keep exactly the n weights of highest E[g²]·w²")
def importance_weighted(subject: Subject, kept: float) -> Plan:
    """Keep the top n by E[g²]·w², the second-order damage of a removal."""
    return _importance(subject, kept, "importance_weighted")


def _windows(subject: Subject, kept: float, window: Tile | KernelPosition, reason: str) -> Plan:
    weights = maskable(subject)
    scores = CRITERIA.get("magnitude")(Evidence(weights=weights, seed=subject.seed))
    masks = window_masks(scores, window, keep_count=weights_to_keep(subject, weights, kept),
                         input_dims=contracted_dims(subject.model))  # fmt: skip
    return masked_plan(subject, masks, reason)


@method("window-tile", "weight", "keep the 4×4 tiles of each weight matrix with the largest mean |w|")
def window_tile(subject: Subject, kept: float) -> Plan:
    """Keep whole tiles."""
    return _windows(subject, kept, Tile(4, 4), "tile of low mean |w|")


@method("window-kernel", "weight", "keep the kernel positions of each filter with the largest mean |w|")
def window_kernel(subject: Subject, kept: float) -> Plan:
    """Keep whole kernel positions."""
    return _windows(subject, kept, KernelPosition(), "kernel position of low mean |w|")


@method("two-four", "weight", "keep the 2 largest of every 4 consecutive inputs", only_kept=(0.5,))
def two_four(subject: Subject, kept: float) -> Plan:
    """Keep two of four: the pattern that sparse tensor cores run."""
    weights = maskable(subject)
    scores = CRITERIA.get("magnitude")(Evidence(weights=weights, seed=subject.seed))
    masks = nm_masks(scores, input_dims={n: d for n, d in contracted_dims(subject.model).items() if n in weights})
    return masked_plan(subject, masks, "the 2 smallest of 4")


__all__ = ["gradient_evidence", "maskable", "masked_plan", "weights_to_keep"]
