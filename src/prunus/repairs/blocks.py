"""Block-wise reconstruction: after the refold, each block is trained briefly towards what the dense one answers."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunus.foundation.memory_format import sound_gradients
from prunus.graph.ir import INPUT, TENSOR, Graph, Ref, refs_in
from prunus.repairs.paired_run import Lockstep, Track
from prunus.repairs.repairs import Mending
from prunus.repairs.sites import Site
from prunus.repairs.walking import Route, Walk, Walked
from prunus.training.losses import relative_square_error

STEPS = 200
"""Steps of Adam for a block."""
LAST_STEPS = 400
"""Steps for the whole network at the end."""
RATE = 3e-3
"""The rate of Adam at most."""
STEP = 0.02
"""The rate in units of a tensor's own size: with wide layers, whose weights are small, a fixed rate overshoots."""
_LAYERS = 2  # of a block at least: a single layer has its optimum from the refold


@dataclass(frozen=True, slots=True)
class Block:
    """Nodes ``start`` to ``stop`` of the dense program: one value goes in and one, ``out``, comes out.

    ``out`` is None for the whole program, which is judged by its outputs.
    """

    start: int
    stop: int
    out: Ref | None


@dataclass(frozen=True, slots=True, eq=False)
class _Case:
    """One lane of a block: the small network's values before it, and what the dense one has after it."""

    step: Lockstep
    values: dict[str, Any]
    targets: list[Tensor]


class Tuning:
    """A walk in blocks: the repair of each layer, then ‖block(x_small) − dense‖² lowered by Adam on stored values.

    Inputs are those of the pruned-and-repaired-so-far network. In the end the outputs of the whole network are brought
    closer in the same way. Held lanes take no part.

    Source: Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction",
        arXiv:2102.05426, for blocks as the unit of reconstruction.
    """

    def __init__(self, route: Route, mending: Mending, *, steps: int = STEPS, last_steps: int = LAST_STEPS) -> None:
        self._route, self._mending, self._steps, self._last_steps = route, mending, steps, last_steps
        self._walk = Walk(route, absorb=mending.repair.absorb)

    def run(self) -> Walked:
        """Walk to the end, block after block."""
        walk = self.walked()
        return Walked(walk.tensors, frozenset(walk.changed), walk.errors())

    def walked(self) -> Walk:
        """Do so, and return the walk itself, with the outputs of every lane at hand."""
        walk, sites = self._walk, self._route.sites
        for block in find_blocks(self._route):
            walk.go(block.start)
            before = [_copied(step.small.values) for step in walk.steps]
            for position in range(block.start, block.stop):
                if walk.nodes[position].name in sites:
                    walk.stop(position, self._mending)
            walk.go(block.stop)
            self._tune(block, before, self._steps)
        walk.go(len(walk.nodes))
        self._tune(Block(0, len(walk.nodes), None), [{} for _ in walk.steps], self._last_steps)
        return walk

    def _tune(self, block: Block, before: list[dict[str, Any]], steps: int) -> None:
        walk, names = self._walk, self._free(block)
        if not names or not steps:
            return
        cases = [
            _Case(step, values, [t.detach() for t in _targets(step, block)])
            for step, values in zip(walk.steps, before, strict=True)
        ]
        with torch.enable_grad():
            walk.replace(self._trained(block, cases, names, steps))
        for case in cases:
            with torch.no_grad():
                case.step.small.values = self._replayed(block, case, walk.tensors).values

    def _trained(self, block: Block, cases: list[_Case], names: list[str], steps: int) -> dict[str, Tensor]:
        """Return the tensors after some steps of Adam, the rate falling to zero along a cosine."""
        free = {name: self._walk.tensors[name].detach().clone().requires_grad_() for name in names}
        overlay, masks = ChainMap(free, self._walk.tensors), self._mending.masks
        groups = [{"params": [value], "rate": rate_of(value)} for value in free.values()]
        optimizer = torch.optim.Adam(groups, RATE)
        fit = [c for c in cases if c.step.lane.role != "held"]
        generator = torch.Generator().manual_seed(self._route.seed)
        for number in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * falling(number, steps)
            case = fit[int(torch.randint(len(fit), (1,), generator=generator))]
            with sound_gradients(overlay):
                loss = self._loss(block, case, overlay)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                for name in free.keys() & masks.keys():
                    free[name] *= masks[name].to(free[name].device)
        return free

    def _loss(self, block: Block, case: _Case, tensors: Mapping[str, Tensor]) -> Tensor:
        found = _answers(self._replayed(block, case, tensors), block)
        misses = [relative_square_error(a, t) for a, t in zip(found, case.targets, strict=True)]
        return torch.stack(misses).sum()

    def _replayed(self, block: Block, case: _Case, tensors: Mapping[str, Tensor]) -> Track:
        """Run a block of the small program from stored values."""
        track = case.step.small.branched(_copied(case.values), tensors)
        for node in self._walk.nodes[block.start : block.stop]:
            small = case.step.pair.small.find(node.name)
            if small is not None:
                track.step(small)
        return track

    def _free(self, block: Block) -> list[str]:
        """Return the parameters that this block reads and no other node."""
        small = self._route.programs.first.small
        inside = {node.name for node in self._walk.nodes[block.start : block.stop]}
        kinds = small.tensors
        read: dict[str, set[bool]] = {}
        for node in small.nodes:
            for ref in refs_in(node.args):
                source = small.node(ref.node)
                if source.op == TENSOR:
                    read.setdefault(source.tensor, set()).add(node.name in inside)
        return [
            name
            for name, where in read.items()
            if where == {True} and kinds[name].kind == "parameter" and kinds[name].dtype.is_floating_point
        ]


