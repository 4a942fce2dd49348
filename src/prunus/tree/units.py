"""Names of the units of a layer: channels, neurons, heads, head width, features, hidden units, inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prunus.foundation.registry import words
from prunus.graph.coupling import Coupling
from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref, refs_in
from prunus.graph.layout import Expr, atoms_of
from prunus.graph.rules.context import base_name

_NAMES = {
    op: name
    for name, ops in (
        ("neurons", "linear addmm matmul mm bilinear"),
        ("features", "embedding embedding_bag layer_norm rms_norm"),
        ("hidden", "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"),
        ("channels", "batch_norm group_norm instance_norm prelu"),
    )
    for op in words(ops)
}
# Ops whose weight has the outputs in its second dim.
_OUTPUTS_SECOND = ("embedding", "embedding_bag", "addmm", "mm", "matmul")


@dataclass(frozen=True, slots=True)
class Reader:
    """The first reading of a tensor: the op and the argument."""

    op: str
    argument: str


@dataclass(frozen=True, slots=True)
class UnitNames:
    """The first reader of each tensor, and the axes that count heads or head widths."""

    coupling: Coupling
    readers: Mapping[str, Reader]
    heads: frozenset[str]
    head_widths: frozenset[str]

    @staticmethod
    def of(coupling: Coupling) -> UnitNames:
        """Collect readers and head axes in one pass over a graph."""
        graph = coupling.graph
        readers: dict[str, Reader] = {}
        heads: set[str] = set()
        widths: set[str] = set()
        for node in graph.nodes:
            if node.op in (INPUT, TENSOR):
                continue
            name = base_name(node.op)
            for argument, value in node.args.items():
                for ref in refs_in(value):
                    source = graph.node(ref.node)
                    if source.op == TENSOR:
                        readers.setdefault(source.tensor, Reader(name, argument))
            for ref in _attended(graph, node, name):
                dims = coupling.values.get(ref, ())
                # Of three dims the first holds batch × heads, as in bmm.
                head_axes = _axes_of(coupling, dims[-3]) if len(dims) >= 3 else set()
                heads |= head_axes
                widths |= _axes_of(coupling, dims[-1]) if head_axes else set()
        return UnitNames(coupling, readers, frozenset(heads), frozenset(widths - heads))

    def of_axis(self, axis: str, tensors: Mapping[str, tuple[int, ...]]) -> str:
        """Return the name of an axis in a layer with these parameters; ``inputs`` where the layer only reads it."""
        for member in self.coupling.axis(axis).members:
            if member.tensor in tensors and self.writes(member.tensor, member.dim, tensors[member.tensor]):
                if axis in self.heads:
                    return "heads"
                if axis in self.head_widths:
                    return "head_width"
                return self._named(member.tensor)
        return "inputs"

    def writes(self, tensor: str, dim: int, shape: tuple[int, ...]) -> bool:
        """Tell whether a dim of a tensor is the output dim of the op that reads it."""
        if len(shape) == 1:
            return True
        reader = self.readers.get(tensor, Reader("", ""))
        if reader.op.startswith("conv_transpose") or reader.op in _OUTPUTS_SECOND:
            return dim == 1
        # A token or a table of positions that is added has its features last.
        return dim == (0 if reader.op in _NAMES or reader.op.startswith("conv") else len(shape) - 1)

    def _named(self, tensor: str) -> str:
        op = self.readers.get(tensor, Reader("", "")).op
        return "channels" if op.startswith("conv") else _NAMES.get(op, "features")


def _axes_of(coupling: Coupling, expr: Expr) -> set[str]:
    return {coupling.axis_of[a] for a in atoms_of(expr) if a in coupling.axis_of}


def _attended(graph: Graph, node: Node, name: str) -> list[Ref]:
    """Return the operands whose third dim from the end is the heads: of an attention op, or of its matrix products."""
    if name == "scaled_dot_product_attention":
        return [node.args["query"], node.args["key"], node.args["value"]]
    if name not in ("matmul", "bmm", "baddbmm"):
        return []
    first, second = list(refs_in(node.args))[-2:]
    # A product with a parameter is a linear layer.
    return [first] if graph.node(second.node).op != TENSOR else []
