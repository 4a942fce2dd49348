"""Rewrite the forward of the modules that hold a stale size, of nothing else; every class and name stays."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from prunus.errors import CaptureError
from prunus.graph.ir import INPUT, TENSOR, Graph, ModuleCall, Node, Ref, refs_in
from prunus.surgery.dynamic import Growth
from prunus.surgery.emit import Emission, Emitter, compile_forward, live_calls


@dataclass(slots=True)
class Splice:
    """Which module calls get a new forward, and which are written out inside their parent's."""

    graph: Graph
    stale: set[int] = field(default_factory=set)
    inlined: set[int] = field(default_factory=set)

    def settle(self) -> None:
        """Widen the choice until every new forward can reach every value it needs.

        A value made inside a child and not returned by it: the child is written out. A value that arrives from outside
        by another way than the arguments: the call itself is written out in its parent, which then is rewritten too.

        Raises:
            CaptureError: a value reaches even the top level by an unknown way.
        """
        changed = True
        while changed:
            changed = False
            for index in sorted(self.stale, reverse=True):
                problem = self._missing(index)
                if problem is None:
                    continue
                changed = True
                if problem >= 0:
                    self.inlined.add(problem)
                    self.stale.discard(problem)
                else:
                    self._lift(index)
                break
            changed = changed or self._unequal_calls()

    def natives(self, index: int) -> frozenset[int]:
        """Return the calls below ``index`` that stay calls of their module."""
        return frozenset(c.index for c in self._kept_children(index))

    def _lift(self, index: int) -> None:
        parent = self.graph.calls[index].parent
        if parent < 0:
            raise CaptureError("a value reaches the top level by a way that is not its arguments")
        self.inlined.add(index)
        self.stale.discard(index)
        self.stale.add(parent)

    def _kept_children(self, index: int) -> Iterator[ModuleCall]:
        for call in self.graph.calls:
            if call.parent == index:
                if call.index in self.inlined:
                    yield from self._kept_children(call.index)
                else:
                    yield call

    def _members(self, index: int) -> set[int]:
        """Return ``index`` and the calls written out inside it."""
        found = {index}
        for call in self.graph.calls:
            if call.parent in found and call.index in self.inlined:
                found.add(call.index)
        return found

    def _missing(self, index: int) -> int | None:
        """Return None if all values are at hand, a child call to write out, or -1 if ``index`` itself must be."""
        call, members = self.graph.calls[index], self._members(index)
        kept = list(self._kept_children(index))
        have = {r for r in call.in_leaves if isinstance(r, Ref)}
        have |= {r for c in kept for r in c.out_leaves if isinstance(r, Ref)}
        need = [r for r in call.out_leaves if isinstance(r, Ref)]
        for node in self.graph.nodes:
            if node.call in members and node.op not in (INPUT, TENSOR):
                have |= {Ref(node.name, i) for i in range(len(node.outputs))}
                need += refs_in(node.args)
        need += [r for c in kept for r in c.in_leaves if isinstance(r, Ref)]
        names = self._names()
        for ref in need:
            if ref in have or ref.node not in names:
                continue
            node = self.graph.node(ref.node)
            if node.op == TENSOR:
                if node.tensor in self.graph.constants or self._below(node.tensor, call.path):
                    continue
                return -1
            return self._child_holding(node, kept)
        return None

    def _names(self) -> set[str]:
        return {n.name for n in self.graph.nodes}

    def _below(self, tensor: str, path: str) -> bool:
        return not path or tensor.startswith(f"{path}.")

    def _child_holding(self, node: Node, kept: list[ModuleCall]) -> int:
        at = node.call
        indices = {c.index for c in kept}
        while at >= 0:
            if at in indices:
                return at
            at = self.graph.calls[at].parent
        return -1

    def _unequal_calls(self) -> bool:
        """Calls of one module must have one forward; where they differ, write them out in their parents."""
        by_path: dict[str, list[int]] = {}
        for call in self.graph.calls:
            if call.index not in self.inlined:
                by_path.setdefault(call.path, []).append(call.index)
        for path, indices in by_path.items():
            chosen = [i for i in indices if i in self.stale]
            if not chosen or len(indices) == 1:
                continue
            for i in indices:
                self.stale.add(i)
            texts = set()
            for i in indices:
                if self._missing(i) is not None:
                    return True
                emitter = Emitter(self.graph, i, self.natives(i))
                emitter.emit()
                texts.add(_anonymous(emitter.source()))
            if len(texts) > 1:
                if path == "":
                    raise CaptureError("the top level is called several times in different ways")
                for i in indices:
                    self._lift(i)
                return True
            if len(chosen) < len(indices):
                return True
        return False


