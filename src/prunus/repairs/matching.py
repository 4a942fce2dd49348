"""Function matching: the whole small network is trained towards the dense network's outputs on blended samples."""

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
from prunus.repairs.layerwise_run import RunContext
from prunus.repairs.mixup import blended
from prunus.repairs.paired_run import Lockstep
from prunus.repairs.samples import LARGEST, SampleGroup, joined
from prunus.training.losses import relative_square_error

STEPS = 2500
"""Steps of Adam, where the budget of work allows them."""
LEAST = 0.2
"""Below this share of `STEPS`, matching gains too little over block-wise reconstruction to be tried."""
TEMPERATURE = 4.0
"""Temperature that softens logits over classes."""
_TASK = "repair: matching"
_CLASSED = (2, 3)  # ranks of outputs whose last dimension may be classes: (N, C), (N, T, C)


def matching_loss(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Return the distance of outputs to the dense network's.

    Sum over outputs of ‖a − t‖²/‖t‖² and, for outputs of two or three dimensions whose last has several entries,
    τ² KL(softmax(t/τ) ‖ softmax(a/τ)). The divergence weighs the differences that decide between classes; the squared
    error covers the differences that softmax ignores, and outputs that are no class scores.

    Source: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
    """
    parts = []
    for a, t in zip(outputs, targets, strict=True):
        parts.append(relative_square_error(a, t))
        if t.dim() in _CLASSED and t.shape[-1] > 1:
            ours, theirs = ((v / TEMPERATURE).flatten(0, -2).log_softmax(-1) for v in (a, t))
            soft = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
            parts.append(TEMPERATURE**2 * soft)
    return torch.stack(parts).sum()


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """Samples of one form: every step draws ``size`` of them."""

    group: SampleGroup
    size: int

    def drawn(self, generator: torch.Generator) -> SampleGroup:
        if self.size == self.group.count:
            return self.group
        rows = torch.randint(self.group.count, (self.size,), generator=generator)

        def picked(x: Tensor) -> Tensor:  # a mask (T, T) beside the samples applies to all of them
            return x[rows.to(x.device)] if x.dim() and len(x) == self.group.count else x

        return SampleGroup(pytree.tree_map_only(Tensor, picked, self.group.inputs), self.size, self.group.role)


def _source(group: SampleGroup) -> _Source:
    """Return a source that draws from a group; the whole group where one tensor stacks the rows of several samples."""
    rows = [len(x) for x in pytree.tree_leaves(group.inputs) if isinstance(x, Tensor) and x.dim()]
    mixed = any(n != group.count and n % group.count == 0 for n in rows)
    return _Source(group, group.count if mixed else min(LARGEST, group.count))


def matched(
    context: RunContext,
    tensors: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    steps: int = STEPS,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Train the small network towards the dense network's outputs with Adam, and return its parameters.

    Every step draws samples that are not held out and blends each with another one, see `blended`. The dense network
    gives the targets, so a few hundred samples suffice for thousands of steps. Norms keep their statistics; their
    scale and shift are trained.

    Args:
        context: programs and samples of the cut.
        tensors: of the small network, by name, as the block-wise run left them.
        masks: of single weights that stay zero.
        steps: of Adam, the rate falling to zero along a cosine.
        progress: receives the steps.

    Source: Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", arXiv:2106.05237 (one view
        for teacher and student, mixed inputs, many steps); `blended` for the mixing.
    """
    free = _free(context, tensors)
    if not free or not steps:
        return {}
    sources = [_source(group) for group in joined([x for x in context.sample_groups if x.role != "held"])]
    weights = torch.tensor([float(source.group.count) for source in sources])
    overlay: Mapping[str, Tensor] = ChainMap(free, dict(tensors))
    groups = [{"params": [value], "rate": rate_of(value)} for value in free.values()]
    optimizer = torch.optim.Adam(groups, RATE)
    generator = torch.Generator().manual_seed(context.seed)
    zeros = {name: masks[name].to(free[name].device) for name in free.keys() & masks.keys()}
    progress = progress or Silent()
    progress.start(_TASK, steps)
    for number in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * falling(number, steps)
        source = sources[int(torch.multinomial(weights, 1, generator=generator))]
        loss = _loss(context, blended(source.drawn(generator), generator), overlay)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        with torch.no_grad():
            for name, mask in zeros.items():
                free[name] *= mask
        progress.advance(_TASK)
    progress.finish(_TASK)
    return {name: value.detach() for name, value in free.items()}


def _free(context: RunContext, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kinds = context.programs.first.small.tensors
    return {
        name: tensors[name].detach().clone().requires_grad_()
        for name, info in kinds.items()
        if info.kind == "parameter" and info.dtype.is_floating_point and name in tensors
    }


def _loss(context: RunContext, group: SampleGroup, tensors: Mapping[str, Tensor]) -> Tensor:
    lockstep = Lockstep(group, context.programs.of(group.inputs), context.dense, tensors)
    with torch.no_grad():
        for node in lockstep.pair.dense.nodes:
            lockstep.dense.step(node)
    with torch.enable_grad(), sound_gradients(tensors):
        for node in lockstep.pair.small.nodes:
            lockstep.small.step(node)
    outputs, targets = [], []
    for ref, output in zip(refs_in(list(lockstep.pair.dense.outputs)), lockstep.small.outputs(), strict=True):
        if isinstance(output, Tensor) and output.is_floating_point():
            outputs.append(output)
            targets.append(lockstep.target(ref))
    return matching_loss(outputs, targets)
