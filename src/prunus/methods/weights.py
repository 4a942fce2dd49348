"""Weight level: mask single weights or windows of them; the network keeps its shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan
from prunus.analysis.selectors import ignored_axes, matching_modules, tensors_below
from prunus.budget import Limit, Limits
from prunus.criteria import (
    CRITERIA,
    CriterionLike,
    Evidence,
    collect_gradients,
    criterion_name,
    weight_criterion_of,
)
from prunus.criteria.weight_statistics import StatisticMissing
from prunus.errors import BudgetError, OptionError
from prunus.foundation.defaults import DEFAULTS
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
from prunus.masks.window import Windows
from prunus.methods.input_norms import input_norms
from prunus.methods.method import method
from prunus.plans import Cost, Decision, Plan

MAGNITUDE = "magnitude"
_BATCH = 32
_MEASURED = ("grad", "grad_abs", "grad_sq", "input_norm")
"""The statistics of weights that calibration data give."""


def maskable(analysis: Analysis) -> dict[str, torch.Tensor]:
    """Return the maskable weights: not of an ignored module, and not on an axis that is held for another reason."""
    coupling = analysis.coupling
    held = analysis.held
    spared: set[str] = set()
    if analysis.ignore:
        held = held - ignored_axes(coupling, analysis.ignore)
        spared = tensors_below(coupling, matching_modules(coupling, analysis.ignore))
    spared |= {m.tensor for a in held for m in coupling.axes[a].members}
    weights = prunable_weights(analysis.model)
    return {n: w for n, w in weights.items() if n not in spared and n in coupling.tensors}


def weights_to_keep(analysis: Analysis, weights: Mapping[str, torch.Tensor], limits: Limits) -> int:
    """Return the number of maskable weights that stay so that all parameters together meet the limit.

    Raises:
        BudgetError: zeros save nothing of the metric, or the parameters that cannot be masked exceed the budget.
    """
    return weights_that_stay(limits[0], analysis.cost.price(), weights)


def weights_that_stay(limit: Limit, bare: Cost, weights: Mapping[str, torch.Tensor]) -> int:
    """Return the number of the given weights that may stay so that all parameters of a network meet a limit.

    A masked tensor is stored as a bitmap and its kept values: n weights of b bytes, k of them kept, take ⌈n/8⌉ + k·b
    bytes.

    Args:
        limit: limit of params, or of bytes.
        bare: price of the network without masks.
        weights: the maskable weights; each tensor keeps one.

    Raises:
        BudgetError: zeros save nothing of the metric, or the parameters that cannot be masked exceed the limit.
    """
    if limit.metric not in ("params", "bytes"):
        raise BudgetError(
            f"Budget {limit.metric} ≤ {limit.shown()} is out of reach of masks: zeros change neither MACs nor time. "
            "Give the budget as params or bytes, or use a method that removes units."
        )
    item = 1 if limit.metric == "params" else max((w.element_size() for w in weights.values()), default=1)
    stored = 0 if limit.metric == "params" else sum(math.ceil(w.numel() / 8) for w in weights.values())
    rest = limit.of(bare) - item * sum(w.numel() for w in weights.values()) + stored
    count = (limit.value - rest) // item
    if count < len(weights):
        whole = limit.shown(limit.of(bare))
        raise BudgetError(
            f"Budget {limit.metric} ≤ {limit.shown()} is out of reach: {limit.shown(rest)} of {whole} cannot be "
            f"masked, and each of {len(weights)} weights keeps one. Keep more, or free some of what is held."
        )
    return min(count, sum(w.numel() for w in weights.values()))


def masked_plan(analysis: Analysis, masks: Mapping[str, torch.Tensor], reason: str) -> Plan:
    """Build a plan that only masks weights."""
    arrays = {n: m.cpu().numpy() for n, m in masks.items()}
    decisions = [Decision(n, "weight", int((~m).sum()), m.size, reason) for n, m in arrays.items() if not m.all()]
    return make_plan(analysis.coupling, {}, masks=arrays, decisions=decisions, cost=analysis.cost)


def gradient_evidence(analysis: Analysis) -> Evidence:
    """Return E[g], E|g| and E[g²] over the calibration batches, measured once for an analysis."""

    def measure() -> Evidence:
        names = list(prunable_weights(analysis.model))
        batches = analysis.calibration.batches(_BATCH)
        return collect_gradients(analysis.user_model, batches, analysis.loss, names, seed=analysis.seed)

    evidence: Evidence = analysis.remember("gradients", measure)
    return evidence


def weight_scores(
    analysis: Analysis, model: nn.Module, names: Sequence[str], criterion: CriterionLike
) -> Mapping[str, torch.Tensor]:
    """Score weights by a weight criterion; data are read only for statistics that it needs.

    Args:
        analysis: analysis with the data and the loss.
        model: model with the weights: that of the analysis, or a masked copy of it.
        names: names of the weights.
        criterion: a name in `prunus.criteria.CRITERIA`, a mixture, or a function (name, weight) → scores.

    Raises:
        OptionError: an unknown criterion, one that needs a running training, or no data.
    """
    rule = weight_criterion_of(criterion)
    evidence = Evidence({name: model.get_parameter(name).detach() for name in names}, seed=analysis.seed)
    while True:
        try:
            return rule(evidence)
        except OptionError as error:
            # A criterion that checks its evidence itself is given gradients, as one that asks for them.
            statistic = error.statistic if isinstance(error, StatisticMissing) else "grad"
            if getattr(evidence, statistic) is not None or statistic not in _MEASURED:
                raise
        evidence = _with_statistic(analysis, model, evidence, statistic, criterion_name(criterion))


def _with_statistic(analysis: Analysis, model: nn.Module, evidence: Evidence, statistic: str, name: str) -> Evidence:
    """Return the evidence with norms of inputs, or with the statistics of gradients.

    Raises:
        OptionError: there are no data.
    """
    inputs = statistic == "input_norm"
    if not analysis.has_data:
        kind = "batches of inputs, with or without targets" if inputs else "batches of (inputs, targets)"
        raise OptionError(f"criterion {name!r} needs data={kind}; give some, or use magnitude.")
    if inputs:
        return replace(evidence, input_norm=input_norms(analysis, model, evidence.weights))
    batches, names = analysis.calibration.batches(_BATCH), list(evidence.weights)
    found = collect_gradients(model, batches, analysis.loss, names, seed=analysis.seed)
    return replace(evidence, grad=found.grad, grad_abs=found.grad_abs, grad_sq=found.grad_sq)


def _only(values: Mapping[str, torch.Tensor] | None, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n: v for n, v in (values or {}).items() if n in weights}


@method("absolute-threshold", "weight", "keep |w| > τ, one τ for the network", counts="weights", scored_by="magnitude")
def absolute_threshold(analysis: Analysis, limits: Limits) -> Plan:
    """Keep the weights above one absolute threshold.

    Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", arXiv:1506.02626.
    """
    weights = maskable(analysis)
    masks = absolute_masks(weights, keep_count=weights_to_keep(analysis, weights, limits))
    return masked_plan(analysis, masks, "|w| at or below the threshold")


@method(
    "relative-threshold",
    "weight",
    "keep |w| > τ·max|W| of its tensor, one τ for the network",
    counts="weights",
    scored_by="relative-max",
)
def relative_threshold(analysis: Analysis, limits: Limits) -> Plan:
    """Keep the weights above a threshold relative to each tensor's largest.

    Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", arXiv:1506.02626.
    """
    weights = maskable(analysis)
    masks = relative_masks(weights, keep_count=weights_to_keep(analysis, weights, limits))
    return masked_plan(analysis, masks, "|w| / max|W| at or below the threshold")


@method("gradient-threshold", "weight", "keep E|g| > τ, one τ for the network", counts="weights", scored_by="gradient")
def gradient_threshold(analysis: Analysis, limits: Limits) -> Plan:
    """Keep the weights with large gradients on calibration data.

    Source: own.
    """
    weights = maskable(analysis)
    gradients = _only(gradient_evidence(analysis).grad_abs, weights)
    masks = gradient_masks(gradients, keep_count=weights_to_keep(analysis, weights, limits))
    return masked_plan(analysis, masks, "E|g| at or below the threshold")


def _importance(analysis: Analysis, limits: Limits, variant: str) -> Plan:
    weights = maskable(analysis)
    statistics = gradient_evidence(analysis)
    evidence = Evidence(
        weights=weights,
        grad_sq=_only(statistics.grad_sq, weights),
        grad=_only(statistics.grad, weights),
        grad_abs=_only(statistics.grad_abs, weights),
        seed=analysis.seed,
    )
    masks = importance_masks(evidence, variant=variant, keep_count=weights_to_keep(analysis, weights, limits))
    return masked_plan(analysis, masks, f"lowest {variant}")


@method("importance", "weight", "keep exactly the n weights of highest E[g²]", counts="weights", scored_by="importance")
def importance(analysis: Analysis, limits: Limits) -> Plan:
    """Keep the top n by E[g²].

    Source: own; the Fisher diagonal as importance: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural
    networks", arXiv:1612.00796.
    """
    return _importance(analysis, limits, "importance")


@method(
    "importance-weighted",
    "weight",
    "keep exactly the n weights of highest E[g²]·w²",
    counts="weights",
    scored_by="importance-weighted",
)
def importance_weighted(analysis: Analysis, limits: Limits) -> Plan:
    """Keep the top n by E[g²]·w², the second-order damage of a removal.

    Source: LeCun et al., "Optimal Brain Damage", NIPS 1989 (here with the empirical Fisher for the Hessian).
    """
    return _importance(analysis, limits, "importance-weighted")


def windows_plan(
    analysis: Analysis,
    limits: Limits,
    window: Windows,
    what: str,
    criterion: CriterionLike | None = None,
) -> Plan:
    """Keep the windows of highest mean score until exactly the budget is met.

    Args:
        analysis: the network and its data.
        limits: limits of the analysis's metric.
        window: the window of all weights, or name → window; weights that are not named stay whole.
        what: name of a window in the plan's decisions.
        criterion: criterion of the weights; None is their magnitude.

    Raises:
        OptionError: an unknown criterion, or one whose data are missing.
        BudgetError: the parameters that cannot be masked and the best window of every weight exceed the budget.
    """
    weights = maskable(analysis)
    if isinstance(window, Mapping):
        weights = {name: weight for name, weight in weights.items() if name in window}
    name = criterion or MAGNITUDE
    masks = window_masks(
        weight_scores(analysis, analysis.user_model, list(weights), name),
        window,
        keep_count=weights_to_keep(analysis, weights, limits),
        input_dims=contracted_dims(analysis.model),
    )
    title = criterion_name(name)
    plan = masked_plan(analysis, masks, f"{what} of low mean {'|w|' if title == MAGNITUDE else title}")
    return replace(plan, settings={"criterion": title})


@method(
    "window-tile",
    "weight",
    "keep the 4×4 tiles of each weight matrix with the largest mean |w|",
    counts="windows",
    options=("criterion",),
    criteria="weights",
    window=Tile(4, 4),
)
def window_tile(analysis: Analysis, limits: Limits, *, criterion: CriterionLike | None = DEFAULTS.criterion) -> Plan:
    """Keep whole tiles.

    Source: Narang et al., "Block-Sparse Recurrent Neural Networks", arXiv:1711.02782.
    """
    return windows_plan(analysis, limits, Tile(4, 4), "tile", criterion)


@method(
    "window-kernel",
    "weight",
    "keep the kernel positions of each filter with the largest mean |w|",
    counts="windows",
    options=("criterion",),
    criteria="weights",
    window=KernelPosition(),
)
def window_kernel(analysis: Analysis, limits: Limits, *, criterion: CriterionLike | None = DEFAULTS.criterion) -> Plan:
    """Keep whole kernel positions.

    Source: Mao et al., "Exploring the Regularity of Sparse Structure in Convolutional Neural Networks",
    arXiv:1705.08922.
    """
    return windows_plan(analysis, limits, KernelPosition(), "kernel position", criterion)


@method("two-four", "weight", "keep the 2 largest of every 4 consecutive inputs", only_kept=(0.5,))
def two_four(analysis: Analysis, limits: Limits) -> Plan:
    """Keep two of every four inputs, the pattern of sparse tensor cores.

    Source: Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378.
    """
    weights = maskable(analysis)
    scores = CRITERIA.get("magnitude")(Evidence(weights=weights, seed=analysis.seed))
    masks = nm_masks(scores, input_dims={n: d for n, d in contracted_dims(analysis.model).items() if n in weights})
    return masked_plan(analysis, masks, "the 2 smallest of 4")