def _anonymous(source: str) -> str:
    """Number local names in order of appearance, so that two calls of one module read alike."""
    seen: dict[str, str] = {}
    return re.sub(r"\b([a-z_]+\w*_\d+|call_\d+|[a-z]\w*)\b(?=( = |\[|,|\)|\.shape))",
                  lambda m: seen.setdefault(m[1], f"n{len(seen)}"), source)  # fmt: skip


def splice_(small: nn.Module, splice: Splice, values: Mapping[str, torch.Tensor], growth: Growth) -> tuple[str, ...]:
    """Give every stale module of ``small`` its new forward; returns their paths.

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
    emitter = Emitter(splice.graph, index, splice.natives(index))
    emitter.size_text = lambda node, key, position, value: growth.text(emitter, node, key, position, value)
    return emitter.emit(), emitter.source()


def rebind_(
    module: nn.Module, source: str, emission: Emission, graph: Graph, values: Mapping[str, torch.Tensor]
) -> None:
    """Make ``module`` run emitted source; constants it names become non-persistent buffers."""
    for name in graph.constants:
        attribute = re.sub(r"[^0-9A-Za-z_]", "_", name)
        if re.search(rf"\bself\.{attribute}\b", source):
            module.register_buffer(attribute, values[name].clone(), persistent=False)
    own = type(module)
    function = compile_forward(source, emission.names, own.__name__)
    body: dict[str, Any] = {"forward": function, "__module__": own.__module__, "__doc__": own.__doc__,
                            "prunus_source": source}  # fmt: skip
    module.__class__ = type(own.__name__, (own,), body)
    if isinstance(module, nn.MultiheadAttention):
        module._qkv_same_embed_dim = (
            False  # keeps nn.TransformerEncoderLayer from its fused path, which reads old sizes
        )


def prune_modules_(small: nn.Module, splice: Splice) -> tuple[str, ...]:
    """Delete the submodules that no rewritten forward calls any more and whose tensors nothing reads; returns paths."""
    graph = splice.graph
    read = {n.tensor for n in graph.nodes if n.op == TENSOR}
    read |= {alias for alias, name in graph.aliases.items() if name in read}
    alive = {graph.calls[i].path for i in live_calls(graph)}
    called = {c.path for c in graph.calls}
    gone: list[str] = []
    for path, module in list(small.named_modules(remove_duplicate=False)):
        if not path or any(path.startswith(f"{g}.") for g in gone):
            continue
        inside = [p for p in called if p == path or p.startswith(f"{path}.")]
        tensors = list(_tensor_names(module, path))
        dead = bool(inside) and not any(p in alive for p in inside) and not any(t in read for t in tensors)
        if dead and _caller_is_rewritten(splice, path):
            gone.append(path)
    for path in gone:
        parent, _, leaf = path.rpartition(".")
        del small.get_submodule(parent)._modules[leaf]
    return tuple(gone)


def _tensor_names(module: nn.Module, path: str) -> Iterator[str]:
    for name, _ in (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)):
        yield f"{path}.{name}"


def _caller_is_rewritten(splice: Splice, path: str) -> bool:
    """Whether every call below ``path`` hangs under a call that was written anew, with nothing alive between."""
    calls = splice.graph.calls
    alive = live_calls(splice.graph)
    for call in calls:
        if call.path != path:
            continue
        at = call.parent
        while at >= 0 and at not in alive:
            at = calls[at].parent
        if at < 0 or (at not in splice.stale and at not in splice.inlined):
            return False
    return True
