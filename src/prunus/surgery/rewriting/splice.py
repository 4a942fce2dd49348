"""Rewrite the forwards of modules that hold a stale size, and no others; every class and name stays."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from prunus.errors import CaptureError
from prunus.graph.ir import TENSOR, Graph, ModuleCall, Node, Ref, refs_in
from prunus.surgery.rewriting.emit import Emission, Emitter
from prunus.surgery.rewriting.generated_class import GeneratedClass
from prunus.surgery.rewriting.module_calls import CallIndex, module_below, passing_calls, tensor_below
from prunus.surgery.rewriting.symbolic_sizes import Growth


@dataclass(slots=True)
class Splice:
    """Chosen module calls: ``stale`` ones get a new forward, ``inlined`` ones are written out in their caller's."""

    graph: Graph
    stale: set[int] = field(default_factory=set)
    inlined: set[int] = field(default_factory=set)
    _index: CallIndex | None = field(default=None, repr=False, compare=False)

    @property
    def index(self) -> CallIndex:
        """An index of the graph's calls."""
        if self._index is None:
            self._index = CallIndex.of(self.graph)
        return self._index

    def settle(self) -> None:
        """Widen the choice until every new forward can reach every value it needs.

        If a child makes a needed value and does not return it, the child is written out. If a value comes from outside
        and is no argument, the call itself is written out in its parent, and the parent is rewritten too.

        Raises:
            CaptureError: the top level itself needs a value that is no argument.
        """
        todo = set(self.stale)
        while todo:
            while todo:
                index = max(todo)
                problem = self._missing(index) if index in self.stale else None
                if problem is None:
                    todo.discard(index)
                elif problem >= 0:
                    self.inlined.add(problem)
                    self.stale.discard(problem)
                else:
                    todo.add(self.lift(index))
            todo = self._unequal_calls()

    def use(self, graph: Graph) -> None:
        """Replace the graph by another program with the same calls."""
        if graph is not self.graph:
            self.graph, self._index = graph, None

    def written(self) -> set[int]:
        """Return the calls whose ops are part of a new forward."""
        return {c.index for c in self.graph.calls if self.owner(c.index) in self.stale}

    def natives(self, index: int) -> frozenset[int]:
        """Return the calls below ``index`` that stay calls of their module."""
        return frozenset(c.index for c in self._kept_children(index))

    def owner(self, index: int) -> int:
        """Return the call whose forward contains the ops of ``index``: itself, or the one that it is written out in."""
        while index in self.inlined:
            index = self.graph.calls[index].parent
        return index

    def lift(self, index: int) -> int:
        """Write a call out in its caller's forward, mark the caller as stale, and return it.

        Raises:
            CaptureError: the call is the top level.
        """
        parent = self.graph.calls[index].parent
        if parent < 0:
            raise CaptureError("the top level needs a value that is not one of its arguments")
        self.inlined.add(index)
        self.stale.discard(index)
        above = self.owner(parent)
        self.stale.add(above)
        return above

    def widen(self, index: int) -> None:
        """Rewrite the forward that runs ``index``; if it is rewritten already, rewrite its caller.

        Raises:
            CaptureError: even the top level is rewritten already.
        """
        at = self.owner(index)
        if at in self.stale:
            self.lift(at)
        else:
            self.stale.add(at)

    def take_all(self) -> None:
        """Write the whole program out in the top level's forward, except calls that only pass their input on.

        Those may compute something in training.
        """
        passing = passing_calls(self.graph)
        self.stale, self.inlined = {0}, {c.index for c in self.graph.calls[1:] if c.index not in passing}

    def _kept_children(self, index: int) -> Iterator[ModuleCall]:
        for call in self.index.children.get(index, ()):
            if call.index in self.inlined:
                yield from self._kept_children(call.index)
            else:
                yield call

    def _members(self, index: int) -> Iterator[int]:
        """Yield ``index`` and the calls written out inside it."""
        yield index
        for call in self.index.children.get(index, ()):
            if call.index in self.inlined:
                yield from self._members(call.index)

    def _missing(self, index: int) -> int | None:
        """Return None if the forward reaches all values, else the child to write out, or -1 for ``index`` itself."""
        call, known = self.graph.calls[index], self.index
        kept = list(self._kept_children(index))
        for child in kept:
            if child.index in known.live and module_below(self.graph, child.path, call.path) is None:
                return child.index
        have = {r for r in call.in_leaves if isinstance(r, Ref)}
        have |= {r for c in kept for r in c.out_leaves if isinstance(r, Ref)}
        need = [r for r in call.out_leaves if isinstance(r, Ref)]
        for member in self._members(index):
            for node in known.nodes.get(member, ()):
                have |= {Ref(node.name, i) for i in range(len(node.outputs))}
                need += refs_in(node.args)
        need += [r for c in kept if c.index in known.live for r in c.in_leaves if isinstance(r, Ref)]
        for ref in need:
            if ref in have or ref.node not in known.names:
                continue
            node = self.graph.node(ref.node)
            if node.op == TENSOR:
                if node.tensor in self.graph.constants or tensor_below(self.graph, node.tensor, call.path):
                    continue
                return -1
            return self._child_holding(node, kept)
        return None

    def _child_holding(self, node: Node, kept: list[ModuleCall]) -> int:
        at = node.call
        indices = {c.index for c in kept}
        while at >= 0:
            if at in indices:
                return at
            at = self.graph.calls[at].parent
        return -1

    def _unequal_calls(self) -> set[int]:
        """Write calls of one module out in their parents if they would need different forwards.

        Returns the calls that have to be settled again; none if all calls of each module share a forward.
        """
        by_path: dict[str, list[int]] = {}
        for call in self.graph.calls:
            if call.index not in self.inlined and call.index in self.index.live:
                by_path.setdefault(call.path, []).append(call.index)
        again: set[int] = set()
        for indices in by_path.values():
            chosen = self.stale.intersection(indices)
            if not chosen or len(indices) == 1:
                continue
            if len(chosen) < len(indices):
                self.stale.update(indices)
                again.update(indices)
            elif len({self._text(i) for i in indices}) > 1:
                again.update(self.lift(i) for i in indices)
        return again

    def _text(self, index: int) -> str:
        emitter = Emitter(self.graph, index, self.natives(index), index=self.index)
        emitter.emit()
        return _anonymous(emitter.source())


