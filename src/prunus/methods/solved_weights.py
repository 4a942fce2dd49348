"""Weight level by layer problems: each layer keeps the weights that reproduce its output best, layer after layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from prunus.budget.weights import WEIGHT_ALLOCATORS
from prunus.graph.recorder import named_tensors
from prunus.masks import contracted_dims, nm_masks
from prunus.methods.subject import Subject, method
from prunus.methods.weights import maskable, masked_plan, weights_to_keep
from prunus.plans import Plan
from prunus.repair import Moments, Site, walk
from prunus.solvers import NofM, Pruned, alps, exact_obs, sparsegpt, wanda

Solver = Callable[[Tensor, Tensor, int], Pruned]

ALLOCATOR = "lamp"
"""Who gets how many weights. The papers give every layer the same share; measured on ``glyphs`` with ALPS and refitted
weights, LAMP's shares (arXiv:2010.07611) lose far less: with 30 % of the weights a ViT is right in 89.2 % instead of
81.8 %, with 15 % a ResNet in 87.8 % instead of 61.2 %. ERK's lie between."""
STEPS = 32
"""ExactOBS takes at most so many choices a row; a row of more inputs loses several from the same scores."""


@dataclass(slots=True)
class _Layers:
    """Solves one layer after the other, and remembers the masks.

    A layer's inputs come from the layers before it as they are pruned; those that the walk does not stop at keep
    their largest weights.
    """

    solver: Solver
    counts: dict[str, int]
    weights: dict[str, Tensor]
    pattern: NofM | None
    masks: dict[str, Tensor]

    def __call__(self, site: Site, moments: Moments) -> Tensor | None:
        if site.tensor not in self.weights:
            return None
        weight = self.weights[site.tensor]
        matrix = site.matrix(weight).double()
        order = self._order(site, matrix.shape[2]).to(weight.device)
        whole, groups = self.counts[site.tensor], len(matrix)
        found, masks = torch.zeros_like(matrix), torch.zeros_like(matrix, dtype=torch.bool)
        for g in range(groups):
            count = whole * (g + 1) // groups - whole * g // groups
            moment = moments.second[g].to(weight.device)
            pruned = self.solver(matrix[g][:, order], moment[order][:, order], count)
            found[g][:, order], masks[g][:, order] = pruned.weight.to(found.dtype), pruned.mask
        self.masks[site.tensor] = site.weight(masks)
        return site.weight(found).to(weight.dtype)

    def _order(self, site: Site, width: int) -> Tensor:
        """N:M runs along the channels of one kernel position; elsewhere the order of columns does not matter."""
        columns = torch.arange(width)
        return columns if self.pattern is None else columns.reshape(-1, site.positions).T.reshape(-1)

    def rest(self, dims: dict[str, int]) -> dict[str, Tensor]:
        """Return the masks of all weights: by magnitude where no layer problem was solved."""
        found = {}
        for name, weight in self.weights.items():
            if name in self.masks:
                found[name] = self.masks[name].cpu()
            elif self.pattern is not None:
                own = {n: d for n, d in dims.items() if n == name}
                n, m = self.pattern.n, self.pattern.m
                found[name] = nm_masks({name: weight.abs()}, n=n, m=m, input_dims=own)[name].cpu()
            else:
                size = weight.abs().reshape(-1).cpu()
                mask = torch.zeros_like(size, dtype=torch.bool)
                mask[torch.argsort(-size, stable=True)[: self.counts[name]]] = True
                found[name] = mask.reshape(weight.shape)
        return found


def solved_plan(subject: Subject, kept: float, solver: Solver, reason: str, pattern: NofM | None = None) -> Plan:
    """Mask every layer by a solver, LAMP's share of each; a layer sees the pruned layers before it.

    The plan carries the masks alone: the repair of a plan solves for the weights on them.

    Args:
        subject: the network and its data.
        kept: share of the subject's metric that stays.
        solver: (weight, moment, how many stay) → mask and weights.
        reason: for the plan's decisions.
        pattern: where an N:M pattern says how many stay.

    Raises:
        BudgetError: what cannot be masked exceeds the budget already.
    """
    weights = maskable(subject)
    named = named_tensors(subject.model)
    count = weights_to_keep(subject, weights, kept) if pattern is None else 0
    layers = _Layers(solver, _counts(weights, count), {n: named[n].detach() for n in weights}, pattern, {})
    walk(subject.model, subject.coupling, None, subject.calibration, layers, seed=subject.seed)
    return masked_plan(subject, layers.rest(contracted_dims(subject.model)), reason)