def rate_of(value: Tensor) -> float:
    """Return the rate for a tensor: small weights take small steps."""
    size = float(value.detach().double().square().mean().sqrt())
    return min(RATE, STEP * size) if size else RATE


def falling(number: int, steps: int) -> float:
    """Return the share of the rate in a step: from 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * number / steps))


def _targets(step: Lockstep, block: Block) -> list[Tensor]:
    """Return what the dense network has after a block, at the positions that the small one has."""
    refs = [block.out] if block.out is not None else list(refs_in(list(step.pair.dense.outputs)))
    return [t for t in map(step.target, refs) if t.is_floating_point()]


def _answers(track: Track, block: Block) -> list[Tensor]:
    values = [track.value(block.out)] if block.out is not None else track.outputs()
    return [v for v in values if v.is_floating_point()]


def find_blocks(route: Route) -> list[Block]:
    """Return the blocks of a program in order: one ends where a single value that hangs on the weights goes on."""
    pair = route.programs.first
    graph = pair.dense
    ends = _narrow(graph, pair.small)
    blocks: list[Block] = []
    start = layers = 0
    for position, node in enumerate(graph.nodes):
        if isinstance(route.sites.get(node.name), Site):
            if layers >= _LAYERS:
                cuts = [p for p in ends if start < p <= position]
                if cuts and _count(route, graph, start, cuts[-1]) >= _LAYERS:
                    blocks.append(Block(start, cuts[-1], ends[cuts[-1]]))
                    start, layers = cuts[-1], _count(route, graph, cuts[-1], position)
            layers += 1
    last = [p for p in ends if p > start]
    if last:
        blocks.append(Block(start, last[-1], ends[last[-1]]))
    return blocks


def _count(route: Route, graph: Graph, start: int, stop: int) -> int:
    return sum(isinstance(route.sites.get(node.name), Site) for node in graph.nodes[start:stop])


def _narrow(dense: Graph, small: Graph) -> dict[int, Ref]:
    """Map positions of the dense program before which one weighted value is alive to that value."""
    last: dict[str, int] = {}
    for position, node in enumerate(dense.nodes):
        for ref in refs_in(node.args):
            last[ref.node] = position
    for ref in refs_in(list(dense.outputs)):
        last[ref.node] = len(dense.nodes)
    weighted: set[str] = set()
    alive: set[str] = set()
    found: dict[int, Ref] = {}
    for position, node in enumerate(dense.nodes):
        if node.op not in (INPUT, TENSOR):
            sources = [ref.node for ref in refs_in(node.args)]
            if any(s in weighted or dense.node(s).op == TENSOR for s in sources):
                weighted.add(node.name)
                alive.add(node.name)
        alive = {name for name in alive if last.get(name, -1) > position}
        only = next(iter(alive)) if len(alive) == 1 else ""
        if only and not dense.node(only).multi and small.find(only) is not None:
            meta = dense.node(only).outputs[0]
            if meta is not None and meta.dtype.is_floating_point:
                found[position + 1] = Ref(only)
    return found


def _copied(values: dict[str, Any]) -> dict[str, Any]:
    """Copy values that a block may write into."""
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in values.items()}
