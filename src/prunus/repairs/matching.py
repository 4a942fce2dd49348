"""Function matching: the whole small network is trained towards the dense one's answers to samples made up anew."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.nn import functional

from prunus.foundation.memory_format import sound_gradients
from prunus.foundation.progress import Progress, Silent
from prunus.graph.ir import refs_in
from prunus.repairs.blocks import RATE, falling, rate_of
from prunus.repairs.mixup import blended
from prunus.repairs.paired_run import Lockstep
from prunus.repairs.samples import LARGEST, Lane, joined
from prunus.repairs.walking import Route
from prunus.training.losses import relative_square_error

STEPS = 2500
"""Steps of Adam where the work allows it."""
LEAST = 0.2
"""The share of them below which it is not worth the while beside block-wise reconstruction."""
TEMPERATURE = 4.0
"""Answers over classes are softened by it."""
_TASK = "repair: matching"
_CLASSED = (2, 3)  # ranks of outputs whose last dimension may be classes: (N, C), (N, T, C)


def miss(answers: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Return how far answers are from the dense network's.

    Σ over outputs of ‖a − t‖²/‖t‖², and beside it, where the last of two or three dimensions has several entries,
    τ² KL(softmax(t/τ) ‖ softmax(a/τ)). The divergence weighs what decides between classes; the squares hold what it
    does not see, and all that is no class.

    Source: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
    """
    parts = []
    for a, t in zip(answers, targets, strict=True):
        parts.append(relative_square_error(a, t))
        if t.dim() in _CLASSED and t.shape[-1] > 1:
            ours, theirs = ((v / TEMPERATURE).flatten(0, -2).log_softmax(-1) for v in (a, t))
            soft = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
            parts.append(TEMPERATURE**2 * soft)
    return torch.stack(parts).sum()


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """Samples of one form to draw from: ``size`` of ``lane`` in every step."""

    lane: Lane
    size: int

    def drawn(self, generator: torch.Generator) -> Lane:
        if self.size == self.lane.count:
            return self.lane
        rows = torch.randint(self.lane.count, (self.size,), generator=generator)

        def picked(x: Tensor) -> Tensor:  # a mask (T, T) beside the samples belongs to all of them
            return x[rows.to(x.device)] if x.dim() and len(x) == self.lane.count else x

        return Lane(pytree.tree_map_only(Tensor, picked, self.lane.inputs), self.size, self.lane.role)


def _source(lane: Lane) -> _Source:
    """Return a lane to draw from: whole where rows of several samples lie below each other in some tensor."""
    rows = [len(x) for x in pytree.tree_leaves(lane.inputs) if isinstance(x, Tensor) and x.dim()]
    mixed = any(n != lane.count and n % lane.count == 0 for n in rows)
    return _Source(lane, lane.count if mixed else min(LARGEST, lane.count))


def matched(
    route: Route,
    tensors: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    steps: int = STEPS,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Return the parameters after Adam has brought the small network's outputs closer to the dense network's.

    Every step draws samples that are not held out and blends each with another; pictures move by a few places, and of
    ids a stretch is exchanged. The dense network answers them, so that a few hundred samples do for thousands of steps.
    Norms keep their statistics and learn scale and shift.

    Args:
        route: of the cut.
        tensors: of the small network, by name, as the walk before left them.
        masks: what single weights hold at zero.
        steps: of Adam, the rate falling to zero along a cosine.
        progress: told of them.

    Source: Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", arXiv:2106.05237 (one view
        for teacher and student, mixed inputs, many steps); `blended` for the mixing.
    """
    free = _free(route, tensors)
    if not free or not steps:
        return {}
    sources = [_source(lane) for lane in joined([x for x in route.lanes if x.role != "held"])]
    weights = torch.tensor([float(source.lane.count) for source in sources])
    overlay: Mapping[str, Tensor] = ChainMap(free, dict(tensors))
    groups = [{"params": [value], "rate": rate_of(value)} for value in free.values()]
    optimizer = torch.optim.Adam(groups, RATE)
    generator = torch.Generator().manual_seed(route.seed)
    held = {name: masks[name].to(free[name].device) for name in free.keys() & masks.keys()}
    progress = progress or Silent()
    progress.start(_TASK, steps)
    for number in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * falling(number, steps)
        source = sources[int(torch.multinomial(weights, 1, generator=generator))]
        loss = _loss(route, blended(source.drawn(generator), generator), overlay)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        with torch.no_grad():
            for name, mask in held.items():
                free[name] *= mask
        progress.advance(_TASK)
    progress.finish(_TASK)
    return {name: value.detach() for name, value in free.items()}


def _free(route: Route, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kinds = route.programs.first.small.tensors
    return {
        name: tensors[name].detach().clone().requires_grad_()
        for name, info in kinds.items()
        if info.kind == "parameter" and info.dtype.is_floating_point and name in tensors
    }


def _loss(route: Route, lane: Lane, tensors: Mapping[str, Tensor]) -> Tensor:
    step = Lockstep(lane, route.programs.of(lane.inputs), route.dense, tensors)
    with torch.no_grad():
        for node in step.pair.dense.nodes:
            step.dense.step(node)
    with torch.enable_grad(), sound_gradients(tensors):
        for node in step.pair.small.nodes:
            step.small.step(node)
    answers, targets = [], []
    for ref, answer in zip(refs_in(list(step.pair.dense.outputs)), step.small.outputs(), strict=True):
        if isinstance(answer, Tensor) and answer.is_floating_point():
            answers.append(answer)
            targets.append(step.target(ref))
    return miss(answers, targets)
