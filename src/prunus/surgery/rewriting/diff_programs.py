"""Compare two programs op by op: find the first node at which a cut model does not run the edited graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref, is_mutating, refs_in

_SAME = {
    "aten.view.default": "aten.reshape.default",
    "aten.chunk.default": "aten.split_with_sizes.default",
    "aten.split.Tensor": "aten.split_with_sizes.default",
    "aten.squeeze.default": "aten.squeeze.dims",
}
# Ops that return their argument. A cut may remove them: a tensor of one head is contiguous already.
_THROUGH = frozenset({"aten.contiguous.default", "aten.alias.default", "aten.detach.default"})


@dataclass(slots=True)
class Differ:
    """A comparison of an expected and a found program, node by node.

    Args:
        expected: the edited graph.
        found: the captured program of the cut model.
        constants: values of the expected program's constants.
    """

    expected: Graph
    found: Graph
    constants: Mapping[str, torch.Tensor]
    _names: dict[str, str] = field(default_factory=dict)
    _left: dict[str, Ref] = field(default_factory=dict)
    _right: dict[str, Ref] = field(default_factory=dict)

    def first(self) -> Node | None:
        """Return the first node of ``expected`` that differs in ``found``, or None if the programs are equal."""
        left, self._left = _steps(self.expected)
        right, self._right = _steps(self.found)
        self._names = dict(zip(self.expected.inputs, self.found.inputs, strict=False))
        for a, b in zip(left, right, strict=False):
            if not self._node(a, b):
                return a
            self._names[a.name] = b.name
        if len(left) != len(right):
            return left[min(len(left) - 1, len(right))]
        outputs = zip(self.expected.outputs, self.found.outputs, strict=False)
        same = all(self._value(a, b) for a, b in outputs if isinstance(a, Ref))
        return left[-1] if left and not same else None

    def _node(self, a: Node, b: Node) -> bool:
        if [m and m.shape for m in a.outputs] != [m and m.shape for m in b.outputs]:
            return False
        if a.op == b.op:
            return all(self._value(v, b.args.get(k)) for k, v in a.args.items())
        if _SAME.get(b.op, b.op) != _SAME.get(a.op, a.op):
            return False
        pairs = zip(refs_in(a.args), refs_in(b.args), strict=False)
        return all(self._value(x, y) for x, y in pairs)

    def _value(self, a: Any, b: Any) -> bool:
        if isinstance(a, Ref):
            return isinstance(b, Ref) and self._ref(a, b)
        if isinstance(a, (list, tuple)):
            same = isinstance(b, (list, tuple)) and len(a) == len(b)
            return same and all(self._value(x, y) for x, y in zip(a, b, strict=True))
        if isinstance(a, int) and isinstance(b, int) and not isinstance(a, bool) and a != b:
            return -1 in (a, b)
        # A number that switches in training equals the plain float in evaluation.
        alike = type(a) is type(b) or (isinstance(a, float) and isinstance(b, float))
        return alike and bool(a == b)

    def _ref(self, a: Ref, b: Ref) -> bool:
        a, b = self._left.get(a.node, a), self._right.get(b.node, b)
        left, right = self.expected.node(a.node), self.found.node(b.node)
        if left.op != TENSOR or right.op != TENSOR:
            return a.index == b.index and self._names.get(a.node) == b.node
        expected, found = self.constants.get(left.tensor), self.found.constants.get(right.tensor)
        if left.tensor in self.expected.constants:
            return expected is None or found is None or (expected.shape == found.shape and torch.equal(expected, found))
        return left.tensor == right.tensor


def _steps(graph: Graph) -> tuple[list[Node], dict[str, Ref]]:
    """Return the nodes that compute, and a map from every node that only returns its argument to that argument."""
    written = {next(refs_in(n.args)).node for n in graph.nodes if n.op not in (INPUT, TENSOR) and is_mutating(n.op)}
    through: dict[str, Ref] = {}
    steps = []
    for node in graph.nodes:
        if node.op in (INPUT, TENSOR):
            continue
        if node.op in _THROUGH and node.name not in written:
            ref = next(refs_in(node.args))
            through[node.name] = through.get(ref.node, ref)
        else:
            steps.append(node)
    return steps, through
