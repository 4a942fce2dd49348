"""Weight level by layer problems: each layer keeps the weights that best reproduce its output, layer after layer."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.methods.method import method
from prunus.methods.solved_layers import Solver, owl_shares, solved_plan
from prunus.plans import Plan
from prunus.solvers import NofM, Pruned, alps, exact_obs, sparsegpt, wanda

STEPS = 32
"""Most steps of ExactOBS a row; a row of more inputs removes several from the same scores."""


def _alps(weight: Tensor, moment: Tensor, count: int) -> Pruned:
    return alps(weight.float(), moment.float(), count)


def _exact(weight: Tensor, moment: Tensor, count: int) -> Pruned:
    # Damped moments are well conditioned: float32 gives the same mask in half the time.
    return exact_obs(weight.float(), moment.float(), count, at_once=-(-weight.shape[1] // STEPS))


@method("sparsegpt", "weight", "each layer by SparseGPT: columns in turn, errors passed on")
def sparse_gpt(analysis: Analysis, limits: Limits) -> Plan:
    """Mask every layer by SparseGPT (arXiv:2301.00774).

    Source: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
    arXiv:2301.00774.
    """
    return solved_plan(analysis, limits, sparsegpt, "its w²/[H⁻¹]² is low in its block of columns")


@method("wanda", "weight", "keep the largest |w|·‖x‖ of every row")
def wanda_rows(analysis: Analysis, limits: Limits) -> Plan:
    """Mask every row by |w|·‖x‖ (arXiv:2306.11695).

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", arXiv:2306.11695.
    """
    return solved_plan(analysis, limits, wanda, "low |w|·‖x‖ in its row")


@method("alps", "weight", "each layer's mask by alternating directions (ADMM)")
def alps_layers(analysis: Analysis, limits: Limits) -> Plan:
    """Mask every layer by ALPS (arXiv:2406.07831).

    Source: Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning", arXiv:2406.07831.
    """
    return solved_plan(analysis, limits, _alps, "not on the support that alternating directions found")


@method("exact-obs", "weight", "each row loses its weights one by one with an inverse of its own")
def exact_rows(analysis: Analysis, limits: Limits) -> Plan:
    """Mask every layer by ExactOBS (arXiv:2208.11580).

    Source: Frantar, Singh and Alistarh, "Optimal Brain Compression", arXiv:2208.11580.
    """
    return solved_plan(analysis, limits, _exact, "the rest of its row makes up for it best")


@method("wanda-owl", "weight", "as wanda, layers with more outlying weights keep more")
def wanda_owl(analysis: Analysis, limits: Limits) -> Plan:
    """Mask every row by |w|·‖x‖, each layer's share by its outliers (`prunus.budget.owl`).

    Source: Yin et al., "Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret Sauce for Pruning LLMs to High
    Sparsity", arXiv:2310.05175; Sun et al., arXiv:2306.11695.
    """
    return solved_plan(analysis, limits, wanda, "low |w|·‖x‖ in its row", shares=owl_shares)


@method("sparsegpt-owl", "weight", "as sparsegpt, layers with more outlying weights keep more")
def sparse_gpt_owl(analysis: Analysis, limits: Limits) -> Plan:
    """Mask every layer by SparseGPT, each layer's share by its outliers (`prunus.budget.owl`).

    Source: Yin et al., "Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret Sauce for Pruning LLMs to High
    Sparsity", arXiv:2310.05175; Frantar and Alistarh, arXiv:2301.00774.
    """
    return solved_plan(analysis, limits, sparsegpt, "its w²/[H⁻¹]² is low in its block of columns", shares=owl_shares)


_TWO_FOUR = NofM(2, 4)


@method("sparsegpt-two-four", "weight", "2 of every 4 consecutive inputs by SparseGPT", only_kept=(0.5,))
def sparse_gpt_two_four(analysis: Analysis, limits: Limits) -> Plan:
    """Keep two of four by SparseGPT.

    Source: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
    arXiv:2301.00774.
    """
    solver = partial(sparsegpt, pattern=_TWO_FOUR)
    return solved_plan(analysis, limits, solver, "not of the 2 of 4 that SparseGPT keeps", _TWO_FOUR)


@method("wanda-two-four", "weight", "2 of every 4 consecutive inputs by |w|·‖x‖", only_kept=(0.5,))
def wanda_two_four(analysis: Analysis, limits: Limits) -> Plan:
    """Keep two of four by |w|·‖x‖.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", arXiv:2306.11695.
    """
    solver = partial(wanda, pattern=_TWO_FOUR)
    return solved_plan(analysis, limits, solver, "not of the 2 of 4 with the largest |w|·‖x‖", _TWO_FOUR)


__all__ = ["Solver", "solved_plan"]
