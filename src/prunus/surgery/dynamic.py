"""Which integers of a program grow with the batch: found by capturing the model a second time, one sample larger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.errors import PrunusError
from prunus.graph.capture import capture, split_inputs
from prunus.graph.ir import Graph, Node, Ref
from prunus.surgery.emit import Emitter


@dataclass(frozen=True, slots=True)
class Growth:
    """A program at two batch sizes; ``other`` is None where the second capture was not possible or looked different."""

    graph: Graph
    other: Graph | None

    def text(self, emitter: Emitter, node: Node, key: str, position: int | None, value: int) -> str | None:
        """Return an expression over input shapes for a literal that grows with the batch, else None."""
        if self.other is None:
            return None
        before = self._literal(self.graph, node.name, key, position)
        after = self._literal(self.other, node.name, key, position)
        if type(before) is not int or type(after) is not int or before == after:
            return None
        for i, leaf in enumerate(emitter.root.in_leaves):
            if not isinstance(leaf, Ref):
                continue
            for d, (one, two) in enumerate(
                zip(self._shape(self.graph, leaf), self._shape(self.other, leaf), strict=True)
            ):
                if one != two and before * two == after * one:
                    times = f" * {value // one}" if value % one == 0 else f" * {value} // {one}"
                    return f"x{i}.shape[{d}]" + ("" if times == " * 1" else times)
        return None

    def _literal(self, graph: Graph, name: str, key: str, position: int | None) -> Any:
        args = graph.node(name).args
        value = args.get(key, args.get("size") if key == "shape" else None)  # a rewritten view is a reshape
        if position is None:
            return value
        return value[position] if isinstance(value, (list, tuple)) and position < len(value) else None

    def _shape(self, graph: Graph, ref: Ref) -> tuple[int, ...]:
        return graph.meta(ref).shape


def growth(model: nn.Module, graph: Graph, example_inputs: Any) -> Growth:
    """Capture ``model`` once more with one sample more; falls back to static sizes where that does not line up."""
    args, kwargs = split_inputs(example_inputs)
    first = next((x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.dim()), None)
    if first is None:
        return Growth(graph, None)
    batch = first.shape[0]

    def grown(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x[:1]]) if x.dim() and x.shape[0] == batch else x

    larger: tuple[tuple[Any, ...], Mapping[str, Any]] = pytree.tree_map_only(torch.Tensor, grown, (args, kwargs))
    try:
        other = capture(model, larger[0] or dict(larger[1]), method="record" if "fake" in graph.how else "run")
    except PrunusError:
        return Growth(graph, None)
    return Growth(graph, other if _aligned(graph, other) else None)


def _aligned(a: Graph, b: Graph) -> bool:
    if len(a.nodes) != len(b.nodes) or len(a.calls) != len(b.calls):
        return False
    return all(x.name == y.name and x.op == y.op for x, y in zip(a.nodes, b.nodes, strict=True))