def _anonymous(source: str) -> str:
    """Number local names in order of appearance, so that equal forwards of two calls have equal texts."""
    seen: dict[str, str] = {}
    return re.sub(
        r"\b([a-z_]+\w*_\d+|call_\d+|[a-z]\w*)\b(?=( = |\[|,|\)|\.shape))",
        lambda m: seen.setdefault(m[1], f"n{len(seen)}"),
        source,
    )


def splice_(small: nn.Module, splice: Splice, values: Mapping[str, torch.Tensor], growth: Growth) -> tuple[str, ...]:
    """Give every stale module of ``small`` its new forward, and return the paths of these modules.

    The module becomes an instance of a subclass of its own class: children, parameters, hooks and names stay.
    """
    modules = dict(small.named_modules(remove_duplicate=False))
    done: dict[str, int] = {}
    for index in sorted(splice.stale):
        call = splice.graph.calls[index]
        if call.path in done:
            continue
        done[call.path] = index
        emission, source = write_forward(splice, index, growth)
        rebind_(modules[call.path], source, emission, splice.graph, values)
    return tuple(done)


def write_forward(splice: Splice, index: int, growth: Growth) -> tuple[Emission, str]:
    """Emit the forward of one stale call."""
    emitter = Emitter(splice.graph, index, splice.natives(index), growth, splice.index)
    return emitter.emit(), emitter.source()


def rebind_(
    module: nn.Module, source: str, emission: Emission, graph: Graph, values: Mapping[str, torch.Tensor]
) -> None:
    """Make ``module`` run the emitted source; constants named in it become non-persistent buffers."""
    named = set(re.findall(r"\bself\.(\w+)", source)) if graph.constants else set()
    for name in graph.constants:
        attribute = re.sub(r"[^0-9A-Za-z_]", "_", name)
        if attribute in named:
            module.register_buffer(attribute, values[name].clone(), persistent=False)
    module.__class__ = GeneratedClass.around(type(module), source, emission.names).made
    if isinstance(module, nn.MultiheadAttention):
        # Keeps nn.TransformerEncoderLayer from its fused path, which reads old sizes.
        module._qkv_same_embed_dim = False
