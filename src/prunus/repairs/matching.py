"""Function matching: the whole small network is trained towards the dense network's outputs on blended samples."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.nn import functional

from prunus.foundation.memory_format import sound_gradients
from prunus.foundation.progress import Progress, Silent, tell
from prunus.foundation.stopping import Watch
from prunus.graph.ir import refs_in
from prunus.repairs.blocks import falling, rate_of
from prunus.repairs.layerwise_run import RunContext
from prunus.repairs.mixup import blended
from prunus.repairs.paired_run import Lockstep
from prunus.repairs.samples import LARGEST, SampleGroup, joined
from prunus.training.losses import relative_square_error

RATE = 6e-3
"""The highest learning rate of Adam."""
REUSE = 3
"""Steps that use one answer of the dense network; its run costs more than a step of the small one."""
_POOL = 8
"""Blended groups whose answers are held at a time."""
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


@dataclass(frozen=True, slots=True)
class Rounds:
    """The steps of matching, in rounds that samples held out judge.

    Attributes:
        steps: of Adam in a round, the rate falling to zero along a cosine.
        most: the number of rounds.
        gain: a round that lowers the judged error by a smaller share is the last one.
    """

    steps: int
    most: int = 1
    gain: float = 0.0

    def within(self, steps: int) -> Rounds:
        """Return as many rounds as fit into a number of steps; none where that is too little to gain anything."""
        if steps < LEAST:
            return replace(self, steps=0)
        each = min(self.steps, steps)
        return replace(self, steps=each, most=max(1, min(self.most, steps // each)))


LEAST = 100
"""Fewer steps gain too little over the refit of the layers."""
MINUTES = Rounds(300, 2, 0.05)
BEST = Rounds(500, 8, 0.01)


@dataclass(frozen=True, slots=True)
class Matched:
    """The best state of the rounds.

    Attributes:
        tensors: name → parameter of the small network; empty where no round lowered the error.
        error: judged error of that state; that of the beginning where there is none.
        judged: errors after each round.
        stopped: the reason why the rounds ended early, if they did.
    """

    tensors: Mapping[str, Tensor]
    error: float
    judged: tuple[float, ...] = ()
    stopped: str = ""


def matched(
    context: RunContext,
    tensors: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    rounds: Rounds,
    judge: Callable[[Mapping[str, Tensor]], float],
    *,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> Matched:
    """Train the small network towards the dense network's outputs with Adam, and return its best parameters.

    Every step takes samples that are not held out, each blended with another one, see `blended`; one answer of the
    dense network serves several steps. The dense network gives the targets, so a few hundred samples suffice for
    thousands of steps. Norms keep their statistics; their scale and shift are trained. After each round the samples
    held out judge: a round that does not help is taken back, and is the last one.

    Args:
        context: programs and samples of the cut.
        tensors: of the small network, by name, as an earlier repair left them.
        masks: of single weights that stay zero.
        rounds: of steps.
        judge: tensors → error on samples held out.
        watch: ends the rounds early, with the best state so far.
        progress: receives the steps, and a line after each round.

    Source: Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", arXiv:2106.05237 (one view
        for teacher and student, mixed inputs, many steps); `blended` for the mixing.
    """
    best = Matched({}, judge(tensors))
    free = _free(context, tensors)
    if not free or not rounds.steps:
        return best
    training = _Training(context, tensors, free, masks)
    watch, progress = watch or Watch(), progress or Silent()
    progress.start(_TASK, rounds.steps * rounds.most)
    for number in range(rounds.most):
        for step in range(rounds.steps):
            training.step(falling(step, rounds.steps))
            progress.advance(_TASK)
            if watch.over():
                break
        error = judge({**tensors, **free})
        tell(progress, f"{_TASK}, round {number + 1} of up to {rounds.most}: outputs off by {error:.2%}")
        helped, enough = error < best.error, error <= best.error * (1 - rounds.gain)
        judged = (*best.judged, error)
        if helped:
            best = Matched({name: value.detach().clone() for name, value in free.items()}, error, judged)
        best = replace(best, judged=judged, stopped=watch.over())
        if not enough or best.stopped:
            break
    progress.finish(_TASK)
    return best


class _Training:
    """Adam on the free parameters, step by step, with the answers of the dense network to a pool of blended groups."""

    def __init__(
        self,
        context: RunContext,
        tensors: Mapping[str, Tensor],
        free: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
    ) -> None:
        self._context, self._free = context, free
        self._overlay: Mapping[str, Tensor] = ChainMap(dict(free), dict(tensors))
        self._sources = [_source(group) for group in joined([x for x in context.sample_groups if x.role != "held"])]
        self._weights = torch.tensor([float(source.group.count) for source in self._sources])
        self._generator = torch.Generator().manual_seed(context.seed)
        groups = [{"params": [value], "rate": rate_of(value, RATE)} for value in free.values()]
        self._optimizer = torch.optim.Adam(groups, RATE)
        self._zeros = {name: masks[name].to(free[name].device) for name in free.keys() & masks.keys()}
        self._asked = self._questions()

    def step(self, factor: float) -> None:
        """Take one step at a share of the highest rate."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        loss = _loss(self._context, *next(self._asked), self._overlay)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        self._optimizer.step()
        with torch.no_grad():
            for name, mask in self._zeros.items():
                self._free[name] *= mask

    def _questions(self) -> Iterator[tuple[SampleGroup, list[Tensor]]]:
        """Yield blended groups with the dense network's answers, each several times, in a random order."""
        while True:
            pool = [self._question() for _ in range(_POOL)]
            for _ in range(REUSE):
                for index in torch.randperm(_POOL, generator=self._generator).tolist():
                    yield pool[index]

    def _question(self) -> tuple[SampleGroup, list[Tensor]]:
        source = self._sources[int(torch.multinomial(self._weights, 1, generator=self._generator))]
        group = blended(source.drawn(self._generator), self._generator)
        return group, _answers(self._context, group)


def _free(context: RunContext, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kinds = context.programs.first.small.tensors
    return {
        name: tensors[name].detach().clone().requires_grad_()
        for name, info in kinds.items()
        if info.kind == "parameter" and info.dtype.is_floating_point and name in tensors
    }


@torch.no_grad()
def _answers(context: RunContext, group: SampleGroup) -> list[Tensor]:
    """Return the outputs of the dense network, at the positions that the small one has."""
    lockstep = Lockstep(group, context.programs.of(group.inputs), context.dense, context.small)
    for node in lockstep.pair.dense.nodes:
        lockstep.dense.step(node)
    return [lockstep.target(ref) for ref in refs_in(list(lockstep.pair.dense.outputs))]


def _loss(context: RunContext, group: SampleGroup, answers: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    lockstep = Lockstep(group, context.programs.of(group.inputs), context.dense, tensors)
    with torch.enable_grad(), sound_gradients(tensors):
        for node in lockstep.pair.small.nodes:
            lockstep.small.step(node)
    pairs = zip(lockstep.small.outputs(), answers, strict=True)
    floats = [(a, t) for a, t in pairs if isinstance(a, Tensor) and a.is_floating_point()]
    return matching_loss([a for a, _ in floats], [t for _, t in floats])