def _counts(weights: dict[str, Tensor], count: int) -> dict[str, int]:
    """Say how many weights each layer keeps: at least one."""
    scores = {n: w.abs().double().cpu().numpy() for n, w in weights.items()}
    counts = WEIGHT_ALLOCATORS.get(ALLOCATOR)(scores, count)
    for name in [n for n, c in counts.items() if c < 1 <= count]:
        counts[name] += 1
        counts[max(counts, key=lambda n: counts[n])] -= 1
    return counts


def _alps(weight: Tensor, moment: Tensor, count: int) -> Pruned:
    return alps(weight.float(), moment.float(), count)


def _exact(weight: Tensor, moment: Tensor, count: int) -> Pruned:
    # Damped moments are well conditioned: single precision chooses the same weights in half the time.
    return exact_obs(weight.float(), moment.float(), count, at_once=-(-weight.shape[1] // STEPS))


@method("sparsegpt", "weight", "each layer by SparseGPT: columns in turn, errors passed on")
def sparse_gpt(subject: Subject, kept: float) -> Plan:
    """Mask every layer by SparseGPT (arXiv:2301.00774).

    Source: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
    arXiv:2301.00774.
    """
    return solved_plan(subject, kept, sparsegpt, "its w²/[H⁻¹]² is low in its block of columns")


@method("wanda", "weight", "keep the largest |w|·‖x‖ of every row")
def wanda_rows(subject: Subject, kept: float) -> Plan:
    """Mask every row by |w|·‖x‖ (arXiv:2306.11695).

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", arXiv:2306.11695.
    """
    return solved_plan(subject, kept, wanda, "low |w|·‖x‖ in its row")


@method("alps", "weight", "each layer's mask by alternating directions (ADMM)")
def alps_layers(subject: Subject, kept: float) -> Plan:
    """Mask every layer by ALPS (arXiv:2406.07831).

    Source: Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning", arXiv:2406.07831.
    """
    return solved_plan(subject, kept, _alps, "not on the support that alternating directions found")


@method("exact-obs", "weight", "each row loses its weights one by one with an inverse of its own")
def exact_rows(subject: Subject, kept: float) -> Plan:
    """Mask every layer by ExactOBS (arXiv:2208.11580).

    Source: Frantar, Singh and Alistarh, "Optimal Brain Compression", arXiv:2208.11580.
    """
    return solved_plan(subject, kept, _exact, "the rest of its row makes up for it best")


_TWO_FOUR = NofM(2, 4)


@method("sparsegpt-two-four", "weight", "2 of every 4 consecutive inputs by SparseGPT", only_kept=(0.5,))
def sparse_gpt_two_four(subject: Subject, kept: float) -> Plan:
    """Keep two of four by SparseGPT.

    Source: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
    arXiv:2301.00774.
    """
    solver = partial(sparsegpt, pattern=_TWO_FOUR)
    return solved_plan(subject, kept, solver, "not of the 2 of 4 that SparseGPT keeps", _TWO_FOUR)


@method("wanda-two-four", "weight", "2 of every 4 consecutive inputs by |w|·‖x‖", only_kept=(0.5,))
def wanda_two_four(subject: Subject, kept: float) -> Plan:
    """Keep two of four by |w|·‖x‖.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", arXiv:2306.11695.
    """
    solver = partial(wanda, pattern=_TWO_FOUR)
    return solved_plan(subject, kept, solver, "not of the 2 of 4 with the largest |w|·‖x‖", _TWO_FOUR)


__all__ = ["Solver", "solved_plan"]
