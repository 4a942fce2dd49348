"""Block-wise reconstruction: after the refold, each block is trained briefly towards the dense block's output."""

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
from prunus.repairs.layerwise_run import LayerwiseRun, RunContext, RunResult
from prunus.repairs.paired_run import Lockstep, Track
from prunus.repairs.repairs import SiteRepairer
from prunus.repairs.sites import Site
from prunus.training.losses import relative_square_error

STEPS = 200
"""Steps of Adam for a block."""
LAST_STEPS = 400
"""Steps for the whole network at the end."""
RATE = 3e-3
"""The highest learning rate of Adam."""
STEP = 0.02
"""The rate in units of a tensor's root mean square: a fixed rate overshoots in wide layers, whose weights are small."""
_LAYERS = 2  # least number of layers in a block: the refold already gives the optimum of a single layer


@dataclass(frozen=True, slots=True)
class Block:
    """Nodes ``start`` to ``stop`` of the dense program: one value enters and one, ``out``, leaves.

    ``out`` is None for the whole program; the loss then compares its outputs.
    """

    start: int
    stop: int
    out: Ref | None


@dataclass(frozen=True, slots=True, eq=False)
class _BlockData:
    """One sample group at a block: the small network's values before it, and the dense network's after it."""

    lockstep: Lockstep
    values: dict[str, Any]
    targets: list[Tensor]


class BlockTuning:
    """A layer-wise run in blocks: each layer is repaired, then Adam lowers ‖block(x_small) − dense‖² on stored values.

    The inputs of a block are those of the small network as repaired so far. In the end the outputs of the whole
    network are trained in the same way. Groups in the role ``held`` take no part.

    Source: Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction",
        arXiv:2102.05426, for blocks as the unit of reconstruction.
    """

    def __init__(
        self, context: RunContext, repairer: SiteRepairer, *, steps: int = STEPS, last_steps: int = LAST_STEPS
    ) -> None:
        self._context, self._repairer, self._steps, self._last_steps = context, repairer, steps, last_steps
        self._layer_run = LayerwiseRun(context, absorb=repairer.repair.absorb)

    def run(self) -> RunResult:
        """Run to the end, block after block."""
        layer_run = self.finished_run()
        return RunResult(layer_run.tensors, frozenset(layer_run.changed), layer_run.errors())

    def finished_run(self) -> LayerwiseRun:
        """Run to the end and return the run itself, which holds the outputs of every sample group."""
        layer_run, sites = self._layer_run, self._context.sites
        for block in find_blocks(self._context):
            layer_run.run_to(block.start)
            before = [_copied(lockstep.small.values) for lockstep in layer_run.locksteps]
            for position in range(block.start, block.stop):
                if layer_run.nodes[position].name in sites:
                    layer_run.repair_site(position, self._repairer)
            layer_run.run_to(block.stop)
            self._tune(block, before, self._steps)
        layer_run.run_to(len(layer_run.nodes))
        self._tune(Block(0, len(layer_run.nodes), None), [{} for _ in layer_run.locksteps], self._last_steps)
        return layer_run

    def _tune(self, block: Block, before: list[dict[str, Any]], steps: int) -> None:
        layer_run, names = self._layer_run, self._free(block)
        if not names or not steps:
            return
        items = [
            _BlockData(lockstep, values, [t.detach() for t in _targets(lockstep, block)])
            for lockstep, values in zip(layer_run.locksteps, before, strict=True)
        ]
        with torch.enable_grad():
            layer_run.replace(self._trained(block, items, names, steps))
        for item in items:
            with torch.no_grad():
                item.lockstep.small.values = self._replayed(block, item, layer_run.tensors).values

    def _trained(self, block: Block, items: list[_BlockData], names: list[str], steps: int) -> dict[str, Tensor]:
        """Return the tensors after some steps of Adam, the rate falling to zero along a cosine."""
        free = {name: self._layer_run.tensors[name].detach().clone().requires_grad_() for name in names}
        overlay, masks = ChainMap(free, self._layer_run.tensors), self._repairer.masks
        groups = [{"params": [value], "rate": rate_of(value)} for value in free.values()]
        optimizer = torch.optim.Adam(groups, RATE)
        fit = [item for item in items if item.lockstep.sample_group.role != "held"]
        generator = torch.Generator().manual_seed(self._context.seed)
        for number in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * falling(number, steps)
            item = fit[int(torch.randint(len(fit), (1,), generator=generator))]
            with sound_gradients(overlay):
                loss = self._loss(block, item, overlay)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                for name in free.keys() & masks.keys():
                    free[name] *= masks[name].to(free[name].device)
        return free

    def _loss(self, block: Block, item: _BlockData, tensors: Mapping[str, Tensor]) -> Tensor:
        values = _outputs(self._replayed(block, item, tensors), block)
        misses = [relative_square_error(a, t) for a, t in zip(values, item.targets, strict=True)]
        return torch.stack(misses).sum()

    def _replayed(self, block: Block, item: _BlockData, tensors: Mapping[str, Tensor]) -> Track:
        """Run a block of the small program on stored values."""
        track = item.lockstep.small.branched(_copied(item.values), tensors)
        for node in self._layer_run.nodes[block.start : block.stop]:
            small = item.lockstep.pair.small.find(node.name)
            if small is not None:
                track.step(small)
        return track

    def _free(self, block: Block) -> list[str]:
        """Return the names of the parameters that only this block reads."""
        small = self._context.programs.first.small
        inside = {node.name for node in self._layer_run.nodes[block.start : block.stop]}
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


