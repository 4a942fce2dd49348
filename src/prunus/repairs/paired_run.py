"""A lockstep of both programs on one sample group: the dense and the small one run side by side, node by node."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prunus.errors import DataError
from prunus.graph.interpreter import LENIENT, Override, call_arguments, mutated_sources, resolve
from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref, map_refs, refs_in
from prunus.repairs.program_pairs import Pair
from prunus.repairs.samples import SampleGroup


class Track:
    """The run of one program, with the values that later nodes still need.

    Tensors of the model are looked up when they are read, so a repair takes effect in all later nodes.
    ``tensors`` is shared by all sample groups; ``constants`` belong to the program.
    """

    def __init__(
        self, graph: Graph, feed: list[Tensor], tensors: Mapping[str, Tensor], constants: Mapping[str, Tensor]
    ) -> None:
        self.graph, self.tensors, self.constants = graph, tensors, constants
        self.values: dict[str, Any] = {}
        self._feed = dict(zip(graph.inputs, feed, strict=True))
        self._own = mutated_sources(graph)
        self._freed = _freed(graph)

    def branched(self, values: dict[str, Any], tensors: Mapping[str, Tensor]) -> Track:
        """Return a track of the same program with other values and other tensors."""
        other = copy.copy(self)
        other.values, other.tensors = values, tensors
        return other

    def copied(self, tensors: Mapping[str, Tensor]) -> Track:
        """Return a track that continues from here with other tensors and leaves this one as it is.

        Views stay views of the copied values, because in-place ops write through them.
        """
        return self.branched(copy.deepcopy(self.values), tensors)

    def step(self, node: Node, override: Override | None = None) -> None:
        """Compute a node, by ``override`` where one is given, and free the values that no later node reads."""
        self.take(node, override)
        self.free(node)

    def take(self, node: Node, override: Override | None = None) -> None:
        """Compute a node and keep the values that it reads."""
        if node.op == INPUT:
            self.values[node.name] = self._feed[node.name].clone()
        elif node.op == TENSOR:
            if node.name in self._own:
                self.values[node.name] = self._named(node.tensor).clone()
        else:
            self.values[node.name] = self.computed(node, override)

    def free(self, node: Node) -> None:
        """Free the values that no node behind this one reads."""
        for name in self._freed.get(node.name, ()):
            self.values.pop(name, None)

    def computed(self, node: Node, override: Override | None = None, **changes: Any) -> Any:
        """Return the result of a node, with some of its arguments replaced by ``changes``."""
        values = {k: map_refs(v, self.value) for k, v in node.args.items()} | changes
        args, kwargs = call_arguments(node, values)
        function = resolve(LENIENT.get(node.op, node.op))
        return override(node, function, args, kwargs) if override is not None else function(*args, **kwargs)

    def value(self, ref: Ref) -> Any:
        """Return a stored value, or a tensor of the model."""
        if ref.node in self.values:
            value = self.values[ref.node]
            return value[ref.index] if isinstance(value, (tuple, list)) else value
        return self._named(self.graph.node(ref.node).tensor)

    def outputs(self) -> list[Any]:
        """Return the output values in order, once all nodes are done."""
        return [self.value(ref) for ref in refs_in(list(self.graph.outputs))]

    def _named(self, name: str) -> Tensor:
        value = self.constants.get(name)
        value = self.tensors.get(name) if value is None else value
        if value is None:
            raise DataError(f"No value was given for tensor {name!r}.")
        return value


class Lockstep:
    """The dense and the small program on one sample group.

    ``dense`` and ``small`` map tensor names to values; all sample groups share them. With ``still`` nothing was cut and
    nothing changes on the way: both are one, which runs once.
    """

    def __init__(
        self,
        sample_group: SampleGroup,
        pair: Pair,
        dense: Mapping[str, Tensor],
        small: Mapping[str, Tensor],
        *,
        still: bool = False,
    ) -> None:
        self.sample_group, self.pair, self._still = sample_group, pair, still
        feeds = pair.feeds(sample_group.inputs)
        self.dense = Track(pair.dense, feeds[0], dense, pair.dense.constants)
        self.small = self.dense if still else Track(pair.small, feeds[1], small, pair.constants)

    def branched(self) -> Lockstep:
        """Return a lockstep of the same sample group that continues from here and leaves this one as it is."""
        other = copy.copy(self)
        other.dense = self.dense.copied(self.dense.tensors)
        other.small = other.dense if self._still else self.small.copied(self.small.tensors)
        return other

    @torch.no_grad()
    def advance(self, start: int, stop: int) -> None:
        """Run nodes ``start`` to ``stop`` of the dense program, and those of them that the small one has."""
        for position in range(start, stop):
            self.advance_dense(position)
            self.advance_small(position)

    @torch.no_grad()
    def advance_dense(self, position: int) -> None:
        """Run one node of the dense program alone."""
        node = self.pair.dense.nodes[position]
        if self._still:  # what the node reads is asked for until the small program has run it too
            self.dense.take(node)
        else:
            self.dense.step(node)

    @torch.no_grad()
    def advance_small(self, position: int) -> None:
        """Run the node of the small program that has the same name, if there is one."""
        node = self.pair.dense.nodes[position]
        if self._still:
            self.dense.free(node)
            return
        own = self.pair.small.find(node.name)
        if own is not None:
            self.small.step(own)

    def target(self, ref: Ref) -> Tensor:
        """Return a dense value at the positions that the small program has."""
        value: Tensor = self.dense.value(ref)
        return self.pair.kept(value, ref)

    def output_errors(self) -> list[float]:
        """Return ‖dense − small‖² and ‖dense‖² of every output of floats, one after the other.

        Equal infinities in both, as in masked logits, count as no difference.
        """
        sums = []
        refs = refs_in(list(self.pair.dense.outputs))
        for ref, narrow in zip(refs, self.small.outputs(), strict=True):
            wide = self.target(ref)
            if isinstance(narrow, Tensor) and narrow.is_floating_point():
                wide, narrow = wide.to(torch.float64), narrow.to(torch.float64)
                miss = (wide - narrow).where(wide != narrow, 0.0)
                sums += [float(miss.square().sum()), float(wide.where(wide.isfinite(), 0.0).square().sum())]
        return sums


def _freed(graph: Graph) -> dict[str, list[str]]:
    """Map each node to the values that no later node reads."""
    last: dict[str, str] = {}
    for node in graph.nodes:
        last[node.name] = node.name
        for ref in refs_in(node.args):
            last[ref.node] = node.name
    for ref in refs_in(list(graph.outputs)):
        last.pop(ref.node, None)
    freed: dict[str, list[str]] = {}
    for name, at in last.items():
        freed.setdefault(at, []).append(name)
    return freed