def rate_of(value: Tensor, highest: float = RATE) -> float:
    """Return the learning rate of a tensor: small weights take small steps."""
    size = float(value.detach().double().square().mean().sqrt())
    return min(highest, STEP * size) if size else highest


def falling(number: int, steps: int) -> float:
    """Return the factor on the rate in a step: from 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * number / steps))


def _targets(lockstep: Lockstep, block: Block) -> list[Tensor]:
    """Return the dense network's values after a block, at the positions that the small one has."""
    refs = [block.out] if block.out is not None else list(refs_in(list(lockstep.pair.dense.outputs)))
    return [t for t in map(lockstep.target, refs) if t.is_floating_point()]


def _outputs(track: Track, block: Block) -> list[Tensor]:
    values = [track.value(block.out)] if block.out is not None else track.outputs()
    return [v for v in values if v.is_floating_point()]


def find_blocks(context: RunContext) -> list[Block]:
    """Return the blocks of a program in order.

    A block ends where a single value that depends on the weights is still needed.
    """
    pair = context.programs.first
    graph = pair.dense
    ends = _narrow(graph, pair.small)
    blocks: list[Block] = []
    start = layers = 0
    for position, node in enumerate(graph.nodes):
        if isinstance(context.sites.get(node.name), Site):
            if layers >= _LAYERS:
                cuts = [p for p in ends if start < p <= position]
                if cuts and _count(context, graph, start, cuts[-1]) >= _LAYERS:
                    blocks.append(Block(start, cuts[-1], ends[cuts[-1]]))
                    start, layers = cuts[-1], _count(context, graph, cuts[-1], position)
            layers += 1
    last = [p for p in ends if p > start]
    if last:
        blocks.append(Block(start, last[-1], ends[last[-1]]))
    return blocks


def _count(context: RunContext, graph: Graph, start: int, stop: int) -> int:
    return sum(isinstance(context.sites.get(node.name), Site) for node in graph.nodes[start:stop])


def _narrow(dense: Graph, small: Graph) -> dict[int, Ref]:
    """Map each position of the dense program before which one single weight-dependent value is alive to that value."""
    last: dict[str, int] = {}
    for position, node in enumerate(dense.nodes):
        for ref in refs_in(node.args):
            last[ref.node] = position
    for ref in refs_in(list(dense.outputs)):
        last[ref.node] = len(dense.nodes)
    weighted: set[str] = set()
    alive: set[str] = set()
    narrow: dict[int, Ref] = {}
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
                narrow[position + 1] = Ref(only)
    return narrow


def _copied(values: dict[str, Any]) -> dict[str, Any]:
    """Copy values, because a block may write into them."""
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in values.items()}
